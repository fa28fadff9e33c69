"""Nodes that load models: the bundled tiny one, and a temporal stack onto a MODEL."""

from __future__ import annotations

from .adapter import paths, tiny
from .adapter.schema import aliases, io
from .adapter.video_model import applied, apply_stack

CATEGORY = "EmuVideo"


class EmuVideoTinyModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmuVideoTinyModel",
            display_name="Load Tiny Emu Video Model",
            category=CATEGORY,
            description="The bundled tiny text-to-image model, 64 x 64 pixels: coloured shapes that move. Runs on a "
            "CPU in seconds, needs no download, and behaves like any MODEL, CLIP and VAE.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The frozen text-to-image model, without temporal layers."),
                io.Clip.Output(display_name="CLIP", tooltip="Its text encoder: 26 words, see the help page."),
                io.Vae.Output(display_name="VAE", tooltip="Its autoencoder: 8 x 8 pixels to 4 latent channels."),
            ],
            **aliases("emu video, bundled model, demo model, tiny model, text to video, t2v, checkpoint"),
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(tiny.load_model(), tiny.load_clip(), tiny.load_vae())


class EmuVideoApplyStack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmuVideoApplyStack",
            display_name="Apply Temporal Stack",
            category=CATEGORY,
            description="Turns a text-to-image MODEL into a video MODEL: attaches the temporal layers of a stack to its U-Net. "
            "LoRA, ControlNet and other patches on the MODEL go on working; the MODEL that comes in is not changed.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="A MODEL of the family that the stack was made for (SD 1.5, SD 2.1, SDXL or tiny)."
                ),
                io.Combo.Input(
                    "stack",
                    options=paths.stack_names(),
                    tooltip="A temporal stack: F makes videos, I interpolates. Also the original files of AnimateDiff, "
                    "Hotshot-XL, PIA, FancyVideo and ModelScope. Put files into models/emu_video.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Strength of the temporal layers: 1 as trained, 0 switches them off. The starting frame's channels "
                    "are not scaled.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="An ordinary MODEL whose batch is the frames of a video."),
                io.Float.Output(
                    display_name="fps", tooltip="Frames a second of the videos that the stack was trained on, for Create Video."
                ),
            ],
            **aliases(
                "animatediff, motion module, motion model, motion adapter, temporal layers, hotshot xl, pia, "
                "fancyvideo, modelscope, zeroscope, text to video, t2v, image to video, i2v"
            ),
        )

    @classmethod
    def validate_inputs(cls, stack: str | None = None) -> bool | str:
        return True if stack is None else paths.stack_trouble(stack) or True  # None: linked, known when the node runs

    @classmethod
    def fingerprint_inputs(cls, stack: str | None = None, **_: object) -> str | None:
        if stack is None:
            return None
        try:
            status = paths.stack_path(stack).stat()
        except (OSError, ValueError):
            return stack
        return f"{stack} {status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, model: io.Model.Type, stack: str, strength: float) -> io.NodeOutput:
        result = apply_stack(model, paths.stack_path(stack), strength)
        config = applied(result)
        assert config is not None
        return io.NodeOutput(result, config.clip.fps)
