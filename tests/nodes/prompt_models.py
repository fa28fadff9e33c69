"""Image models of small width with CLIP's whole vocabulary, and LoRAs for them in the forms of several trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..core import small_bases
from ..core.ldm_layout import Layout, checkpoint, text_to_ldm, unet_to_ldm, vae_to_ldm

State = dict[str, torch.Tensor]


def text_config(width: int, layers: int, act: str) -> CLIPTextConfig:
    own = small_bases.text_config(width, layers, act, projection=width).to_dict()
    words = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
    return CLIPTextConfig(**{**own, **words})


def encoders(layout: Layout) -> list[Any]:
    first = small_bases.randomised(CLIPTextModel(text_config(64, 3, "quick_gelu")), 1)
    second = CLIPTextModelWithProjection(text_config(128, 3, "gelu"))
    return [first] if layout == "sd1" else [first, small_bases.randomised(second, 3)]


def unet(layout: Layout) -> Any:
    made = small_bases.small_unet(layout)
    if layout == "sd1":
        return made
    sizes = {"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 128 + 6 * 256}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return small_bases.randomised(UNet2DConditionModel.from_config({**made.config, **sizes}), 4)


def vae(seed: int, widths: tuple[int, ...] = (32,) * 4, layers: int = 1) -> AutoencoderKL:
    count = len(widths)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return small_bases.randomised(AutoencoderKL(**blocks, block_out_channels=widths, layers_per_block=layers), seed)


def write_model(folder: Path, layout: Layout) -> tuple[Any, list[Any]]:
    """LAYOUT.safetensors, and its text encoders in transformers' names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made, texts = unet(layout), encoders(layout)
    save(checkpoint(layout, made, vae(5), texts), folder / f"{layout}.safetensors")
    for name, encoder in zip(("clip_l", "clip_g"), texts, strict=False):
        save(text_to_ldm(encoder.state_dict(), "clip"), folder / f"{layout}_{name}.safetensors")
    return made, texts


def save(state: State, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.clone().contiguous() for k, v in state.items()}, path)
    return path


def write_vaes(folder: Path, made: Any) -> dict[str, Path]:
    """One VAE in the forms in which people have it."""
    original, named = vae_to_ldm(made.state_dict(), made.config), dict(made.state_dict())
    old = {k: v for k, v in named.items()}
    for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        old = {k.replace(f".{new}.", f".{before}."): v for k, v in old.items()}
    made.save_pretrained(folder / "vae_folder")
    torch.save({"state_dict": {**original, "loss.logvar": torch.zeros(())}}, folder / "vae.ckpt")
    torch.save(named, folder / "vae_diffusers.bin")
    prefixed = {f"first_stage_model.{k}": v for k, v in original.items()}
    return {
        "original": save(original, folder / "vae.safetensors"),
        "of a checkpoint": save(prefixed, folder / "vae_of_model.safetensors"),
        "diffusers": save(named, folder / "vae_diffusers.safetensors"),
        "diffusers, earlier": save(old, folder / "vae_old.safetensors"),
        "wrapped": folder / "vae.ckpt",
        "pickled": folder / "vae_diffusers.bin",
        "folder": folder / "vae_folder",
    }


# -- LoRAs


def loras(layout: Layout, made: Any, texts: list[Any]) -> dict[str, State]:
    """By form. Each changes attentions of the U-Net and, where the form has names for them, of the text encoders."""
    linear = {k: v for k, v in modules(made).items() if ".attn" in k and v.ndim == 2}
    convs = {k: v for k, v in modules(made).items() if ("resnets" in k or "samplers" in k) and v.ndim == 4}
    everything = linear | convs | {k: v for k, v in modules(made).items() if "proj_in" in k or "emb" in k and v.ndim == 2}
    kohya = {k: f"lora_unet_{k.replace('.', '_')}" for k in everything}
    original = {k.removesuffix(".weight"): v.removesuffix(".weight") for k, v in originals(made).items()}
    blocks = {k: f"lora_unet_{original[k].replace('.', '_')}" for k in everything}
    generator = torch.Generator().manual_seed(9)
    text, text_old = State(), State()
    for number, encoder in enumerate(texts):
        inner = {k.removeprefix("text_model."): v for k, v in modules(encoder).items() if ".layers." in k}
        start = "lora_te" if layout == "sd1" else f"lora_te{number + 1}"
        text |= pairs({f"{start}_text_model_{k.replace('.', '_')}": v for k, v in inner.items()}, generator, 2.0)
        place = f"text_encoder{'_2' if number else ''}.text_model"
        some = {f"{place}.{k}": v for k, v in inner.items() if "self_attn" in k}
        text_old |= pairs(some, generator, None, ".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight")
    processors = {f"unet.{k.replace('.to_', '.processor.to_').removesuffix('.0')}": v for k, v in linear.items()}
    return {
        "kohya": pairs({kohya[k]: v for k, v in everything.items()}, generator, 1.5) | text,
        "kohya, original blocks": pairs({blocks[k]: v for k, v in everything.items()}, generator, 3.0) | text,
        "diffusers": pairs(processors, generator, None, "_lora.up.weight", "_lora.down.weight") | text_old,
        "comfyui": pairs({f"diffusion_model.{original[k]}": v for k, v in linear.items()}, generator, None, ".lora_B.weight",
                         ".lora_A.weight"),
        "simpletuner": pairs({k.replace("lora_unet_", "lycoris_"): v for k, v in named(kohya, linear).items()}, generator, 2.0),
        "tucker": tucker(named(kohya, {k: v for k, v in convs.items() if v.shape[-1] == 3}), generator),
        "loha": hadamard(named(kohya, linear | convs), generator),
        "lokr": kronecker(named(kohya, linear | convs), generator),
        "dora": dora(named(kohya, everything), generator),
        "dora by columns": dora(named(kohya, linear), generator, columns=True),
        "differences": differences(made, kohya, generator),
    }  # fmt: skip


def named(names: dict[str, str], values: State) -> State:
    return {names[k]: v for k, v in values.items()}


def modules(module: Any) -> State:
    """Weights of matrices and kernels by their modules' names."""
    found = {k.removesuffix(".weight"): v for k, v in module.state_dict().items() if k.endswith(".weight")}
    return {k: v for k, v in found.items() if v.ndim > 1 and "embedding" not in k or "time_emb" in k}


def originals(made: Any) -> dict[str, str]:
    """The original layout's name of each weight."""
    marked = {k: torch.full((), float(n)) for n, k in enumerate(made.state_dict())}
    names = list(marked)
    return {names[int(v)]: k for k, v in unet_to_ldm(marked, made.config).items()}


def normal(generator: torch.Generator, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=generator)


def pairs(
    targets: State, generator: torch.Generator, alpha: float | None, up: str = ".lora_up.weight", down: str = ".lora_down.weight"
) -> State:
    """Products of rank 2; of a convolution a kernel and one of 1 x 1."""
    state = {}
    for name, weight in targets.items():
        ones = (1,) * (weight.ndim - 2)
        state[name + up] = normal(generator, len(weight), 2, *ones, scale=0.2)
        state[name + down] = normal(generator, 2, *weight.shape[1:], scale=weight[0].numel() ** -0.5)
        if alpha is not None:
            state[f"{name}.alpha"] = torch.tensor(alpha)
    return state


def tucker(targets: State, generator: torch.Generator) -> State:
    state = {}
    for name, weight in targets.items():
        state[f"{name}.lora_up.weight"] = normal(generator, len(weight), 3, 1, 1, scale=0.2)
        state[f"{name}.lora_mid.weight"] = normal(generator, 3, 3, 3, 3, scale=0.3)
        state[f"{name}.lora_down.weight"] = normal(generator, 3, weight.shape[1], 1, 1, scale=weight.shape[1] ** -0.5)
        state[f"{name}.alpha"] = torch.tensor(1.5)
    return state


def hadamard(targets: State, generator: torch.Generator) -> State:
    """LoHa; of kernels of 3 x 3 in Tucker's form."""
    state = {}
    for name, weight in targets.items():
        out, width, kernel = len(weight), weight.shape[1], weight.shape[2:]
        core = kernel == (3, 3)
        for i in "12":
            state[f"{name}.hada_w{i}_a"] = normal(generator, *((2, out) if core else (out, 2)), scale=0.3)
            state[f"{name}.hada_w{i}_b"] = normal(generator, 2, width if core else weight[0].numel(), scale=0.3)
            if core:
                state[f"{name}.hada_t{i}"] = normal(generator, 2, 2, *kernel)
        state[f"{name}.alpha"] = torch.tensor(1.0)
    return state


def kronecker(targets: State, generator: torch.Generator) -> State:
    """LoKr: whole, or with a product on either side. (With Tucker's core ComfyUI's own fails and leaves the weight as it was.)"""
    state = {}
    for number, (name, weight) in enumerate(targets.items()):
        out, width, kernel = len(weight) // 4, weight.shape[1] // 2, weight.shape[2:]
        if number % 2:
            state[f"{name}.lokr_w1"] = normal(generator, 4, 2, scale=0.2)
        else:
            state[f"{name}.lokr_w1_a"], state[f"{name}.lokr_w1_b"] = (normal(generator, *s, scale=0.3) for s in ((4, 1), (1, 2)))
        if number % 3 or kernel:
            state[f"{name}.lokr_w2"] = normal(generator, out, width, *kernel, scale=0.1)
        else:
            state[f"{name}.lokr_w2_a"] = normal(generator, out, 2)
            state[f"{name}.lokr_w2_b"] = normal(generator, 2, width, scale=0.1)
        state[f"{name}.alpha"] = torch.tensor(1.0)
    return state


def dora(targets: State, generator: torch.Generator, columns: bool = False) -> State:
    state = pairs(targets, generator, 1.0)
    for name, weight in targets.items():
        axes = [d for d in range(weight.ndim) if d != (1 if columns else 0)]
        lengths = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
        state[f"{name}.dora_scale"] = lengths * (1 + normal(generator, *lengths.shape, scale=0.1))
    return state


def differences(made: Any, kohya: dict[str, str], generator: torch.Generator) -> State:
    """Whole weights and biases, and norms, as LyCORIS's "full" and its trained norms have them."""
    state, whole = {}, made.state_dict()
    for name in [k for k in kohya if "to_out.0" in k or "conv1" in k]:
        for end, role in (("weight", "diff"), ("bias", "diff_b")):
            value = whole[f"{name}.{end}"]
            state[f"{kohya[name]}.{role}"] = normal(generator, *value.shape, scale=0.05)
    for name in [k.removesuffix(".weight") for k in whole if k.endswith("norm2.weight")]:
        module = f"lora_unet_{name.replace('.', '_')}"
        for end, role in (("weight", "w_norm"), ("bias", "b_norm")):
            state[f"{module}.{role}"] = normal(generator, *whole[f"{name}.{end}"].shape, scale=0.1)
    return state
