"""The node that raises the frame rate with a stack of role I."""

from __future__ import annotations

from typing import Any

import torch

from ..emu_core.model.conditioning import FACTOR, Window, augment, slot_count, slots, windows
from .adapter.given import Given, with_given
from .adapter.pixels import decode, encode, latent_size, prepare
from .adapter.sampling import VideoGuider, run_guider, stop_if_cancelled, trailing_sigmas
from .adapter.schema import RARE, aliases, io
from .adapter.shown import say
from .adapter.video_model import require_stack
from .loaders import CATEGORY
from .sampling import guidance_inputs, sampler_inputs, seed_input, taken


class EmuVideoInterpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmuVideoInterpolate",
            display_name="Emu Video Interpolation",
            category=CATEGORY,
            description="Step 3 of Emu Video: new frames between and around the given ones, at four times the rate. "
            "n frames become 4 (n + 1) + 1; frame k, counted from 0, is at 4 (k + 1).",
            inputs=[
                io.Model.Input("model", tooltip="A MODEL from Apply Temporal Stack with a stack of role I."),
                io.Conditioning.Input("positive", tooltip="The prompt that the video was made with."),
                io.Conditioning.Input("negative", tooltip="The empty prompt."),
                io.Vae.Input("vae", tooltip="The VAE of the text-to-image model."),
                io.Image.Input("images", tooltip="The frames of the video, at least 2."),
                seed_input(),
                *sampler_inputs(),
                *guidance_inputs(),
                io.Combo.Input(
                    "stitch",
                    options=["continuous", "paper"],
                    default="continuous",
                    tooltip="How windows of 8 frames are joined: without a gap, or as in the paper, which drops frames "
                    "at the joint.",
                    **RARE,
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    optional=True,
                    tooltip="Frames a second of the frames that come in, such as Emu Video Sampler gives; 0: as the stack was "
                    "trained.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The frames at four times the rate."),
                io.Float.Output(display_name="fps", tooltip="Frames a second of these frames, for Create Video."),
            ],
            hidden=[io.Hidden.unique_id],
            **aliases("frame interpolation, interpolate, frame rate, increase fps, smooth video, slow motion, inbetween frames"),
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        vae: io.Vae.Type,
        images: torch.Tensor,
        seed: int,
        steps: int,
        sampler_name: str,
        text_guidance: float,
        image_guidance: float,
        stitch: str,
        fps: float = 0.0,
    ) -> io.NodeOutput:
        config = require_stack(model, "I")
        size = (config.clip.frames - 1) // FACTOR - 1
        plan = windows(len(images), size, stitch)
        height, width = (side // 8 * 8 for side in images.shape[1:3])
        if not height or not width:
            raise ValueError(f"the frames should be at least 8 x 8 pixels, found {images.shape[2]} x {images.shape[1]}")
        channels, h, w = latent_size(vae, height, width)
        known = model.model.latent_format.process_in(encode(vae, prepare(images, height, width, "center crop")).float())
        rate = FACTOR * fps or config.clip.fps  # a stack I is trained at the rate of what it makes
        settings, text = taken(config, "the stack's own", steps=steps, text_guidance=text_guidance, image_guidance=image_guidance)
        say(cls, text)
        guider = VideoGuider(model, settings["image_guidance"], settings["text_guidance"])
        sigmas = trailing_sigmas(model, settings["steps"])
        result = torch.empty(sum(window.stop - window.start for window in plan), height, width, 3)
        filled = 0
        for number, window in enumerate(plan):
            stop_if_cancelled()
            given = _given(known, window, size, config, seed + number)
            _set(guider, positive, negative, given, Given(torch.zeros(0, channels, h, w), (), given.frames))
            latent = {"samples": torch.zeros(given.frames, channels, h, w)}
            frames = run_guider(guider, latent, sigmas, sampler_name, seed + number, config.sampling.shared_noise)[
                window.start : window.stop
            ]
            result[filled : filled + len(frames)] = decode(vae, frames)
            filled += len(frames)
        return io.NodeOutput(result, rate)


def _given(latents: torch.Tensor, window: Window, size: int, config: Any, seed: int) -> Given:
    """The window's keyframes in their slots, noise-augmented as the stack was trained for."""
    chosen = latents[window.keyframes][None]
    generator = torch.Generator().manual_seed((seed + 1) % 2**64)
    noise = torch.randn(chosen.shape, generator=generator)
    noisy = augment(chosen.cpu(), config.sampling.image_noise, config.schedule, noise)[0]
    return Given(noisy, tuple(slots(size)), slot_count(size), scaled=True)


def _set(guider: VideoGuider, positive: list[Any], negative: list[Any], given: Given, none: Given) -> None:
    guider.set_conditionings(with_given(positive, given), with_given(negative, given), with_given(negative, none))
