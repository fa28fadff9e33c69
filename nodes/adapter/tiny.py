"""The bundled image model as ComfyUI's own MODEL, CLIP and VAE, from the same files that diffusers reads.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38: sd, sd1_clip, model_base, latent_formats.
clip_model and supported_models_base: 0.33.0. ComfyUI's own loaders know a model by its widths, and these are too small.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.clip_model
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from tokenizers import Tokenizer

from .networks import manage
from .paths import TINY
from .video_model import RECOMMENDED, Recommended

logger = logging.getLogger(__name__)

UNKNOWN_TOKEN = 3
DTYPE = torch.float32  # of so small a model: the same numbers on every device


class TinyLatent(comfy.latent_formats.LatentFormat):
    """8 x 8 pixels each. The factors, for previews, are the model's own: a least-squares fit of pixels by latents."""

    scale_factor = 1.0

    def __init__(self) -> None:
        *self.latent_rgb_factors, self.latent_rgb_factors_bias = defaults()["latent_rgb"]
        self.latent_channels = len(self.latent_rgb_factors)


class _Times(int):
    """A width as a multiple of the first, which may be no whole number, though ComfyUI multiplies by it."""

    width: int
    first: int

    def __new__(cls, width: int, first: int) -> _Times:
        result = super().__new__(cls, width // first)
        result.width, result.first = width, first
        return result

    def __mul__(self, other: int) -> int:
        return other * self.width // self.first

    __rmul__ = __mul__


def multiples(widths: list[int]) -> list[int]:
    """Widths as ComfyUI has them: multiples of the first."""
    return [_Times(width, widths[0]) for width in widths]


class TinyConfig(comfy.supported_models_base.BASE):
    """What ComfyUI knows of a model family."""

    unet_config: dict[str, Any] = {}
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}
    latent_format = TinyLatent
    memory_usage_factor = 1.0
    sampling_settings = {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.012, "zsnr": True}
    supported_inference_dtypes = [DTYPE]

    def model_type(self, state_dict: dict[str, torch.Tensor], prefix: str = "") -> comfy.model_base.ModelType:
        """The U-Net gives v, whatever its weights are called."""
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        """It is none, though ComfyUI takes every one of more than 4 channels for one."""
        return False


def family(config: dict[str, Any]) -> TinyConfig:
    """The family with diffusers' configuration of a U-Net with attention at every resolution, in the original layout's words."""
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    picture = {"image_size": config["sample_size"], "in_channels": config["in_channels"], "out_channels": config["out_channels"]}
    blocks = {"channel_mult": multiples(widths), "num_res_blocks": [layers] * len(widths)}
    attention = {
        "transformer_depth": [1] * layers * len(widths),
        "transformer_depth_output": [1] * (layers + 1) * len(widths),
        "transformer_depth_middle": 1,
        "use_spatial_transformer": True,
        "context_dim": config["cross_attention_dim"],
    }
    result = TinyConfig({**picture, "model_channels": widths[0], **blocks, **attention, "legacy": False})
    result.set_inference_dtype(DTYPE, None)
    return result


def read(part: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and weights of one folder of the model, the weights in DTYPE."""
    folder = TINY / part
    weights = comfy.utils.load_torch_file(str(next(folder.glob("*.safetensors"))))
    return json.loads((folder / "config.json").read_text()), {name: value.to(DTYPE) for name, value in weights.items()}


def defaults() -> dict[str, Any]:
    """What the model's maker recommends, and how previews are made."""
    return json.loads((TINY / "emu_video.json").read_text())


def load_model(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The MODEL, with what its maker recommends; of the class without dynamic VRAM for who asks."""
    config, weights = read("unet")
    tiny, offload = family(config), comfy.model_management.unet_offload_device()
    model = tiny.get_model({}, "", device=offload)
    names = comfy.utils.unet_to_diffusers(tiny.unet_config)
    model.load_model_weights({names[name]: value for name, value in weights.items()}, "")
    patcher = manage(model, comfy.model_management.get_torch_device(), offload, (load_model, ()), disable_dynamic)
    recommended = defaults()
    patcher.set_attachments(RECOMMENDED, Recommended(recommended["steps"], recommended["text_guidance"]))
    return patcher


class _Words:
    """The word-level tokenizer of a tokenizer.json behind the three calls that ComfyUI makes."""

    def __init__(self, path: str) -> None:
        self.tokenizer = Tokenizer.from_file(path)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.get_vocab = self.tokenizer.get_vocab

    @classmethod
    def from_pretrained(cls, path: str) -> _Words:
        """As transformers calls it."""
        return cls(path)

    def __call__(self, text: str) -> dict[str, list[int]]:
        found = self.tokenizer.encode(text)
        unknown = [text[a:b] for token, (a, b) in zip(found.ids, found.offsets, strict=True) if token == UNKNOWN_TOKEN]
        if unknown:
            known = sorted(word for word in self.get_vocab() if not word.startswith("<"))
            words = ", ".join(f'"{word}"' for word in dict.fromkeys(unknown))
            logger.warning("the tiny model does not know %s and passes over it; it knows: %s", words, " ".join(known))
        return {"input_ids": found.ids}


def _text_model(config: dict[str, Any], dtype: Any, device: Any, operations: Any) -> comfy.clip_model.CLIPTextModel:
    """CLIP's text model with a vocabulary of its own size, which ComfyUI does not read from the settings."""
    model = comfy.clip_model.CLIPTextModel(config, dtype, device, operations)
    model.set_input_embeddings(operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device))
    return model


def load_clip(disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """The CLIP: ComfyUI's tokenizer and text encoder of SD 1.x in other sizes; without dynamic VRAM for who asks."""
    config, weights = read("text_encoder")
    length, pad = config["max_position_embeddings"], config["pad_token_id"]
    words = {"tokenizer_class": _Words, "tokenizer_path": str(TINY / "tokenizer" / "tokenizer.json"), "embedding_key": "tiny"}
    sizes = {"max_length": length, "embedding_size": config["hidden_size"], "pad_with_end": False, "pad_token": pad}
    tokenizer = partial(comfy.sd1_clip.SDTokenizer, **words, **sizes)
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": pad}
    model = {"model_class": _text_model, "textmodel_json_config": config, "return_projected_pooled": False}
    encoder = partial(comfy.sd1_clip.SDClipModel, max_length=length, special_tokens=special, **model)
    target = comfy.supported_models_base.ClipTarget(
        partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=tokenizer, name="tiny"),
        partial(comfy.sd1_clip.SD1ClipModel, clip_model=encoder, name="tiny"),
    )
    options: dict[str, Any] = {"model_options": {"dtype": DTYPE}, "parameters": sum(value.numel() for value in weights.values())}
    if disable_dynamic:  # versions that never ask for it do not take it
        options["disable_dynamic"] = True
    clip = comfy.sd.CLIP(target, embedding_directory=folder_paths.get_folder_paths("embeddings"), **options)
    state = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in weights.items()}
    projection = torch.eye(config["hidden_size"], dtype=DTYPE)  # it has none, and nothing reads what this gives
    clip.load_sd({**state, "text_projection.weight": projection})
    clip.patcher.cached_patcher_init = (_patcher, (load_clip,))
    return clip


def load_vae(disable_dynamic: bool = False) -> comfy.sd.VAE:
    """The VAE, of the class that ComfyUI chooses, whoever asks."""
    config, weights = read("vae")
    widths, latents = config["block_out_channels"], config["latent_channels"]
    picture = {"resolution": config["sample_size"], "in_channels": config["in_channels"], "out_ch": config["out_channels"]}
    blocks = {"ch": widths[0], "ch_mult": multiples(widths), "num_res_blocks": config["layers_per_block"]}
    settings = {**picture, **blocks, "attn_resolutions": [], "z_channels": latents, "double_z": True, "dropout": 0.0}
    vae = comfy.sd.VAE(weights, config={"params": {"ddconfig": settings, "embed_dim": latents}}, dtype=DTYPE)
    vae.latent_channels = latents  # which it takes from no configuration
    vae.patcher.cached_patcher_init = (_patcher, (load_vae,))
    return vae


def _patcher(load: Callable[[bool], Any], disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """That of a part made anew, as ComfyUI asks for it."""
    return load(disable_dynamic).patcher
