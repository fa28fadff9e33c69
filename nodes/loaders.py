"""Nodes that load models: the bundled tiny one, a temporal stack onto a MODEL, and a motion LoRA onto that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..emu_core.checkpoint import check_motion_lora, read_config
from ..emu_core.interop import AUTO, VARIANTS
from .adapter import paths, tiny
from .adapter.schema import RARE, Node, answer, io
from .adapter.shown import say
from .adapter.video_model import applied, apply_motion_lora, apply_stack


class EmuVideoTinyModel(Node):
    """The bundled text-to-image model: nothing in; a MODEL, a CLIP and a VAE out."""

    sought = "emu video, bundled model, demo model, tiny model, text to video, t2v, checkpoint"
    outputs = {"MODEL": io.Model, "CLIP": io.Clip, "VAE": io.Vae}

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Read the three from the pack's own folder."""
        return io.NodeOutput(tiny.load_model(), tiny.load_clip(), tiny.load_vae())


class EmuVideoApplyStack(Node):
    """A temporal stack from a file on a MODEL: that and the name of a stack in; a video MODEL out."""

    sought = (
        "animatediff, motion module, motion model, motion adapter, temporal layers, lightning, animatelcm, hotshot xl, pia, "
        "fancyvideo, modelscope, zeroscope, text to video, t2v, image to video, i2v"
    )
    inputs = [
        io.Model.Input("model"),
        lambda: io.Combo.Input("stack", options=paths.stack_names()),
        io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.01),
        io.Combo.Input("variant", options=[AUTO, *VARIANTS], default=AUTO, optional=True, **RARE),
    ]
    outputs = {"MODEL": io.Model, "fps": io.Float}
    speaks = True

    @classmethod
    def validate_inputs(cls, stack: str | None = None, variant: str | None = AUTO) -> bool | str:
        """A file that is there and is a stack, of that variant. None: linked, known when the node runs."""
        if stack is None or variant is None:
            return True
        return answer(lambda: read_config(paths.stack_path(stack), variant))

    @classmethod
    def fingerprint_inputs(cls, stack: str | None = None, **_: object) -> str | None:
        """See `_stamp`."""
        return _stamp(paths.stack_path, stack)

    @classmethod
    def execute(cls, model, stack, strength, variant=AUTO) -> io.NodeOutput:
        """ValueError when there is no such stack, it is of another variant, or it does not fit the MODEL."""
        result = apply_stack(model, paths.stack_path(stack), strength, variant)
        config = applied(result)
        if "taken for" in config.origin.source:  # what its keys do not say
            say(cls, f"{config.origin.family} {config.origin.stage} ({config.origin.source})")
        return io.NodeOutput(result, config.clip.fps)


class EmuVideoMotionLora(Node):
    """A motion LoRA on a MODEL's temporal stack: a video MODEL, a file and a strength in; a video MODEL out."""

    sought = "motion lora, animatediff lora, motiondirector, camera motion, camera movement, zoom, pan, tilt, roll"
    inputs = [
        io.Model.Input("model"),
        lambda: io.Combo.Input("lora", options=paths.motion_lora_names()),
        io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.01),
    ]
    outputs = {"MODEL": io.Model}

    @classmethod
    def validate_inputs(cls, lora: str | None = None) -> bool | str:
        """A file that is there and is a motion LoRA. None: linked, known when the node runs."""
        return True if lora is None else answer(lambda: check_motion_lora(paths.motion_lora_path(lora)))

    @classmethod
    def fingerprint_inputs(cls, lora: str | None = None, **_: object) -> str | None:
        """See `_stamp`."""
        return _stamp(paths.motion_lora_path, lora)

    @classmethod
    def execute(cls, model, lora, strength) -> io.NodeOutput:
        """ValueError when there is no such file, or it does not fit the stack on the MODEL."""
        return io.NodeOutput(apply_motion_lora(model, paths.motion_lora_path(lora), strength))


def _stamp(find: Callable[[str], Path], name: str | None) -> str | None:
    """A file's name, time and size: it is read again when one of them is another. None for a linked name."""
    if name is None:
        return None
    try:
        status = find(name).stat()
    except (OSError, ValueError):
        return name
    return f"{name} {status.st_mtime_ns} {status.st_size}"
