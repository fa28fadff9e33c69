"""The node that raises the frame rate with a stack of role I."""

from __future__ import annotations

from typing import Any

import torch

from ..emu_core.errors import UserError
from ..emu_core.media import pad
from ..emu_core.model.conditioning import FACTOR, augment, slot_count, slots, windows
from ..emu_core.model.streams import derived, stream
from ..emu_core.model.timeline import timeline_of
from .adapter.given import Given, with_given
from .adapter.pixels import decode, latent_size, pixels_per_latent
from .adapter.sampling import run_guider, stop_if_cancelled
from .adapter.schema import RARE, Node, io, links
from .adapter.video_model import require_stack
from .prompts import by_range, refuse_ranges
from .sampling import Sampling, sampling_inputs


class EmuVideoInterpolate(Node):
    """Frames -> frames at four times the rate."""

    sought = "frame interpolation, interpolate, frame rate, increase fps, smooth video, slow motion, inbetween frames"
    inputs = [
        *links(model=io.Model, positive=io.Conditioning, negative=io.Conditioning, vae=io.Vae, images=io.Image),
        *sampling_inputs("text_guidance", "image_guidance"),
        io.Combo.Input("stitch", options=["continuous", "paper"], default="continuous", **RARE),
        io.Float.Input("fps", default=0.0, min=0.0, max=1000.0, step=0.01, optional=True),
    ]
    outputs = {"IMAGE": io.Image, "fps": io.Float}
    speaks = True

    @classmethod
    def execute(cls, model, positive, negative, vae, images, stitch, fps=0.0, **how: Any) -> io.NodeOutput:
        """`images` (n, H, W, 3) -> (4 (n + 1) + 1, H, W, 3), of the same size: what the VAE needs beyond it is padded, and cut
        off again. `how` is a `Sampling`; each window has the seed after the one before it. ValueError: fewer than 2 frames, or
        too small ones. Of prompts for ranges a window has that of the keyframe in its middle."""
        config, sampling = require_stack(model, "I"), Sampling(**how)
        size = (config.clip.frames - 1) // FACTOR - 1
        plan = windows(len(images), size, stitch)
        refuse_ranges(negative=negative)
        texts, entries = by_range(positive)
        prompts = timeline_of(len(images), (), texts, fps or config.clip.fps / FACTOR)
        height, width = images.shape[1:3]
        if min(height, width) < 8:
            raise UserError(f"the frames should be at least 8 x 8 pixels, found {width} x {height}")
        padded = pad(images[..., :3], pixels_per_latent(vae))
        empty = torch.zeros(slot_count(size), *latent_size(vae, *padded.shape[1:3]))
        known = model.model.latent_format.process_in(vae.encode(padded).float())
        none = with_given(negative, Given(empty[:0], (), len(empty)))
        guider, sigmas, sampler = sampling.video_guider(cls, model, config)
        lengths = [window.stop - window.start for window in plan]
        result = torch.empty(sum(lengths), height, width, 3)
        for number, (window, place) in enumerate(zip(plan, result.split(lengths), strict=True)):
            stop_if_cancelled()
            # The keyframes in their slots, noise-augmented as the stack was trained for.
            keyframes = known[window.keyframes][None].cpu()
            noise = torch.randn(keyframes.shape, generator=stream(sampling.seed, "augmentation", number))
            noisy = augment(keyframes, config.sampling.image_noise, config.schedule, noise)[0]
            given = Given(noisy, tuple(slots(size)), len(empty), scaled=True)
            chosen = entries[prompts.span(window.first + window.given // 2).prompt]
            guider.set_conditionings(with_given(chosen, given), with_given(negative, given), none)
            shared, later = config.sampling.shared_noise, derived(sampling.seed, "sampler", number)
            seed = (sampling.seed + number) % 2**64
            part = (number, len(plan))
            latents = run_guider(guider, {"samples": empty}, sigmas, sampler, seed, shared, on_the_way=later, part=part)
            place[:] = decode(vae, latents[window.start : window.stop])[:, :height, :width]
        return io.NodeOutput(result, FACTOR * fps or config.clip.fps)  # a stack I is trained at the rate of what it makes
