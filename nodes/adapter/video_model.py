"""A temporal stack on a MODEL: an ordinary ModelPatcher comes out, and the one that came in stays as it is.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38: model_patcher and ops; context_windows to about
0.35. patcher_extension: 0.33.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrapperExecutor, WrappersMP

from ...emu_core.checkpoint import load_motion_lora, load_stack, read_config
from ...emu_core.errors import UserError
from ...emu_core.model.conditioning import keep_given
from ...emu_core.model.config import Role, StackConfig
from ...emu_core.model.layers import LayerTypes, Run
from ...emu_core.model.schedule import signal_noise
from ...emu_core.model.sites import find_sites
from ...emu_core.model.stack import Attachment, check_fit
from ...emu_core.model.windows import check_frames
from .given import CONDITION, Given, channels
from .networks import manage
from .sampling import VideoModelSampling

KEY = "emu_video"
WINDOWS = (
    "put ComfyUI's node Context Windows (Manual) on the MODEL, with dim 0 and a context_length of at most that (ComfyUI 0.8 on); "
    "with its causal_window_fix off and the rest as it is, the video is that of the command line's --window, and with its "
    "freenoise on that of --window --freenoise"
)
SAMPLING = "model_sampling"
RECOMMENDED = "emu_video_recommended"
"""The attachment of an image MODEL, and so of all that are made of it, with its `Recommended`."""
_BEFORE = "emu_video_sampling_before"
"""The model_sampling that was there before the stack's, if any."""

_OPS = comfy.ops.disable_weight_init
COMFY_LAYERS = LayerTypes(linear=_OPS.Linear, conv2d=_OPS.Conv2d, layer_norm=_OPS.LayerNorm, group_norm=_OPS.GroupNorm)
"""Layers that ComfyUI's memory management can keep elsewhere and bring in as they are used."""


@dataclass(frozen=True)
class Recommended:
    """What the maker of an image model recommends for its starting frames."""

    steps: int = 50
    text_guidance: float = 7.5
    sampler: str = "ddim"


def recommended(patcher: ModelPatcher) -> Recommended:
    """Of the image model; the paper's text guidance where nobody said otherwise."""
    return patcher.get_attachment(RECOMMENDED) or Recommended()


def applied(patcher: ModelPatcher) -> StackConfig | None:
    """The settings of the stack on this MODEL; None for a plain one."""
    return patcher.get_attachment(KEY)


def require_stack(patcher: ModelPatcher, role: Role) -> StackConfig:
    """The settings of the stack on this MODEL. ValueError when there is none, or one of another role."""
    config = applied(patcher)
    what = "video (F)" if role == "F" else "interpolation (I)"
    if config is None:
        raise UserError(f"this MODEL has no temporal stack on it: connect Apply Temporal Stack with a stack for {what}")
    if config.role != role:
        raise UserError(f"the stack on this MODEL is of role {config.role}, expected role {role}: choose a stack for {what}")
    return config


def apply_stack(patcher: ModelPatcher, path: str | Path, strength: float = 1.0, variant: str | None = None) -> ModelPatcher:
    """A clone of `patcher` with the stack of `path` on its U-Net, sampling as that stack wants it. `strength` 0..1 and beyond
    scales the temporal layers. `variant`: what the file is, where that cannot be told. ValueError when the stack does not fit,
    before its weights are read."""
    unet = getattr(patcher.model, "diffusion_model", None)
    if not (hasattr(unet, "input_blocks") and hasattr(unet, "output_blocks")):
        found = f"found {type(patcher.model).__name__} ({type(unet).__name__})"
        raise UserError(
            f"a temporal stack needs the U-Net of an SD 1.5, SD 2.1 or SDXL MODEL, {found}: load a checkpoint of the family that "
            "the stack was made for"
        )
    config = read_config(path, variant)
    try:
        check_fit(config, find_sites(unet))
    except ValueError as error:
        raise UserError(f"{Path(path).name} does not fit this MODEL: {error}") from error
    result = without_stack(patcher)
    dtype = patcher.get_model_object("manual_cast_dtype") or patcher.model.get_dtype()
    places = patcher.load_device, patcher.offload_device
    own = _stack_patcher(str(path), variant, dtype, *places, disable_dynamic=not _is_dynamic(patcher))
    attachments = Attachments()
    result.set_attachments(KEY, config)
    result.set_attachments(_BEFORE, result.object_patches.get(SAMPLING))
    result.add_object_patch(SAMPLING, VideoModelSampling(config.schedule))
    result.set_additional_models(KEY, [own])
    result.set_injections(KEY, [PatcherInjection(attachments.inject, attachments.eject)])
    result.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, _follow_device)
    result.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, VideoCall(attachments, patcher.model.latent_format, strength))
    result.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, _follow_kind)
    return result


def apply_motion_lora(patcher: ModelPatcher, path: str | Path, strength: float) -> ModelPatcher:
    """A clone of `patcher` whose stack has a motion LoRA on its weights, as patches that ComfyUI carries. ValueError for a MODEL
    without a stack and for a LoRA that does not fit it. At `strength` 0 it is checked, and changes nothing."""
    config = applied(patcher)
    if config is None:
        raise UserError(
            "this MODEL has no temporal stack on it, which a motion LoRA changes: connect Apply Temporal Stack before it"
        )
    changes = load_motion_lora(path, config)
    result = patcher.clone()
    if strength:
        weights: dict[str, torch.Tensor] = {}
        for name, change in changes.items():
            weights |= {f"{name}.lora_up.weight": change.up, f"{name}.lora_down.weight": change.down}
            if change.alpha is not None:
                weights[f"{name}.alpha"] = torch.tensor(change.alpha)
        patches = comfy.lora.load_lora(weights, {name: name for name in changes})
        for own in result.get_additional_models_with_key(KEY):
            put = own.add_patches(patches, strength)
            assert len(put) == len(changes), f"{len(put)} of {len(changes)} patches found their weights"
    return result


def _stack_patcher(
    path: str,
    variant: str | None,
    dtype: torch.dtype,
    load_device: torch.device,
    offload_device: torch.device,
    disable_dynamic: bool = False,
) -> ModelPatcher:
    """The stack's own patcher: ComfyUI loads it together with the MODEL that it is on."""
    stack = load_stack(path, COMFY_LAYERS, variant, dtype=dtype, device=offload_device)
    reload = (_stack_patcher, (path, variant, dtype, load_device, offload_device))
    return manage(stack, load_device, offload_device, reload, disable_dynamic)


def _follow_kind(patcher: ModelPatcher, clone: ModelPatcher) -> None:
    """A clone without dynamic VRAM (torch.compile and LoRA hooks want one) gets its stack without it as well."""
    if _is_dynamic(patcher) and not _is_dynamic(clone):
        own = patcher.get_additional_models_with_key(KEY)
        clone.set_additional_models(KEY, [one.get_non_dynamic_delegate() if _is_dynamic(one) else one.clone() for one in own])


def _is_dynamic(patcher: ModelPatcher) -> bool:
    return hasattr(patcher, "is_dynamic") and patcher.is_dynamic()


def _follow_device(executor: Callable[..., Any], patcher: ModelPatcher, *args: Any, **settings: Any) -> Any:
    """The stack is loaded where its MODEL is: a node may have put that elsewhere since the stack was applied."""
    for own in patcher.get_additional_models_with_key(KEY):
        own.load_device = patcher.load_device
        if hasattr(own, "register_load_device"):
            own.register_load_device(own.load_device)
    return executor(patcher, *args, **settings)


def without_stack(patcher: ModelPatcher) -> ModelPatcher:
    """A clone without its temporal stack: the image model, with every other patch that is on it."""
    result = patcher.clone()
    if applied(result) is None:
        return result
    before = result.get_attachment(_BEFORE)
    for name in (KEY, _BEFORE):
        result.remove_attachments(name)
    for kind in (WrappersMP.PREPARE_SAMPLING, WrappersMP.DIFFUSION_MODEL):
        result.remove_wrappers_with_key(kind, KEY)
    result.remove_callbacks_with_key(CallbacksMP.ON_CLONE, KEY)
    result.remove_additional_models(KEY)
    # the hooks of a loaded relative come off when this clone is loaded, by the relative's own injections
    result.remove_injections(KEY)
    result.is_injected = result.is_injected and bool(result.injections)
    if isinstance(result.object_patches.get(SAMPLING), VideoModelSampling):
        result.object_patches.pop(SAMPLING)
        if before is not None:
            result.add_object_patch(SAMPLING, before)
    return result


class Attachments:
    """The stack on each U-Net that a MODEL and its clones have. Most share one, but a clone may bring its own: for torch.compile,
    LoRA hooks, several GPUs. Each belongs to the patcher that put it on, and only that one takes it off: ComfyUI calls both
    several times in a load, and for clones that it throws away while another is sampled."""

    def __init__(self) -> None:
        self._on: dict[torch.nn.Module, tuple[Attachment, int]] = {}

    def inject(self, patcher: ModelPatcher) -> None:
        """Attach the patcher's stack to its U-Net, unless it is on already; from now on it is this patcher's."""
        unet, stack = _inner(patcher.model.diffusion_model), patcher.get_additional_models_with_key(KEY)[0].model
        attachment, _ = self._on.get(unet, (None, 0))
        if attachment is None or attachment.stack is not stack:
            if attachment is not None:
                attachment.detach()
            attachment = stack.attach(unet)
        # By id: ComfyUI also calls from a patcher's __del__, when nothing refers to it any more.
        self._on[unet] = attachment, id(patcher)

    def eject(self, patcher: ModelPatcher) -> None:
        """Detach it, if it is this patcher's."""
        unet = _inner(patcher.model.diffusion_model)
        attachment, owner = self._on.get(unet, (None, 0))
        if attachment is not None and owner == id(patcher):
            attachment.detach()
            del self._on[unet]

    def of(self, unet: torch.nn.Module) -> Attachment:
        """The one on this U-Net; RuntimeError where there is none."""
        if unet not in self._on:
            raise RuntimeError(
                "the temporal layers are not on the U-Net that is run: take out the nodes between Apply Temporal Stack and the "
                "sampler that put another model in its place, or set them before Apply Temporal Stack"
            )
        return self._on[unet][0]


def _inner(unet: torch.nn.Module) -> torch.nn.Module:
    """The U-Net itself, where a node has put torch.compile's cover of it in its place."""
    return getattr(unet, "_orig_mod", unet)


class VideoCall:
    """Around each call of the U-Net: makes it a call on whole videos, for the time of that call."""

    def __init__(self, attachments: Attachments, latent_format: Any, strength: float) -> None:
        self.attachments, self.latent_format, self.strength = attachments, latent_format, strength

    def __call__(
        self, executor: WrapperExecutor, x, timesteps, context, y=None, control=None, transformer_options=None, **others: Any
    ) -> torch.Tensor:
        """`x` (n v f, C, h, w): n conditionings, v videos, f frames, the last fastest; so is what comes out."""
        options = transformer_options or {}
        given: tuple[Given, ...] = others.pop(CONDITION, ())
        attachment = self.attachments.of(executor.class_obj)
        config = attachment.stack.config
        conditionings = len(options.get("cond_or_uncond") or (0,))
        window, anchored = _window(options.get("context_window"), len(x) // conditionings)
        cut = None
        if anchored and len(window) > (config.layers.max_frames or len(window)):
            # ComfyUI throws away what becomes of the anchor, and this stack has no position left for it.
            cut = _Cut(conditionings, len(window))
            x, timesteps, context, y, control, others = cut((x, timesteps, context, y, control, others))
            window = window[1:]
        frames = _frames(len(x) // conditionings, given, window)
        check_frames(config, frames, None, WINDOWS)
        has_image = any(one.positions for one in given)
        if has_image and not config.takes_image:
            raise UserError(
                f"the stack on this MODEL is of family {config.origin.family}, which makes videos from the text alone: take the "
                "image off the conditioning node, or choose a stack of family emu, pia or fancyvideo"
            )
        conditioning = channels(given, config, x, self.latent_format, window) if has_image else None
        values = dict(given[0].values) if given else {}
        run = Run(frames, attachment.texts(context[::frames]), conditioning, strength=self.strength, values=values)
        with attachment.run(run):
            result = executor(x, timesteps, context, y, control, transformer_options, **others)
        if conditioning is not None and config.sampling.keeps_given:
            result = keep_given(result, x, conditioning, config, *_levels(options, timesteps, config))
        return result if cut is None else cut.undo(result)


def _levels(options: Mapping[str, Any], timesteps: torch.Tensor, config: StackConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Signal and noise in what the U-Net is given, (1 or n v f, 1, 1, 1), from the sigma that ComfyUI samples at: between two
    timesteps, `timesteps` has but the nearest."""
    if (found := options.get("sigmas")) is None:
        return signal_noise(config.schedule, timesteps.long())
    sigma = found.float().reshape(-1, 1, 1, 1)[:1]
    scale = (1 + sigma.square()).rsqrt()
    return scale, sigma * scale


def _window(window: Any, batch: int) -> tuple[list[int] | None, bool]:
    """The frames that a call of `batch` frames holds, if ComfyUI gives it a window of the video, and whether the first of them is
    the window's anchor: the frame before it, which is put in front (causal_window_fix, ComfyUI 0.21 and newer)."""
    anchor = getattr(window, "causal_anchor_index", None)
    anchored = anchor is not None and anchor >= 0
    frames = [] if window is None else [*([anchor] if anchored else []), *window.index_list]
    # ComfyUI leaves the last window standing: it may be that of an earlier call.
    return (frames, anchored) if len(frames) == batch and batch else (None, False)


class _Cut:
    """Takes the first of `frames` frames out of all that a call is given for each of n conditionings, and puts a frame of zeros
    back in its place. What other nodes keep for each frame in transformer_options (GLIGEN does) is not cut."""

    def __init__(self, conditionings: int, frames: int) -> None:
        self.shape, self.batch = (conditionings, frames), conditionings * frames

    def __call__(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == self.batch:
            return value.unflatten(0, self.shape)[:, 1:].flatten(0, 1)
        if isinstance(value, dict):
            return {name: self(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self(one) for one in value)
        return value

    def undo(self, value: torch.Tensor) -> torch.Tensor:
        """Latents with the frames of zeros put in."""
        inner = value.unflatten(0, (self.shape[0], -1))
        return torch.cat([torch.zeros_like(inner[:, :1]), inner], 1).flatten(0, 1)


def _frames(batch: int, given: tuple[Given, ...], window: list[int] | None) -> int:
    """Frames of each video in a batch of latents. Without the pack's conditioning the whole batch is one video."""
    frames = given[0].frames if given else batch
    if given and window is not None and max(window) >= frames:
        raise UserError(
            f"context windows slide over one video, and the latent has a frame {max(window)}, which the conditioning's of "
            f"{frames} frames has not: use the LATENT that the conditioning node gives, with videos 1"
        )
    if window is None and batch % frames:
        raise UserError(
            f"the latent holds {batch} frames, and the conditioning is for videos of {frames}: use the LATENT that the "
            "conditioning node gives, or set its length to the number of frames of the latent"
        )
    return frames if window is None else batch
