"""Nodes that sample: the starting frame, the trailing schedule, the video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..emu_core.evaluation.candidates import MOST_CANDIDATES
from ..emu_core.model.config import SamplingConfig, StackConfig
from .adapter.given import check_given, find_given
from .adapter.pixels import decode, latent_size
from .adapter.sampling import SAMPLER_NAMES, VideoGuider, encode_text, image_guider, run_guider, trailing_sigmas
from .adapter.schema import RARE, answer, io, links, schema
from .adapter.shown import say
from .adapter.video_model import Recommended, recommended, require_stack, without_stack

SEED_MAX = 0xFFFFFFFFFFFFFFFF
CONDITIONINGS = dict.fromkeys(("positive", "image_only", "negative"), io.Conditioning)
"""What the conditioning node gives the sampler, for the evaluations X(I,p), X(I) and X(none)."""


def size_inputs() -> list[io.Input]:
    """Width and height in pixels."""
    return [io.Int.Input(name, default=512, min=8, max=8192, step=8) for name in ("width", "height")]


def sampling_inputs(*guidances: str) -> list[io.Input]:
    """Seed, steps, sampler, and guidances by name, for each node that samples; 0 steps and guidance -1 are left open."""
    return [
        io.Int.Input("seed", default=0, min=0, max=SEED_MAX, control_after_generate=True),
        io.Int.Input("steps", default=0, min=0, max=1000),
        io.Combo.Input("sampler_name", options=SAMPLER_NAMES, default="ddim"),
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
        numbers = {name: getattr(self, name) for name in ("steps", "text_guidance", "image_guidance")}
        given = {name: value for name, value in numbers.items() if value is not None}
        left = {name for name, value in given.items() if value < (1 if name == "steps" else 0)}
        values = {name: getattr(by, name) if name in left else value for name, value in given.items()}
        words = {
            name: f"{value} steps" if name == "steps" else f"{name.replace('_', ' ')} {value:g}" for name, value in values.items()
        }
        if left == given.keys():
            text = f"{', '.join(words.values())} ({whose})"
        else:
            text = ", ".join(f"{text} ({whose})" if name in left else text for name, text in words.items())
        return replace(self, **values), text

    def video_guider(self, node: type[io.ComfyNode], model: Any, config: StackConfig) -> tuple[VideoGuider, torch.Tensor]:
        """The guider of a video MODEL and its sigmas (steps + 1,), with the stack's own values for what is left open, which
        `node` shows."""
        settled, text = self.settled(config.sampling, "the stack's own")
        say(node, text)
        assert settled.image_guidance is not None
        return VideoGuider(model, settled.image_guidance, settled.text_guidance), trailing_sigmas(model, settled.steps)


def _check_prompt(prompt: str | None) -> None:
    if prompt is not None and not prompt.strip():
        raise ValueError("the prompt is empty: say what the picture should show")


class EmuVideoStartingFrame(io.ComfyNode):
    """Text -> picture, by the text-to-image model alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model and texts in, pictures out."""
        return schema(
            "EmuVideoStartingFrame",
            "starting frame, first frame, initial image, text to image, t2i, txt2img, keyframe",
            inputs=[
                *links(model=io.Model, clip=io.Clip, vae=io.Vae),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True),
                io.String.Input("negative_prompt", default="", multiline=True),
                *size_inputs(),
                *sampling_inputs("text_guidance"),
                io.Int.Input("candidates", default=1, min=1, max=MOST_CANDIDATES, optional=True, **RARE),
            ],
            outputs={"IMAGE": io.Image},
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None) -> bool | str:
        """A prompt that says something. None: linked, known when the node runs."""
        return answer(_check_prompt, prompt)

    @classmethod
    def execute(cls, model, clip, vae, prompt, negative_prompt, width, height, candidates=1, **how: Any) -> io.NodeOutput:
        """Pictures (candidates, height, width, 3), of the seed and those that follow it. `how` is a `Sampling`."""
        plain, known = without_stack(model), recommended(model)
        sampling, text = Sampling(**how).settled(known, "the paper's" if known == Recommended() else "the model's own")
        say(cls, text)
        positive, negative = (encode_text(clip, text, width, height) for text in (prompt, negative_prompt))
        guider = image_guider(plain, positive, negative, sampling.text_guidance)
        latent = {"samples": torch.zeros(1, *latent_size(vae, height, width))}
        sigmas = trailing_sigmas(plain, sampling.steps)
        # One at a time: each is to be the very picture that its seed gives alone.
        seeds = [(sampling.seed + number) % (SEED_MAX + 1) for number in range(candidates)]
        frames = [decode(vae, run_guider(guider, latent, sigmas, sampling.sampler_name, one)) for one in seeds]
        return io.NodeOutput(torch.cat(frames) if candidates > 1 else frames[0])


class EmuVideoScheduler(io.ComfyNode):
    """Trailing timesteps as SIGMAS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A MODEL in, whose schedule is used; sigmas out."""
        return schema(
            "EmuVideoScheduler",
            "zero terminal snr, zsnr, trailing timesteps, sigmas, video scheduler, sgm uniform",
            inputs=[
                io.Model.Input("model"),
                io.Int.Input("steps", default=25, min=1, max=1000),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01),
            ],
            outputs={"SIGMAS": io.Sigmas},
        )

    @classmethod
    def execute(cls, model, steps, denoise) -> io.NodeOutput:
        """Sigmas (steps + 1,), falling to 0."""
        return io.NodeOutput(trailing_sigmas(model, steps, denoise))


class EmuVideoSampler(io.ComfyNode):
    """Conditionings -> the latents of a video, with guidance by text and by image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A video MODEL and what the conditioning node gives in; its LATENT, sampled, out."""
        return schema(
            "EmuVideoSampler",
            "text to video, t2v, image to video, i2v, img2vid, video sampler, ksampler, dual cfg, image guidance",
            inputs=[
                *links(model=io.Model, **CONDITIONINGS, latent=io.Latent),
                *sampling_inputs("text_guidance", "image_guidance"),
            ],
            outputs={"LATENT": io.Latent, "fps": io.Float},
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, positive, image_only, negative, latent, **how: Any) -> io.NodeOutput:
        """`latent` holds whole videos, frames as the batch; the same comes out. `how` is a `Sampling`."""
        config, sampling = require_stack(model, "F"), Sampling(**how)
        for name, conditioning in (("positive", positive), ("image_only", image_only), ("negative", negative)):
            if find_given(conditioning) is None:
                raise ValueError(f"{name} comes from no Emu Video Conditioning node: connect that node's {name} here")
        check_given(config, find_given(positive))
        guider, sigmas = sampling.video_guider(cls, model, config)
        guider.set_conditionings(positive, image_only, negative)
        samples = run_guider(guider, latent, sigmas, sampling.sampler_name, sampling.seed, config.sampling.shared_noise)
        video = {**{k: v for k, v in latent.items() if k != "noise_mask"}, "samples": samples}
        return io.NodeOutput(video, config.clip.fps)
