"""Nodes that sample: the starting frame, the trailing schedule, the video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..emu_core.errors import UserError
from ..emu_core.evaluation.candidates import MOST_CANDIDATES
from ..emu_core.model.config import SamplingConfig, StackConfig
from .adapter.given import find_given
from .adapter.pixels import decode, latent_size
from .adapter.sampling import SAMPLER_NAMES, VideoGuider, image_guider, run_guider, trailing_sigmas
from .adapter.schema import RARE, Node, io, links
from .adapter.shown import say
from .adapter.video_model import Recommended, recommended, require_stack, without_stack
from .prompts import prompt_lines, refuse_ranges

SEED_MAX = 0xFFFFFFFFFFFFFFFF
CONDITIONINGS = dict.fromkeys(("positive", "image_only", "negative"), io.Conditioning)
"""What the conditioning node gives the sampler, for the evaluations X(I,p), X(I) and X(none)."""
SIZE = [io.Int.Input(name, default=512, min=8, max=8192, step=8) for name in ("width", "height")]
"""In pixels."""
LEAST = {"steps": 1, "text_guidance": 0, "image_guidance": 0}
"""What is below is left open."""
RECOMMENDED = "recommended"
"""Of sampler_name: left open."""


def sampling_inputs(*guidances: str) -> list[io.Input]:
    """Seed, steps, sampler, and guidances by name, for each node that samples; 0 steps, guidance -1 and the sampler that is
    recommended are left open."""
    return [
        io.Int.Input("seed", default=0, min=0, max=SEED_MAX, control_after_generate=True),
        io.Int.Input("steps", default=0, min=0, max=1000),
        io.Combo.Input("sampler_name", options=[RECOMMENDED, *SAMPLER_NAMES], default=RECOMMENDED),
        *(io.Float.Input(name, default=-1.0, min=-1.0, max=100.0, step=0.1) for name in guidances),
    ]


@dataclass(frozen=True)
class Sampling:
    """What a node got through its `sampling_inputs`. `image_guidance` is None in a node that makes one picture."""

    seed: int
    steps: int
    sampler_name: str
    text_guidance: float
    image_guidance: float | None = None

    def settled(self, by: SamplingConfig | Recommended, whose: str) -> tuple[Sampling, str]:
        """With what is left open as `by` has it, and the same as text: `20 steps, text guidance 3, image guidance 1 (the stack's
        own)`. `whose` says who recommends it."""
        given = {name: value for name in LEAST if (value := getattr(self, name)) is not None}
        left = {name: getattr(by, name) for name, value in given.items() if value < LEAST[name]}
        values = given | left
        words = {name: f"{name.replace('_', ' ')} {value:g}" for name, value in values.items()}
        words["steps"] = f"{values['steps']} steps"
        if len(left) == len(values):
            text = f"{', '.join(words.values())} ({whose})"
        else:
            text = ", ".join(f"{text} ({whose})" if name in left else text for name, text in words.items())
        sampler = by.sampler if self.sampler_name == RECOMMENDED else self.sampler_name
        if sampler not in (self.sampler_name, SamplingConfig.sampler):
            text += f"; sampler {sampler}"
        return replace(self, sampler_name=sampler, **values), text

    def video_guider(self, node: type[Node], model: Any, config: StackConfig) -> tuple[VideoGuider, torch.Tensor, str]:
        """The guider of a video MODEL, its sigmas (steps + 1,) and the sampler's name, with the stack's own values for what is
        left open, which `node` shows."""
        settled, text = self.settled(config.sampling, "the stack's own")
        say(node, text)
        guider = VideoGuider(model, settled.image_guidance, settled.text_guidance)
        return guider, trailing_sigmas(model, settled.steps), settled.sampler_name


class EmuVideoStartingFrame(Node):
    """Text -> picture, by the text-to-image model alone."""

    sought = "starting frame, first frame, initial image, text to image, t2i, txt2img, keyframe"
    inputs = [
        *links(model=io.Model, clip=io.Clip, vae=io.Vae),
        io.String.Input("prompt", multiline=True, dynamic_prompts=True),
        io.String.Input("negative_prompt", default="", multiline=True),
        *SIZE,
        *sampling_inputs("text_guidance"),
        io.Int.Input("candidates", default=1, min=1, max=MOST_CANDIDATES, optional=True, **RARE),
        io.Boolean.Input("per_line", default=False, optional=True, **RARE),
    ]
    outputs = {"IMAGE": io.Image}
    speaks = True

    @classmethod
    def validate_inputs(cls, prompt: str | None = None) -> bool | str:
        """A prompt that says something. None: linked, known when the node runs."""
        if prompt is not None and not prompt.strip():
            return "the prompt is empty: say what the picture should show"
        return True

    @classmethod
    def execute(
        cls, model, clip, vae, prompt, negative_prompt, width, height, candidates=1, per_line=False, **how
    ) -> io.NodeOutput:
        """Pictures (candidates, height, width, 3), of the seed and those that follow it; so many for each line of the prompt, if
        `per_line`. `how` is a `Sampling`."""
        plain, known = without_stack(model), recommended(model)
        sampling, text = Sampling(**how).settled(known, "the paper's" if known == Recommended() else "the model's own")
        say(cls, text)
        latent = {"samples": torch.zeros(1, *latent_size(vae, height, width))}
        sigmas = trailing_sigmas(plain, sampling.steps)
        # One at a time: each is to be the very picture that its seed gives alone.
        seeds = [(sampling.seed + number) % (SEED_MAX + 1) for number in range(candidates)]
        prompts, frames = prompt_lines(prompt) if per_line else [prompt], []
        for text in prompts:
            guider = image_guider(plain, clip, (text, negative_prompt), (width, height), sampling.text_guidance)
            for seed in seeds:
                part = (len(frames), len(prompts) * candidates)
                frames.append(decode(vae, run_guider(guider, latent, sigmas, sampling.sampler_name, seed, part=part)))
        # One stays as the VAE laid it in memory, by which what is made of it is rounded.
        return io.NodeOutput(torch.cat(frames) if len(frames) > 1 else frames[0])


class EmuVideoScheduler(Node):
    """Trailing timesteps as SIGMAS, of the schedule of a MODEL."""

    sought = "zero terminal snr, zsnr, trailing timesteps, sigmas, video scheduler, sgm uniform"
    inputs = [
        io.Model.Input("model"),
        io.Int.Input("steps", default=25, min=1, max=1000),
        io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01),
    ]
    outputs = {"SIGMAS": io.Sigmas}

    @classmethod
    def execute(cls, model, steps, denoise) -> io.NodeOutput:
        """Sigmas (steps + 1,), falling to 0."""
        return io.NodeOutput(trailing_sigmas(model, steps, denoise))


class EmuVideoSampler(Node):
    """Conditionings -> the latents of a video, with guidance by text and by image."""

    sought = "text to video, t2v, image to video, i2v, img2vid, video sampler, ksampler, dual cfg, image guidance"
    inputs = [*links(model=io.Model, **CONDITIONINGS, latent=io.Latent), *sampling_inputs("text_guidance", "image_guidance")]
    outputs = {"LATENT": io.Latent, "fps": io.Float}
    speaks = True

    @classmethod
    def execute(cls, model, positive, image_only, negative, latent, **how: Any) -> io.NodeOutput:
        """`latent` holds whole videos, frames as the batch; the same comes out. `how` is a `Sampling`."""
        config, sampling = require_stack(model, "F"), Sampling(**how)
        refuse_ranges(positive=positive, image_only=image_only, negative=negative)
        for name, conditioning in zip(CONDITIONINGS, (positive, image_only, negative), strict=True):
            if find_given(conditioning) is None:
                raise UserError(f"{name} comes from no Emu Video Conditioning node: connect that node's {name} here")
        find_given(positive).channels(config)  # refuses what the stack does not take before anything is sampled
        guider, sigmas, sampler = sampling.video_guider(cls, model, config)
        guider.set_conditionings(positive, image_only, negative)
        shared, frames = config.sampling.shared_noise, find_given(positive).frames
        samples = run_guider(guider, latent, sigmas, sampler, sampling.seed, shared, frames)
        video = {**{k: v for k, v in latent.items() if k != "noise_mask"}, "samples": samples}
        return io.NodeOutput(video, config.clip.fps)
