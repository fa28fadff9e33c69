"""Nodes that load models: the bundled tiny one, and a temporal stack onto a MODEL."""

from __future__ import annotations

from ..emu_core.checkpoint import read_config
from .adapter import paths, tiny
from .adapter.schema import Node, answer, io
from .adapter.video_model import applied, apply_stack


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
        "animatediff, motion module, motion model, motion adapter, temporal layers, hotshot xl, pia, "
        "fancyvideo, modelscope, zeroscope, text to video, t2v, image to video, i2v"
    )
    inputs = [
        io.Model.Input("model"),
        lambda: io.Combo.Input("stack", options=paths.stack_names()),
        io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.01),
    ]
    outputs = {"MODEL": io.Model, "fps": io.Float}

    @classmethod
    def validate_inputs(cls, stack: str | None = None) -> bool | str:
        """A file that is there and is a stack. None: linked, known when the node runs."""
        return True if stack is None else answer(lambda: read_config(paths.stack_path(stack)))

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
    def execute(cls, model, stack, strength) -> io.NodeOutput:
        """ValueError when there is no such stack, or it does not fit the MODEL."""
        result = apply_stack(model, paths.stack_path(stack), strength)
        return io.NodeOutput(result, applied(result).clip.fps)
