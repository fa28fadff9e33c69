"""Real models of small width in the layouts of Stable Diffusion, as folders and as single files, with the parts they were
written from."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedTokenizerFast

from emu_core.base import Base, load_base

from .helpers import DOUBLE
from .ldm_layout import Layout, checkpoint

LAYOUTS: tuple[Layout, ...] = ("sd1", "sd2", "sdxl")
SCALES: dict[Layout, float] = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
PROMPTS = ["a red circle", "", "It moves to the right!"]
SIZE = 16  # pixels; the small VAEs halve it


@dataclass
class Model:
    """The parts that a folder and a file were written from."""

    layout: Layout
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    encoders: list[Any]
    tokenizers: list[Any]
    folder: Path
    file: Path
    vocabulary: Path
    whole_encoder: Any  # sd2: with the last layer that Stable Diffusion does not use
    loaded: dict[str, Base] = field(default_factory=dict)  # shared by the tests that change nothing


def randomised(module: Any, seed: int) -> Any:
    """All weights moved, norms and biases too, so that one left out or mixed up shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return module.eval()


def write_vocabulary(folder: Path, letters: int = 256) -> None:
    """CLIP's byte-level vocabulary without merges: 256 letters, inside and at the end of a word, and two special tokens."""
    folder.mkdir(parents=True)
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(b) for b in shown] + [chr(256 + i) for i in range(letters - len(shown))]  # "!" is number 0
    words = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 8192, "pad_token": "<|endoftext|>"}  # ComfyUI's limit
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def text_config(width: int, layers: int, act: str, projection: int = 64) -> CLIPTextConfig:
    sizes = {"hidden_size": width, "intermediate_size": 96, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    words = {"vocab_size": 514, "max_position_embeddings": 24, "bos_token_id": 512, "eos_token_id": 513}
    return CLIPTextConfig(**sizes, **words, hidden_act=act, projection_dim=projection)


def small_encoders(layout: Layout) -> tuple[list[Any], Any]:
    if layout == "sd1":
        return [randomised(CLIPTextModel(text_config(64, 2, "quick_gelu")), 1)], None
    if layout == "sd2":
        whole = randomised(CLIPTextModelWithProjection(text_config(64, 3, "gelu")), 2)
        used = CLIPTextModel(text_config(64, 2, "gelu"))
        bare = {k.removeprefix("text_model."): v for k, v in whole.state_dict().items()}
        used.load_state_dict({k: bare[k.removeprefix("text_model.")] for k in used.state_dict()})
        return [used.eval()], whole
    first = randomised(CLIPTextModel(text_config(64, 2, "quick_gelu")), 1)
    return [first, randomised(CLIPTextModelWithProjection(text_config(128, 3, "gelu", projection=96)), 3)], None


def small_unet(layout: Layout) -> UNet2DConditionModel:
    """The two or three levels that tell the families apart: where attention is, how deep, and how many heads."""
    cross, plain = "CrossAttn{}Block2D", "{}Block2D"
    blocks, widths, text, heads, layers = {
        "sd1": ((cross, plain), (32, 64), 64, 8, 2),
        "sd2": ((cross, plain), (64, 128), 64, (1, 2), 1),
        "sdxl": ((plain, cross, cross), (32, 64, 128), 192, (1, 1, 2), 1),
    }[layout]
    shape: dict[str, Any] = {"block_out_channels": widths, "cross_attention_dim": text, "attention_head_dim": heads}
    shape |= {"use_linear_projection": layout != "sd1", "upcast_attention": layout == "sd2", "layers_per_block": layers}
    if layout == "sdxl":
        shape |= {"transformer_layers_per_block": (1, 1, 2), "addition_embed_type": "text_time"}
        shape |= {"addition_time_embed_dim": 16, "projection_class_embeddings_input_dim": 96 + 6 * 16}
    down, up = tuple(b.format("Down") for b in blocks), tuple(b.format("Up") for b in reversed(blocks))
    return randomised(UNet2DConditionModel(sample_size=8, down_block_types=down, up_block_types=up, **shape), 4)


def small_vae(layout: Layout) -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(32, 64), layers_per_block=1, scaling_factor=SCALES[layout])
    return randomised(vae, 5)


def write_scheduler(folder: Path, **values: Any) -> None:
    folder.mkdir(exist_ok=True)
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **values}
    (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler", **config}))


def write_folder(folder: Path, unet: Any, vae: Any, encoders: list[Any], tokenizers: list[Any]) -> None:
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    for suffix, encoder, tokenizer in zip(("", "_2"), encoders, tokenizers, strict=False):
        encoder.save_pretrained(folder / f"text_encoder{suffix}")
        tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
    write_scheduler(folder / "scheduler")


def load_anew(model: Model, kind: str, **options: Any) -> Base:
    if kind == "folder":
        return load_base(model.folder, **options)
    return load_base(model.file, tokenizer=model.vocabulary, **options)


def load(model: Model, kind: str) -> Base:
    if kind not in model.loaded:
        model.loaded[kind] = load_anew(model, kind)
    return model.loaded[kind]


def doubled(model: Model) -> Model:
    """The same parts in float64, for numbers that no kernel changes (see helpers.DOUBLE)."""
    parts = [None if part is None else copy.deepcopy(part).to(DOUBLE) for part in (model.unet, model.vae, model.whole_encoder)]
    encoders = [copy.deepcopy(encoder).to(DOUBLE) for encoder in model.encoders]
    return replace(model, unet=parts[0], vae=parts[1], whole_encoder=parts[2], encoders=encoders, loaded={})


def assert_reads(base: Base, model: Model) -> None:
    """The base, which is left in float64, gives the text states of the model's parts."""
    torch.testing.assert_close(base.to(dtype=DOUBLE).encode_text(PROMPTS).hidden, expected_text(doubled(model))[0])


def same_weights(one: Any, other: Any) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


def ids(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    return tokenizer(prompts, padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids


def output_of_layer(encoder: Any, index: int, tokens: torch.Tensor) -> torch.Tensor:
    seen: list[Any] = []
    handle = (
        getattr(encoder, "text_model", encoder)
        .encoder.layers[index]
        .register_forward_hook(lambda module, args, output: seen.append(output))
    )
    encoder(tokens)
    handle.remove()
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


@torch.no_grad()
def expected_text(model: Model) -> tuple[torch.Tensor, torch.Tensor | None]:
    if model.layout != "sdxl":
        return model.encoders[0](ids(model.tokenizers[0], PROMPTS)).last_hidden_state, None
    tokens = [ids(t, PROMPTS) for t in model.tokenizers]
    states = [output_of_layer(e, -2, t) for e, t in zip(model.encoders, tokens, strict=True)]
    return torch.cat(states, -1), model.encoders[1](tokens[1]).text_embeds


def write_models(root: Path) -> dict[Layout, Model]:
    """One of each layout under `root`, as a folder and as a file."""
    vocabulary = root / "ComfyUI" / "comfy" / "sd1_tokenizer"
    write_vocabulary(vocabulary)
    clip, open_clip = (CLIPTokenizer.from_pretrained(str(vocabulary), pad_token=p) for p in ("<|endoftext|>", "!"))
    result = {}
    for layout, tokenizers in (("sd1", [clip]), ("sd2", [open_clip]), ("sdxl", [clip, open_clip])):
        unet, vae, (encoders, whole) = small_unet(layout), small_vae(layout), small_encoders(layout)
        folder, file = root / layout, root / f"{layout}.safetensors"
        write_folder(folder, unet, vae, encoders, tokenizers)
        weights = {**checkpoint(layout, unet, vae, [whole] if whole else encoders), "alphas_cumprod": torch.ones(3)}
        save_file({k: v.contiguous() for k, v in weights.items()}, file)
        result[layout] = Model(layout, unet, vae, encoders, tokenizers, folder, file, vocabulary, whole)
    return result


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<start>", "<end>", "<unknown>", "red", "circle", "moves"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("<start> $A <end>", None, [("<start>", 1), ("<end>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unknown>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=8, **names)
