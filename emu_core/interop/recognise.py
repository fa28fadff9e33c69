"""Which family a file is of, by its keys; and what it is, if it is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType

import torch

from ..errors import UserError
from ..model.config import Family
from ..model.stack import TemporalStack
from ..weights import WeightFile
from . import animatediff, fancyvideo, hotshot_xl, modelscope, motion_lora, pia
from .layout import ORIGINAL, Plan, Shapes, is_spatial, missing_modules
from .variants import as_variant

_MODULES: dict[Family, ModuleType] = {
    "modelscope": modelscope,
    "hotshot-xl": hotshot_xl,
    "fancyvideo": fancyvideo,
    "pia": pia,
    "animatediff": animatediff,
}
_LCM_TABLE = "pos_encoder.pos_encoding"
"""How AnimateLCM's own program calls its table of positions."""
_LORA = (
    r"(^|[._])lora[._](unet|te\d?|transformer|up|down|mid|[AB]|linear_layer|embedding_[AB]|magnitude_vector)([._]|$)|"
    r"_lora\.(up|down)\.|\.(hada|lokr)_w\d|\.oft_(blocks|diag)|\.dora_scale|\.(diff(_b)?|on_input|[wb]_norm)$|^lycoris_|\.base_layer\."
)
_UNSUPPORTED = "which is not supported: take the motion module that it is for, alone"
_CAMERA = f"is CameraCtrl, a control of the camera, {_UNSUPPORTED}"
_MOTION = f"is MotionCtrl, a control of the camera, {_UNSUPPORTED}"
_LCM_IMAGE = "is AnimateLCM-I2V, whose image encoder is not supported: take AnimateLCM, or PIA for a given image"
_SAYS: tuple[tuple[str, str, str], ...] = (
    (
        r"qkv_merge|camera_encoder|pose_encoder\.|^unshuffle_conv\.|^encoder_(conv_in|down_(conv|attention)_blocks)\.",
        *(_CAMERA, _CAMERA),
    ),
    (r"\bcc_projection\.", _MOTION, _MOTION),
    (r"^img_encoder\.", _LCM_IMAGE, _LCM_IMAGE),
    (
        r"^reference_modules_(down|mid|up)\.|^motion_(down|up)\.|^(exp|emo|face)_(pre_)?proj\.|^ctrl_attn\.|^map\d+_to_\d+",
        "is a part of HelloMeme, which is not supported: of its files only that of AnimateDiff's layers can be used here",
        "",
    ),
    (
        r"^(image_proj|ip_adapter|adapter_modules)\.|\.to_[kv]_ip\.",
        "is an IP-Adapter, not a temporal stack: load it with its own nodes onto the image model, in front of the stack",
        "",
    ),
    (
        r"time_mixer\.|time_stack\.|temporal_res_block\.|temporal_transformer_blocks\.",
        "is Stable Video Diffusion, a relative or a part of one, whose temporal parts sit inside the blocks: it is not supported",
        "",
    ),
    (_LORA, "is a LoRA (a spatial adapter), not a temporal stack: load it with a LoRA loader, in front of the stack", ""),
    (r"^image_latents_(proj_in|context_embedding|temporal_encoder)\.", *2 * ("is I2VGen-XL, which is not supported",)),
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
        r"\.attn_temp\.|\.temporal_attn\.",
        "is LaVie, SEINE, Tune-A-Video or a relative, whose temporal parts sit inside the blocks: it is not supported",
        "",
    ),
    (
        r"^(first_stage_model|cond_stage_model|conditioner)\.",
        "is a whole image or video model, not a temporal stack: load it as a checkpoint, and choose a stack here",
        "",
    ),
    (
        r"^control_model\.|controlnet_cond_embedding\.|input_hint_block\.|controlnet_(down|mid)_block|^zero_convs\.|lllite"
        r"|^lora_controlnet",
        "is a ControlNet, not a temporal stack: load it with a ControlNet loader",
        f"is SparseCtrl, a ControlNet for AnimateDiff, {_UNSUPPORTED}",
    ),
    (
        r"^(adapter\.)?body\.\d+\.(in_conv|resnets|block1|skep|down_opt)\.",
        "is a T2I-Adapter, not a temporal stack: load it with a ControlNet loader",
        "",
    ),
    (
        r"^((double|joint|single|single_transformer|transformer)_blocks|blocks\.\d+\.(self_attn|cross_attn|attn1))\.",
        "is a diffusion transformer, which has no U-Net: stacks are for SD 1.5, SD 2.1 and SDXL",
        "",
    ),
    (r"_custom_diffusion\.", "is a Custom Diffusion adapter, not a temporal stack: load it onto the image model", ""),
    (r"^(encoder|decoder)\.(conv_in|mid|down|up)|^(post_)?quant_conv\.", "is a VAE, not a temporal stack: load it as a VAE", ""),
    (
        r"(^|\.)text_model\.|^transformer\.resblocks\.|^(encoder|decoder)\.block\.\d+\.|^shared\.weight$",
        "is a text encoder, not a temporal stack: load it as a CLIP",
        "",
    ),
    (r"^vision_model\.|^visual\.", "is an image encoder, not a temporal stack: load it as a CLIP Vision", ""),
    (
        r"^(emb_params|string_to_param|clip_[lg]|<.*>)(\.|$)",
        "is a textual inversion, not a temporal stack: name it in the prompt",
        "",
    ),
)
_OTHERS = [(re.compile(pattern), what, beside) for pattern, what, beside in _SAYS]
"""What stands in some of a file's names, what such a file is, and what it is beside motion modules, where they are its own; the
first that is found says it."""
_MOTION_LORA = "is a motion LoRA, not a temporal stack: load it with Load Motion LoRA, or --motion-lora, onto the stack"
_MODULE = re.compile(
    r"(motion_modules|temporal_attentions|temp_attentions|temp_convs)\.\d+\.(temporal_transformer\.)?(norm|proj_in|conv1\.0)\.weight$"
)
"""A weight that motion modules have, and no LoRA for one."""
_PREFIXES = re.compile(
    r"^(unet|model\.diffusion_model|diffusion_model|base_model|model|ema|pipe|denoising_unet|motion_adapter|motion_module|controlnet)\."
)


def bare(file: WeightFile) -> WeightFile:
    """The file without what stands in front of its names, such as "unet." or "model.diffusion_model."; tables of positions by
    one name, whichever program wrote them."""
    return file.renamed(lambda name: _bare(name).replace(_LCM_TABLE, ORIGINAL.table))


def _bare(name: str) -> str:
    while (rest := _PREFIXES.sub("", name)) != name:
        name = rest
    return name


def recognise(shapes: Shapes) -> Family | None:
    """The family that a file's keys show; None for what is no public temporal checkpoint."""
    shapes = {_bare(name): shape for name, shape in shapes.items()}
    return None if _other(shapes) is not None else _family(shapes)


def _family(shapes: Shapes) -> Family | None:
    return next((family for family, module in _MODULES.items() if module.matches(shapes)), None)


def import_plan(file: WeightFile, variant: str | None = None) -> Plan:
    """How the file becomes a stack; its `sources` are names of `bare(file)`. `variant`: see `variants`. ValueError for what is
    none, or lacks or has more weights than its family."""
    if what := _other(file.shapes):
        raise UserError(f"{file.path} {what}")
    lcm, file = any(_LCM_TABLE in name for name in file.shapes), bare(file)
    family = _family(file.shapes)
    if family is None:
        raise UserError(f"{file.path} {_trouble(file.shapes)}")
    try:
        plan: Plan = _MODULES[family].plan(file.shapes)
        _check_whole(family, plan)
        missing = _check_names(file, family, plan)
        plan.config = as_variant(plan.config, file.path, variant, has_table=not missing, lcm=lcm)
        with torch.device("meta"):
            wanted = TemporalStack(plan.config).state_dict()
        assert wanted.keys() == plan.sources.keys(), sorted(wanted.keys() ^ plan.sources.keys())[:5]
    except (ArithmeticError, AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        why = str(error)
        if why.startswith(str(file.path)):
            raise
        if not why.startswith("is "):
            shapes = f" ({why})" if isinstance(error, UserError) and why else ""
            why = f"has the keys of {family}, but no stack can be built of their shapes{shapes}: copy it again"
        raise UserError(f"{file.path} {why}") from error
    file.check_precision(f"a checkpoint of family {plan.config.origin.family}", plan.sources.values())
    _check_shapes(file, family, plan, wanted)
    return plan


def _check_whole(family: Family, plan: Plan) -> None:
    names = {site.name for site in plan.config.sites}
    always = {
        "fancyvideo": {"mid.layer.0"},
        "modelscope": {"conv_in", "mid.resnet.0", "mid.resnet.1", "mid.attention.0", "down.0.resnet.0", "down.0.attention.0"},
    }.get(family, set())
    if missing := [*missing_modules(plan.config.sites), *sorted(always - names)]:
        raise UserError(f"is half a checkpoint of family {family}, without its modules at {_few(missing)}: copy it again")


def _check_names(file: WeightFile, family: Family, plan: Plan) -> list[str]:
    """What is missing but may be: tables of positions, which some programs do not store, since they can compute them."""
    expected = set(plan.sources.values())
    tables = {theirs for ours, theirs in plan.sources.items() if ours.endswith("positions.table")}
    missing = sorted(expected - file.shapes.keys())
    # training programs store the image model as well
    extra = sorted(k for k in file.shapes.keys() - expected - {fancyvideo.MARKER} if not is_spatial(k))
    who = f"is a checkpoint of family {family}"
    if missing and set(missing) != tables:
        raise UserError(f"{who} without {len(missing)} of its weights: {_few(missing)}; copy it again")
    if extra:
        raise UserError(f"{who} with {len(extra)} weights that this family does not have: {_few(extra)}; is it newer?")
    return missing


def _check_shapes(file: WeightFile, family: Family, plan: Plan, wanted: Mapping[str, torch.Tensor]) -> None:
    for ours, theirs in plan.sources.items():
        if theirs not in file.shapes:
            continue
        value, expected = torch.empty(file.shapes[theirs], device="meta"), tuple(wanted[ours].shape)
        try:
            fits = (plan.changes[ours](value) if ours in plan.changes else value).shape == expected
        except (IndexError, RuntimeError):
            fits = False
        if not fits:
            raise UserError(
                f"{file.path}: expected {theirs} to give a weight of shape {expected}, found shape {file.shapes[theirs]}: "
                f"it is no {family} checkpoint as published, or is damaged"
            )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _other(shapes: Shapes) -> str | None:
    """What a file of another kind is; None where nothing tells."""
    names = {other for name in shapes for other in (name, _bare(name))}
    modules = any(map(_MODULE.search, names))
    for pattern, what, beside in _OTHERS:
        if (beside or not modules) and any(map(pattern.search, names)):
            lora = what.startswith("is a LoRA") and motion_lora.matches(shapes)
            # the ControlNets that have motion modules are those for AnimateDiff, whole or not
            moving = modules or any("motion_modules." in name for name in names)
            return _MOTION_LORA if lora else beside if beside and moving else what
    return None


def _trouble(shapes: Shapes) -> str:
    if not shapes:
        return "is no temporal stack: it holds no weights with names (a list of LoRA weights has none); copy the original file"
    if any(name.startswith("layers.") for name in shapes) and any(".attentions." in name or ".conv." in name for name in shapes):
        return "is no temporal stack: it has the weights of one, but not its metadata; copy the original file"
    if any(is_spatial(name) or name.startswith(("input_blocks.", "middle_block.", "output_blocks.")) for name in shapes):
        if any(map(_MODULE.search, shapes)) or any(name.startswith(("fps_embedding.", "motion_embedding.")) for name in shapes):
            return "is part of a checkpoint with motion modules, in a combination that no family here has; copy the original file"
        return "is the U-Net of an image model, not a temporal stack: load it as a diffusion model, and choose a stack here"
    return (
        "is no temporal stack: expected one of this program's, or a checkpoint of AnimateDiff, Hotshot-XL, PIA, FancyVideo or "
        f"ModelScope, found keys such as {', '.join(sorted(shapes)[:3])}; `emu-video info` says what a file is"
    )
