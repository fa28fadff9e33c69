"""A text-to-image model as one .safetensors file in the original layout (SD 1.x, SD 2.x, SDXL)."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders import single_file_utils as convert
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, PreTrainedTokenizerBase

from ..errors import UserError
from ..weights import PICKLES, WeightFile, read_header
from . import ldm_configs, vae, vocabulary
from .base import BaseInfo, TextEncoder, build, build_text_encoder
from .checks import check_structure, family_of, schedule_of
from .ldm_configs import Layout

logger = logging.getLogger(__name__)

UNET = "model.diffusion_model."
VAE = "first_stage_model."
# per layout: the prefix of each text encoder's weights
TEXT: dict[Layout, tuple[str, ...]] = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}
OTHERS = {  # part of a tensor's name -> what such a file is
    "lora_": "a LoRA",
    "lora_A": "a LoRA",
    "control_model.": "a ControlNet",
    "motion_modules.": "a motion module",
    "down_blocks.": "one part of a model in diffusers' layout, whose whole folder is needed",
    "joint_blocks.": "a transformer, not a U-Net",
    "double_blocks.": "a transformer, not a U-Net",
}


def inspect(path: Path, prediction_type: str | None) -> BaseInfo:
    """What one file is and whether it is complete; see `load.inspect_base`."""
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{path}: expected a .safetensors file, found a pickle, which can run any code: convert it, if you trust it, for"
            " example by loading it in ComfyUI and saving it with the node Save Checkpoint"
        )
    header = read_header(path)
    layout = _layout(path, header)
    try:
        configs = _configs(header, layout)
    except (KeyError, IndexError, StopIteration, ValueError) as error:
        what = "the structure of Stable Diffusion 1.x, 2.x or XL"
        raise UserError(f"{path}: expected {what}, found another ({error}): use one of those") from None
    check_structure(path, configs)
    prefixes = {"unet": UNET, "vae": VAE, **dict(zip(("text_encoder", "text_encoder_2"), TEXT[layout], strict=False))}
    sizes = {name: sum(v for k, v in header.sizes.items() if k.startswith(p)) for name, p in prefixes.items()}
    values = {"zero_snr": "ztsnr" in header.shapes, "prediction": _prediction(path, header, layout)}
    schedule = schedule_of(path, values, prediction_type)
    if layout == "sd2" and schedule.prediction == "epsilon":
        configs["unet"]["sample_size"] = 64  # SD 2.x's epsilon models are those of 512 px
    return BaseInfo(path, "single", family_of(configs["unet"]), sizes, configs, schedule)


def _layout(path: Path, header: WeightFile) -> Layout:
    """Which layout the names of the tensors follow; refuses a file that lacks a part or is something else."""
    names = list(header.shapes)
    if UNET + "input_blocks.0.0.weight" not in header.shapes:
        kind = next((what for part, what in OTHERS.items() if any(part in n for n in names)), "something else")
        shown = ", ".join(names[:3]) or "nothing"
        raise UserError(
            f"{path}: expected a whole Stable Diffusion checkpoint ({UNET}input_blocks...), found {kind}, {len(names)} tensors"
            f" such as {shown}: give the checkpoint itself"
        )
    present = [la for la, prefixes in TEXT.items() if all(any(n.startswith(p) for n in names) for p in prefixes)]
    if not present:
        refiner = any(n.startswith("conditioner.embedders.0.model.") for n in names)
        found = "SDXL's refiner, which makes no image from text alone" if refiner else "none"
        names_there = "cond_stage_model... or conditioner..."
        raise UserError(f"{path}: expected the text encoder ({names_there}), found {found}: use a full checkpoint")
    if not any(n.startswith(VAE) for n in names):
        raise UserError(f"{path}: expected the VAE ({VAE}...), found none: use a full checkpoint, with its VAE")
    return present[0]


def _shapes(header: WeightFile, prefix: str) -> dict[str, tuple[int, ...]]:
    return {k.removeprefix(prefix): s for k, s in header.shapes.items() if k.startswith(prefix)}


def _configs(header: WeightFile, layout: Layout) -> dict[str, dict[str, Any]]:
    texts = [ldm_configs.text_config(_shapes(header, prefix), layout) for prefix in TEXT[layout]]
    configs = dict(zip(("text_encoder", "text_encoder_2"), texts, strict=False))
    pooled = configs["text_encoder_2"]["projection_dim"] if layout == "sdxl" else None
    configs["unet"] = ldm_configs.unet_config(_shapes(header, UNET), layout, pooled)
    configs["vae"] = ldm_configs.vae_config(_shapes(header, VAE), layout)
    return configs


def _prediction(path: Path, header: WeightFile, layout: Layout) -> str:
    """What the U-Net predicts, as far as the file tells.

    A tensor named `v_pred` and the metadata `modelspec.prediction_type` say it outright. Else SD 1.x and SDXL predict
    epsilon, and of SD 2.x the one trained for 875000 steps (2.0 base), when the file has kept `global_step`; any other
    SD 2.x is taken for v-prediction, the rule of diffusers. SD 2.1 base then needs prediction_type="epsilon".
    """
    if "v_pred" in header.shapes:
        return "v_prediction"
    said = {"epsilon": "epsilon", "v": "v_prediction"}.get(header.metadata.get("modelspec.prediction_type", ""))
    if said is not None or layout != "sd2":
        return said or "epsilon"
    if "global_step" in header.shapes and int(header.read("global_step")["global_step"]) == 875000:
        return "epsilon"
    logger.info("%s does not say what it predicts; taken for v_prediction, as SD 2.1 768 has it", path)
    return "v_prediction"


def load_unet(info: BaseInfo, dtype: torch.dtype) -> UNet2DConditionModel:
    """The U-Net on the CPU."""
    config = info.configs["unet"]
    state = read_header(info.path).read(UNET, dtype)
    converted = convert.convert_ldm_unet_checkpoint(state, config)
    surplus = len(state) - len(converted)
    if surplus:  # such as motion modules, which the conversion would leave out without a word
        raise UserError(f"{info.path}: expected a plain text-to-image U-Net, found {surplus} tensors more: use a plain one")
    with torch.device("meta"):
        empty = UNet2DConditionModel(**config)
    return build(empty, converted, f"{info.path}, U-Net")


def load_vae(info: BaseInfo, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE on the CPU."""
    return vae.load(vae.VaeSource(info.path, info.configs["vae"], read_header(info.path), VAE), dtype)


def load_text_encoders(info: BaseInfo, dtype: torch.dtype) -> list[TextEncoder]:
    """The one or two text encoders on the CPU."""
    file, encoders = read_header(info.path), []
    for i, prefix in enumerate(TEXT[_layout(info.path, file)]):
        name = f"text_encoder_{i + 1}" if i else "text_encoder"
        state = file.read(prefix, dtype)
        config = info.configs[name]
        if prefix.endswith(".model."):  # OpenCLIP's, without the layers that the model does not use
            block, layers = prefix + "transformer.resblocks.", config["num_hidden_layers"]
            state = {k: v for k, v in state.items() if not k.startswith(block) or int(k[len(block) :].split(".")[0]) < layers}
            shape = SimpleNamespace(config=CLIPTextConfig.from_dict(config))
            state = convert.convert_open_clip_checkpoint(shape, state, prefix=prefix)
        else:
            state = {k.removeprefix(prefix): v for k, v in state.items()}
        encoders.append(build_text_encoder(config, state, i == 1, f"{info.path}, {name}"))
    return encoders


def load_tokenizers(info: BaseInfo, given: str | Path | None) -> list[PreTrainedTokenizerBase]:
    """One tokenizer per text encoder from CLIP's vocabulary: both kinds share it and differ in their padding."""
    folder = vocabulary.find_clip_tokenizer(given, info.path)
    acts = [config["hidden_act"] for name, config in info.configs.items() if name.startswith("text_encoder")]
    return [vocabulary.load_clip_vocabulary(folder, act == "gelu") for act in acts]
