"""A text-to-image model as a diffusers folder."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, PreTrainedTokenizerBase

from ..errors import UserError
from ..model.schedule import ScheduleConfig
from ..weights import PICKLES, read_header
from . import vocabulary
from .base import BaseInfo, TextEncoder, build_text_encoder, vae_dtype
from .checks import check_structure, family_of, read_json, schedule_of

FAMILIES = ("sd15", "sd21", "sdxl", "tiny")
CLASSES: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}


def inspect(path: Path, prediction_type: str | None) -> BaseInfo:
    """What a diffusers folder is and whether it is complete; see `load.inspect_base`."""
    index = path / "model_index.json"
    if not index.is_file():
        files = sorted(path.glob("*.safetensors"))
        hint = f"give {files[0]} itself" if files else "give the folder that holds it, or one .safetensors file"
        raise UserError(f"{path}: expected a diffusers folder with model_index.json, found none: {hint}")
    read_json(index)
    configs = {name: part_config(path, name, CLASSES.get(name)) for name in ("unet", "vae", "text_encoder")}
    names = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]
    if configs["unet"].get("addition_embed_type") == "text_time":  # SDXL reads two text encoders
        configs["text_encoder_2"] = part_config(path, "text_encoder_2")
        names += ["text_encoder_2", "tokenizer_2"]
    for name in names:
        if name.startswith("tokenizer") and not vocabulary.has_tokenizer(path / name):
            raise UserError(f"{path}: expected a tokenizer in {name}/ (tokenizer.json, or vocab.json + merges.txt): restore it")
    schedule = _schedule(path / "scheduler" / "scheduler_config.json", prediction_type)
    check_structure(path, configs)
    # emu_video.json beside model_index.json may name the family where the structure is no known one's
    family, file = family_of(configs["unet"]), path / "emu_video.json"
    said = read_json(file).get("family", family) if file.is_file() else family
    if said != family and (family in FAMILIES or said in ("sd15", "sd21", "sdxl")):
        raise UserError(f"{file}: expected the family {family}, as the U-Net's structure says, found {said}: correct the file")
    parts = {name: weights(path / name, "diffusion_pytorch_model" if name in CLASSES else "model") for name in configs}
    sizes = {name: sum(sum(read_header(f).sizes.values()) for f in found) for name, (found, _) in parts.items()}
    variants = {name: variant for name, (_, variant) in parts.items()}
    return BaseInfo(path, "folder", said, {n: sizes.get(n, 0) for n in names}, configs, schedule, variants)


def part_config(path: Path, name: str, cls: Any = None) -> dict[str, Any]:
    """The configuration of the part in the folder `name` of `path`, of diffusers' class `cls` (None: a text encoder), with the
    defaults of its class filled in. ValueError for another class, or none."""
    file = path / name / "config.json"
    if not file.is_file():
        parts = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir())) or "no parts"
        raise UserError(f"{path}: expected the part {name}/ with its config.json, found {parts}: use a complete model")
    config = read_json(file)
    if cls is None:
        found, right, what = config.get("model_type", "clip"), {"clip_text_model", "clip"}, "a CLIP text encoder"
    else:
        found, right, what = config.get("_class_name", cls.__name__), {cls.__name__}, cls.__name__
    if found not in right:
        raise UserError(f"{file}: expected {what}, found {found}: use a Stable Diffusion 1.x, 2.x or XL model")
    if cls is None:
        return CLIPTextConfig.from_pretrained(str(path / name), local_files_only=True).to_dict()
    return {k: p.default for k, p in signature(cls.__init__).parameters.items() if p.default is not p.empty} | config


def _schedule(file: Path, prediction_type: str | None) -> ScheduleConfig:
    if not file.is_file():
        raise UserError(f"{file.parents[1]}: expected the part scheduler/ with its {file.name}, found none: restore it")
    config = read_json(file)
    missing = [k for k in ("beta_schedule", "beta_start", "beta_end") if k not in config]
    if missing or config.get("trained_betas") is not None:
        found = f"no {', '.join(missing)}" if missing else "a table of betas"
        raise UserError(f"{file}: expected a beta schedule with its start and end, found {found}: use a Stable Diffusion model")
    values = {
        "prediction": config.get("prediction_type", "epsilon"),
        "beta_schedule": config["beta_schedule"],
        "beta_start": float(config["beta_start"]),
        "beta_end": float(config["beta_end"]),
        "zero_snr": bool(config.get("rescale_betas_zero_snr", False)),
        "steps": int(config.get("num_train_timesteps", 1000)),
    }
    return schedule_of(file, values, prediction_type)


def weights(folder: Path, stem: str) -> tuple[list[Path], str | None]:
    """The weight files of a part and their variant: None, or "fp16" where there is nothing else. ValueError without any."""
    for variant, name, index in (
        (None, f"{stem}.safetensors", f"{stem}.safetensors.index.json"),
        ("fp16", f"{stem}.fp16.safetensors", f"{stem}.safetensors.index.fp16.json"),
    ):
        if (folder / name).is_file():
            return [folder / name], variant
        if (folder / index).is_file():
            shards = [folder / s for s in sorted(set(read_json(folder / index)["weight_map"].values()))]
            for shard in shards:
                if not shard.is_file():
                    raise UserError(f"{folder}: expected {shard.name}, which {index} names, found none: download it again")
            return shards, variant
    pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
    if pickles:
        raise UserError(
            f"{folder}: expected {stem}.safetensors, found {pickles[0]}, a pickle, which can run any code when it is opened:"
            " convert the folder, if you trust it, with diffusers' DiffusionPipeline.from_pretrained(old).save_pretrained(new)"
        )
    raise UserError(f"{folder}: expected {stem}.safetensors, found no weights: download them again")


def load_unet(info: BaseInfo, dtype: torch.dtype) -> UNet2DConditionModel:
    """The U-Net on the CPU."""
    return load_part(info.path / "unet", UNet2DConditionModel, info.variants["unet"], dtype)


def load_vae(info: BaseInfo, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE on the CPU."""
    return load_part(info.path / "vae", AutoencoderKL, info.variants["vae"], vae_dtype(dtype, info.configs["vae"]))


def load_part(folder: Path, cls: Any, variant: str | None, dtype: torch.dtype) -> Any:
    """A part of diffusers' class `cls`, on the CPU. ValueError where the folder lacks a weight."""
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    part, report = cls.from_pretrained(str(folder), variant=variant, torch_dtype=dtype, **options)
    if report["missing_keys"]:  # diffusers would leave those at random values
        some = sorted(report["missing_keys"])[:3]
        raise UserError(f"{folder}: expected every weight of its config, found none for {some}: download it again")
    return part


def load_text_encoders(info: BaseInfo, dtype: torch.dtype) -> list[TextEncoder]:
    """The one or two text encoders on the CPU."""
    encoders = []
    for name in ("text_encoder", "text_encoder_2"):
        if name in info.configs:
            folder = info.path / name
            state = {k: v for file in weights(folder, "model")[0] for k, v in read_header(file).read(dtype=dtype).items()}
            encoders.append(build_text_encoder(info.configs[name], state, name == "text_encoder_2", str(folder)))
    return encoders


def load_tokenizers(info: BaseInfo, given: str | Path | None) -> list[PreTrainedTokenizerBase]:
    """The tokenizers that the folder brings; no other may be given."""
    if given is not None:
        raise UserError(f"{info.path}: expected no tokenizer=, since the folder has its own, found {given}: leave it out")
    return [vocabulary.load_tokenizer(info.path / n) for n in ("tokenizer", "tokenizer_2") if n in info.parts]
