"""The node that puts given frames into the conditioning."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..emu_core.model.conditioning import MAX_FRAMES, MOTIONS, checked_positions
from .adapter.given import Given, with_given
from .adapter.pixels import RESIZE, encode, latent_size, prepare
from .adapter.schema import RARE, aliases, io
from .loaders import CATEGORY


def parse_positions(text: str) -> list[int]:
    """`0, -1` -> [0, -1]; `0..15` -> the first 16; nothing -> []."""
    try:
        return [place for part in text.replace(";", ",").split(",") if part.strip() for place in _places(part)]
    except ValueError:
        raise ValueError(
            f"positions should be frame numbers with commas between, such as 0 or 0, -1 or 0..15, found {text!r}"
        ) from None


def _places(part: str) -> range:
    first, dots, last = part.partition("..")
    return range(int(first), int(last if dots else first) + 1)[:MAX_FRAMES]


class EmuVideoConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmuVideoConditioning",
            display_name="Emu Video Conditioning",
            category=CATEGORY,
            description="Says which frames of the video are given, and makes the empty LATENT for it. Without an image the video "
            "is made from the text alone.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt: what the video shows and how it moves."),
                io.Conditioning.Input("negative", tooltip="The empty prompt, or what should not appear."),
                io.Vae.Input("vae", tooltip="The VAE of the text-to-image model."),
                io.Int.Input("width", default=512, min=8, max=8192, step=8, tooltip="Width of the video in pixels."),
                io.Int.Input("height", default=512, min=8, max=8192, step=8, tooltip="Height of the video in pixels."),
                io.Int.Input(
                    "length", default=16, min=1, max=MAX_FRAMES, tooltip="Frames of the video. The tiny model was made for 8."
                ),
                io.Int.Input(
                    "videos",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many videos, one after the other in the LATENT.",
                    **RARE,
                ),
                io.String.Input(
                    "positions",
                    default="0",
                    tooltip="Which frame each image is, with commas between: 0 is the first, -1 the last, 0..15 the first 16.",
                ),
                io.Combo.Input(
                    "resize",
                    options=list(RESIZE),
                    default=RESIZE[0],
                    tooltip="How an image of another size is made to fit: cut to the right shape around its "
                    "centre, stretched, or refused.",
                    **RARE,
                ),
                io.Image.Input("image", optional=True, tooltip="The starting frame, or several given frames as a batch."),
                io.Combo.Input(
                    "motion",
                    options=list(MOTIONS),
                    default="moderate",
                    optional=True,
                    tooltip="For PIA: how far frames may go from the given one; loops come back after 16 frames, style is for an "
                    "image of another style than the model's. Other stacks do not read it.",
                    **RARE,
                ),
                io.Float.Input(
                    "cond_fps",
                    default=-1.0,
                    min=-1.0,
                    max=120.0,
                    step=1.0,
                    optional=True,
                    tooltip="For FancyVideo: frames a second that the model is told. -1: 25. Other stacks do not read it.",
                    **RARE,
                ),
                io.Float.Input(
                    "motion_score",
                    default=-1.0,
                    min=-1.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    tooltip="For FancyVideo: amount of motion that the model is told. -1: 3. Other stacks do not read it.",
                    **RARE,
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="Text and given frames. cond1 of DualCFGGuider."),
                io.Conditioning.Output(
                    display_name="image_only", tooltip="Given frames with the negative text. cond2 of DualCFGGuider."
                ),
                io.Conditioning.Output(display_name="negative", tooltip="The negative text without given frames."),
                io.Latent.Output(display_name="latent", tooltip="Empty latents, one for each frame."),
            ],
            **aliases(
                "image to video, i2v, img2vid, text to video, t2v, first frame, last frame, flf2v, keyframes, "
                "extend video, video extension, empty video latent, animatediff, pia, fancyvideo"
            ),
        )

    @classmethod
    def validate_inputs(cls, positions: str | None = None, length: int | None = None) -> bool | str:
        if length is not None and not 1 <= length <= MAX_FRAMES:  # ComfyUI leaves the range of an input named here to us
            return f"length should be 1 to {MAX_FRAMES} frames, found {length}"
        try:
            places = [] if positions is None else parse_positions(positions)
            if length is not None:  # None: linked, known when the node runs
                checked_positions(places, len(places), length)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        vae: io.Vae.Type,
        width: int,
        height: int,
        length: int,
        videos: int,
        positions: str,
        resize: str,
        image: torch.Tensor | None = None,
        motion: str = "moderate",
        cond_fps: float = -1.0,
        motion_score: float = -1.0,
    ) -> io.NodeOutput:
        if not 1 <= length <= MAX_FRAMES:
            raise ValueError(f"length should be 1 to {MAX_FRAMES} frames, found {length}")
        channels, h, w = latent_size(vae, height, width)
        values = tuple((name, value) for name, value in (("fps", cond_fps), ("motion_score", motion_score)) if value >= 0)
        none = Given(torch.zeros(0, channels, h, w), (), length, motion=motion, values=values)
        given = none
        if image is not None:
            places = checked_positions(parse_positions(positions), len(image), length)
            given = replace(none, latents=encode(vae, prepare(image, height, width, resize)), positions=tuple(places))
        latent = {"samples": torch.zeros(videos * length, channels, h, w)}
        return io.NodeOutput(with_given(positive, given), with_given(negative, given), with_given(negative, none), latent)
