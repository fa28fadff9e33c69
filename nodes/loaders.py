"""Nodes that load models: the bundled tiny one, and a temporal stack onto a MODEL."""

from __future__ import annotations

from ..emu_core.checkpoint import read_config
from ..emu_core.interop import VARIANTS
from .adapter import paths, tiny
from .adapter.schema import RARE, Node, answer, io
from .adapter.shown import say
from .adapter.video_model import applied, apply_stack

AUTO = "auto"


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
        return answer(lambda: read_config(paths.stack_path(stack), _said(variant)))

    @classmethod
    def fingerprint_inputs(cls, stack: str | None = None, **_: object) -> str | None:
        """The file's name, time and size: it is read again when one of them is another."""
        if stack is None:
            return None
        try:
            status = paths.stack_path(stack).stat()
        except (OSError, ValueError):
            return stack
        return f"{stack} {status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, model, stack, strength, variant=AUTO) -> io.NodeOutput:
        """ValueError when there is no such stack, it is of another variant, or it does not fit the MODEL."""
        result = apply_stack(model, paths.stack_path(stack), strength, _said(variant))
        config = applied(result)
        if config.origin.family != "emu":
            say(cls, f"{config.origin.family} {config.origin.stage} ({config.origin.source})")
        return io.NodeOutput(result, config.clip.fps)


def _said(variant: str) -> str | None:
    return None if variant == AUTO else variant
