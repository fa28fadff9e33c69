"""The bundled image model as ComfyUI's own MODEL, CLIP and VAE, from the same files that diffusers reads.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38: sd, sd1_clip, model_base, latent_formats.
clip_model and supported_models_base: 0.33.0.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
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

from .patchers import manage, reloadable
from .paths import TINY
from .video_model import Recommended, recommend

logger = logging.getLogger(__name__)

UNKNOWN_TOKEN = 3
DTYPE = torch.float32  # of so small a model: the same numbers on every device


class TinyLatent(comfy.latent_formats.LatentFormat):
    """4 channels, 8 x 8 pixels each. The factors are a least-squares fit of pixels by latents, for previews."""

    scale_factor = 1.0
    latent_rgb_factors = [
        [-0.6354, -0.4910, -0.6601],
        [-0.1870, 0.0128, 0.2030],
        [-0.0680, 0.2304, -0.0628],
        [0.0451, 0.0074, 0.0094],
    ]
    latent_rgb_factors_bias = [0.0181, 0.0087, 0.0112]


class TinyConfig(comfy.supported_models_base.BASE):
    """What ComfyUI knows of a model family."""

    unet_config: dict[str, Any] = {}
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}
    latent_format = TinyLatent
    memory_usage_factor = 1.0
    sampling_settings = {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.012, "zsnr": True}
    supported_inference_dtypes = [DTYPE]

    def model_type(self, state_dict: dict[str, torch.Tensor], prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION


def _unet_config(config: dict[str, Any]) -> dict[str, Any]:
    """diffusers' configuration in the words of the original layout, for a U-Net with attention at every resolution."""
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    return {
        "image_size": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [w // widths[0] for w in widths],
        "num_res_blocks": [layers] * len(widths),
        "transformer_depth": [1] * layers * len(widths),
        "transformer_depth_output": [1] * (layers + 1) * len(widths),
        "transformer_depth_middle": 1,
        "use_spatial_transformer": True,
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": False,
        "legacy": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


def _read(part: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    folder = TINY / part
    weights = next(folder.glob("*.safetensors"))
    return json.loads((folder / "config.json").read_text()), comfy.utils.load_torch_file(str(weights))


def load_model(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    config, weights = _read("unet")
    settings = _unet_config(config)
    names = comfy.utils.unet_to_diffusers(settings)
    family = TinyConfig(settings)
    family.set_inference_dtype(DTYPE, None)
    offload = comfy.model_management.unet_offload_device()
    model = family.get_model({}, "", device=offload)
    model.load_model_weights({names[name]: value.to(DTYPE) for name, value in weights.items()}, "")
    patcher = manage(model, comfy.model_management.get_torch_device(), offload, (load_model, ()), disable_dynamic)
    defaults = json.loads((TINY / "emu_video.json").read_text())
    recommend(patcher, Recommended(defaults["steps"], defaults["text_guidance"]))
    return patcher


class _Words:
    """The word-level tokenizer behind the three calls that ComfyUI makes."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(path))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    @classmethod
    def from_pretrained(cls, path: str, **_: Any) -> _Words:
        return cls(TINY / "tokenizer" / "tokenizer.json")

    def __call__(self, text: str) -> dict[str, list[int]]:
        found = self.tokenizer.encode(text)
        unknown = [text[a:b] for token, (a, b) in zip(found.ids, found.offsets, strict=True) if token == UNKNOWN_TOKEN]
        if unknown:
            known = sorted(word for word in self.get_vocab() if not word.startswith("<"))
            words = ", ".join(f'"{word}"' for word in dict.fromkeys(unknown))
            logger.warning("the tiny model does not know %s and passes over it; it knows: %s", words, " ".join(known))
        return {"input_ids": found.ids}

    def get_vocab(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()


class _Tokenizer(comfy.sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None, **_: Any) -> None:
        config = json.loads((TINY / "text_encoder" / "config.json").read_text())
        super().__init__(
            tokenizer_path="",
            max_length=config["max_position_embeddings"],
            pad_with_end=False,
            pad_token=config["pad_token_id"],
            embedding_directory=embedding_directory,
            embedding_size=config["hidden_size"],
            embedding_key="tiny",
            tokenizer_class=_Words,
            tokenizer_data=tokenizer_data or {},
        )


class TinyTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None, **_: Any) -> None:
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=_Tokenizer, name="tiny")


class _TextModel(comfy.clip_model.CLIPTextModel):
    """CLIP's text model with a vocabulary of its own size, which older versions of ComfyUI do not read from the settings."""

    def __init__(self, config_dict: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config_dict, dtype, device, operations)
        rows, width = config_dict["vocab_size"], config_dict["hidden_size"]
        self.set_input_embeddings(operations.Embedding(rows, width, dtype=dtype, device=device))


class _TextEncoder(comfy.sd1_clip.SDClipModel):
    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None, **_: Any) -> None:
        config = json.loads((TINY / "text_encoder" / "config.json").read_text())
        special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}
        super().__init__(
            device=device,
            max_length=config["max_position_embeddings"],
            dtype=dtype,
            textmodel_json_config=config,
            model_class=_TextModel,
            special_tokens=special,
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class TinyTextModel(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None, **_: Any) -> None:
        super().__init__(device, dtype, model_options or {}, name="tiny", clip_model=_TextEncoder)


def load_clip(disable_dynamic: bool = False) -> comfy.sd.CLIP:
    _, weights = _read("text_encoder")
    target = comfy.supported_models_base.ClipTarget(TinyTokenizer, TinyTextModel)
    parameters = sum(value.numel() for value in weights.values())
    directories = folder_paths.get_folder_paths("embeddings")
    plain = {"disable_dynamic": True} if disable_dynamic else {}  # versions that never ask for it do not take it
    clip = comfy.sd.CLIP(target, embedding_directory=directories, parameters=parameters, model_options={"dtype": DTYPE}, **plain)
    state = {f"text_model.{name.removeprefix('text_model.')}": value.to(DTYPE) for name, value in weights.items()}
    width = state["text_model.final_layer_norm.weight"].shape[0]
    state["text_projection.weight"] = torch.eye(width, dtype=DTYPE)  # the model has none, and nothing reads what it gives
    clip.load_sd(state)
    reloadable(clip.patcher, (_clip_patcher, ()))
    return clip


def _clip_patcher(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return load_clip(disable_dynamic).patcher


def load_vae() -> comfy.sd.VAE:
    config, weights = _read("vae")
    widths = config["block_out_channels"]
    settings = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": widths[0],
        "ch_mult": [w // widths[0] for w in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    state = {name: value.to(DTYPE) for name, value in weights.items()}
    vae = comfy.sd.VAE(sd=state, config={"params": {"ddconfig": settings, "embed_dim": config["latent_channels"]}}, dtype=DTYPE)
    reloadable(vae.patcher, (_vae_patcher, ()))
    return vae


def _vae_patcher(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """`disable_dynamic` is for those who ask; a VAE decides by itself."""
    return load_vae().patcher
