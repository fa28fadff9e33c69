"""Which family a file is of, by its keys; and what it is, if it is none."""

from __future__ import annotations

import re
from types import ModuleType

import torch

from ..model.config import Family
from ..model.stack import TemporalStack
from ..weights import WeightFile
from . import animatediff, fancyvideo, hotshot_xl, modelscope, motion_lora, pia
from .layout import Plan, Shapes, is_spatial, missing_modules
from .variants import as_variant

_MODULES: dict[Family, ModuleType] = {
    "modelscope": modelscope,
    "hotshot-xl": hotshot_xl,
    "fancyvideo": fancyvideo,
    "pia": pia,
    "animatediff": animatediff,
}
_LORA = (
    r"(^|[._])lora[._](unet|te\d?|transformer|up|down|mid|[AB]|linear_layer|embedding_[AB]|magnitude_vector)([._]|$)|"
    r"_lora\.(up|down)\.|\.(hada|lokr)_w\d|\.oft_(blocks|diag)|\.dora_scale|\.diff(_b)?$"
)
_UNSUPPORTED = "which is not supported: take the motion module that it is for, alone"
_SAYS: tuple[tuple[str, str, str], ...] = (
    (r"qkv_merge|camera_encoder|pose_encoder\.", f"is CameraCtrl, a control of the camera for AnimateDiff, {_UNSUPPORTED}", ""),
    (r"\bcc_projection\.", f"is MotionCtrl, a control of the camera for AnimateDiff, {_UNSUPPORTED}", ""),
    (r"^img_encoder\.", "is AnimateLCM-I2V, whose image encoder is not supported: take AnimateLCM, or PIA for a given image", ""),
    (
        r"^reference_modules_(down|mid|up)\.|^motion_(down|up)\.|^(exp|emo|face)_(pre_)?proj\.|^ctrl_attn\.|^map\d+_to_\d+",
        "is a part of HelloMeme, which is not supported: of its files only that of AnimateDiff's layers can be used here",
        "",
    ),
    (
        _LORA,
        "is a LoRA (a spatial adapter), not a temporal stack: load it with a LoRA loader, in front of the stack",
        "is a motion LoRA, not a temporal stack: load it with Load Motion LoRA, or --motion-lora, onto the stack",
    ),
    (
        r"^image_proj\.|^ip_adapter\.|\.to_[kv]_ip\.",
        "is an IP-Adapter, not a temporal stack: load it with its own nodes onto the image model, in front of the stack",
        "",
    ),
    (
        r"time_mixer\.|time_stack\.|temporal_res_block\.|temporal_transformer_blocks\.",
        "is Stable Video Diffusion or a relative, whose temporal parts sit inside the blocks: it is not supported",
        "",
    ),
    (r"^image_latents_(proj_in|context_embedding|temporal_encoder)\.", "is I2VGen-XL, which is not supported", ""),
    (
        r"^model\.diffusion_model\..*(temopral_conv|temporal_conv)|^image_proj_model\.",
        "is VideoCrafter, DynamiCrafter or a relative, a whole video model, which is not supported",
        "",
    ),
    (
        r"(temopral_conv|temporal_conv)\.",
        "is ModelScope's model in its original layout: take diffusers' file, unet/diffusion_pytorch_model.safetensors",
        "",
    ),
    (
        r"^(first_stage_model|cond_stage_model|conditioner)\.",
        "is a whole image or video model, not a temporal stack: load it as a checkpoint, and choose a stack here",
        "",
    ),
    (
        r"^control_model\.|controlnet_cond_embedding\.|input_hint_block\.|controlnet_(down|mid)_block",
        "is a ControlNet, not a temporal stack: load it with a ControlNet loader",
        f"is SparseCtrl, a ControlNet for AnimateDiff, {_UNSUPPORTED}",
    ),
    (
        r"^(double_blocks|joint_blocks|single_blocks|blocks|transformer_blocks)\.\d+\.",
        "is a diffusion transformer, which has no U-Net: stacks are for SD 1.5, SD 2.1 and SDXL",
        "",
    ),
    (r"^(encoder|decoder)\.(conv_in|mid|down|up)|^(post_)?quant_conv\.", "is a VAE, not a temporal stack: load it as a VAE", ""),
    (r"(^|\.)text_model\.|^transformer\.resblocks\.", "is a text encoder, not a temporal stack: load it as a CLIP", ""),
    (r"^(emb_params|string_to_param|clip_[lg])(\.|$)", "is a textual inversion, not a temporal stack: name it in the prompt", ""),
)
_OTHERS = [(re.compile(pattern), what, with_motion) for pattern, what, with_motion in _SAYS]
"""What stands in some of a file's names, what such a file is, and what it is beside motion modules, if that is another thing; the
first that is found says it."""
_PREFIXES = re.compile(r"^(unet|model\.diffusion_model|diffusion_model|model|motion_adapter|motion_module|controlnet)\.")


def bare(file: WeightFile) -> WeightFile:
    """The file without what stands in front of its names, such as "unet." or "model.diffusion_model."."""
    return file.renamed(_bare)


def _bare(name: str) -> str:
    while (rest := _PREFIXES.sub("", name)) != name:
        name = rest
    return name


def recognise(shapes: Shapes) -> Family | None:
    """The family that a file's keys show; None for what is no public temporal checkpoint."""
    shapes = {_bare(name): shape for name, shape in shapes.items()}
    if _other(shapes) is not None:
        return None
    return next((family for family, module in _MODULES.items() if module.matches(shapes)), None)


def import_plan(file: WeightFile, variant: str | None = None) -> Plan:
    """How the file becomes a stack; its `sources` are names of `bare(file)`. `variant`: see `variants`. ValueError for what is
    none, or lacks or has more weights than its family."""
    if what := _other(file.shapes):
        raise ValueError(f"{file.path} {what}")
    file = bare(file)
    family = recognise(file.shapes)
    if family is None:
        raise ValueError(f"{file.path} {_trouble(file.shapes)}")
    try:
        plan: Plan = _MODULES[family].plan(file.shapes)
        _check_whole(family, plan)
        tables = {theirs for ours, theirs in plan.sources.items() if ours.endswith("positions.table")}
        plan.config = as_variant(plan.config, file.path, variant, bool(tables & file.shapes.keys()))
        with torch.device("meta"):
            wanted = TemporalStack(plan.config).state_dict()
    except (ArithmeticError, AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        why = str(error)
        if why.startswith(str(file.path)):
            raise
        if not why.startswith("is "):
            shapes = f" ({why})" if type(error) is ValueError and why else ""
            why = f"has the keys of {family}, but no stack can be built of their shapes{shapes}: copy it again"
        raise ValueError(f"{file.path} {why}") from error
    file.check_precision(f"a checkpoint of family {plan.config.origin.family}")
    _check_names(file, plan, tables)
    assert wanted.keys() == plan.sources.keys(), sorted(wanted.keys() ^ plan.sources.keys())[:5]
    for ours, theirs in plan.sources.items():
        if theirs not in file.shapes:
            continue
        value, expected = torch.empty(file.shapes[theirs], device="meta"), tuple(wanted[ours].shape)
        try:
            fits = (plan.changes[ours](value) if ours in plan.changes else value).shape == expected
        except (IndexError, RuntimeError):
            fits = False
        if not fits:
            raise ValueError(
                f"{file.path}: expected {theirs} to give a weight of shape {expected}, found shape {file.shapes[theirs]}: "
                f"it is no {family} checkpoint as published, or is damaged"
            )
    return plan


def _check_whole(family: Family, plan: Plan) -> None:
    missing = missing_modules(plan.config.sites)
    if family == "fancyvideo" and not any(site.name.startswith("mid.") for site in plan.config.sites):
        missing.append("mid.layer.0")
    if missing:
        raise ValueError(f"is half a checkpoint of family {family}, without its modules at {_few(missing)}: copy it again")


def _check_names(file: WeightFile, plan: Plan, tables: set[str]) -> None:
    expected = set(plan.sources.values())
    # some programs do not store the tables, which they can compute; training programs store the image model as well
    missing = sorted(expected - file.shapes.keys())
    extra = sorted(k for k in file.shapes.keys() - expected - {fancyvideo.MARKER} if not is_spatial(k))
    who = f"{file.path} is a checkpoint of family {plan.config.origin.family}"
    if missing and set(missing) != tables:
        raise ValueError(f"{who} without {len(missing)} of its weights: {_few(missing)}; copy it again")
    if extra:
        raise ValueError(f"{who} with {len(extra)} weights that this family does not have: {_few(extra)}; is it newer?")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _other(shapes: Shapes) -> str | None:
    """What a file of another kind is; None where nothing tells."""
    names = {other for name in shapes for other in (name, _bare(name))}
    moving = motion_lora.matches(shapes) or any("motion_modules." in name for name in names)
    for pattern, what, with_motion in _OTHERS:
        if any(map(pattern.search, names)):
            return with_motion if moving and with_motion else what
    return None


def _trouble(shapes: Shapes) -> str:
    if not shapes:
        return "is no temporal stack: it holds no weights with names; copy the original file"
    if any(name.startswith("layers.") for name in shapes) and any(".attentions." in name or ".conv." in name for name in shapes):
        return "is no temporal stack: it has the weights of one, but not its metadata; copy the original file"
    if any(is_spatial(name) or name.startswith(("input_blocks.", "middle_block.", "output_blocks.")) for name in shapes):
        return "is the U-Net of an image model, not a temporal stack: load it as a diffusion model, and choose a stack here"
    return (
        "is no temporal stack: expected one of this program's, or a checkpoint of AnimateDiff, Hotshot-XL, PIA, FancyVideo or "
        f"ModelScope, found keys such as {', '.join(sorted(shapes)[:3])}; `emu-video info` says what a file is"
    )
