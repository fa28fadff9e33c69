"""Nodes that sample: the starting frame, the trailing schedule, the video."""

from __future__ import annotations

from typing import Any

import torch

from ..emu_core.evaluation.candidates import MOST_CANDIDATES
from ..emu_core.model.config import StackConfig
from .adapter.given import check_given, find_given
from .adapter.pixels import decode, latent_size
from .adapter.sampling import SAMPLER_NAMES, VideoGuider, encode_text, image_guider, run_guider, trailing_sigmas
from .adapter.schema import RARE, aliases, io
from .adapter.shown import say
from .adapter.video_model import Recommended, recommended, require_stack, without_stack
from .loaders import CATEGORY

SEED_MAX = 0xFFFFFFFFFFFFFFFF
STEPS_TIP = "Sampling steps; 0: as many as the model's maker recommends."
SEED_TIP = "Same seed, same noise: the same as on the command line."
SAMPLER_TIP = "Any of ComfyUI's samplers. ddim and euler are the paper's."


def seed_input() -> io.Int.Input:
    return io.Int.Input("seed", default=0, min=0, max=SEED_MAX, control_after_generate=True, tooltip=SEED_TIP)


def sampler_inputs() -> list[io.Input]:
    """Steps and sampler, for each node that samples."""
    return [
        io.Int.Input("steps", default=0, min=0, max=1000, tooltip=STEPS_TIP),
        io.Combo.Input("sampler_name", options=SAMPLER_NAMES, default="ddim", tooltip=SAMPLER_TIP),
    ]


def guidance_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "text_guidance",
            default=-1.0,
            min=-1.0,
            max=100.0,
            step=0.1,
            tooltip="w_p of the paper (7.5): how much the text counts; more gives more motion. -1: as the "
            "stack's maker recommends.",
        ),
        io.Float.Input(
            "image_guidance",
            default=-1.0,
            min=-1.0,
            max=100.0,
            step=0.1,
            tooltip="w_i of the paper (2.0): how much the given frames count; more gives less motion. -1: as the stack's maker "
            "recommends.",
        ),
    ]


def taken(recommended: StackConfig | Recommended, whose: str, **given: float) -> tuple[dict[str, Any], str]:
    """What a node samples with, by name, and the same as text: `20 steps, text guidance 3, image guidance 1 (the stack's own)`.
    Of what is left open (0 steps, a negative guidance) `recommended` has the value; `whose` says who recommends it."""
    left = {name for name, value in given.items() if value < (1 if name == "steps" else 0)}
    values = {name: getattr(recommended, name) if name in left else value for name, value in given.items()}
    words = {
        name: f"{value} steps" if name == "steps" else f"{name.replace('_', ' ')} {value:g}" for name, value in values.items()
    }
    if left == given.keys():
        return values, f"{', '.join(words.values())} ({whose})"
    return values, ", ".join(f"{text} ({whose})" if name in left else text for name, text in words.items())


class EmuVideoStartingFrame(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmuVideoStartingFrame",
            display_name="Make Starting Frame",
            category=CATEGORY,
            description="Step 1 of Emu Video: a picture from the prompt, by the text-to-image model alone. A video MODEL "
            "may be given too: its temporal layers are left out.",
            inputs=[
                io.Model.Input("model", tooltip="The text-to-image MODEL, or a video MODEL made of it."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, tooltip="What the picture shows."),
                io.String.Input("negative_prompt", default="", multiline=True, tooltip="What should not appear; may stay empty."),
                io.Int.Input("width", default=512, min=8, max=8192, step=8, tooltip="Width in pixels."),
                io.Int.Input("height", default=512, min=8, max=8192, step=8, tooltip="Height in pixels."),
                seed_input(),
                *sampler_inputs(),
                io.Float.Input(
                    "text_guidance",
                    default=-1.0,
                    min=-1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How much the text counts. -1: as the model's maker recommends, else the paper's 7.5.",
                ),
                io.Int.Input(
                    "candidates",
                    default=1,
                    min=1,
                    max=MOST_CANDIDATES,
                    optional=True,
                    tooltip="How many pictures, from this seed and those that follow it, as a batch for Best Starting Frame.",
                    **RARE,
                ),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="The starting frame, or the candidates for it as a batch.")],
            hidden=[io.Hidden.unique_id],
            **aliases("starting frame, first frame, initial image, text to image, t2i, txt2img, keyframe"),
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None) -> bool | str:
        if prompt is not None and not prompt.strip():
            return "the prompt is empty: say what the picture should show"
        return True

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        clip: io.Clip.Type,
        vae: io.Vae.Type,
        prompt: str,
        negative_prompt: str,
        width: int,
        height: int,
        seed: int,
        steps: int,
        sampler_name: str,
        text_guidance: float,
        candidates: int = 1,
    ) -> io.NodeOutput:
        plain, known = without_stack(model), recommended(model)
        whose = "the paper's" if known == Recommended() else "the model's own"
        settings, text = taken(known, whose, steps=steps, text_guidance=text_guidance)
        say(cls, text)
        positive, negative = (encode_text(clip, text, width, height) for text in (prompt, negative_prompt))
        guider = image_guider(plain, positive, negative, settings["text_guidance"])
        latent = {"samples": torch.zeros(1, *latent_size(vae, height, width))}
        sigmas = trailing_sigmas(plain, settings["steps"])
        # One at a time: each is to be the very picture that its seed gives alone.
        seeds = [(seed + number) % (SEED_MAX + 1) for number in range(candidates)]
        frames = [decode(vae, run_guider(guider, latent, sigmas, sampler_name, one)) for one in seeds]
        return io.NodeOutput(torch.cat(frames) if candidates > 1 else frames[0])


class EmuVideoScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmuVideoScheduler",
            display_name="Trailing Scheduler",
            category=CATEGORY,
            description="Sigmas at evenly spaced timesteps that begin at the last one, as zero terminal SNR needs. For "
            "SamplerCustomAdvanced with any sampler.",
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that will be sampled: its own schedule is used."),
                io.Int.Input("steps", default=25, min=1, max=1000, tooltip="Sampling steps. The paper takes 250."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 starts from a less noisy step, for video to video.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="SIGMAS", tooltip="steps + 1 noise levels, falling to 0.")],
            **aliases("zero terminal snr, zsnr, trailing timesteps, sigmas, video scheduler, sgm uniform"),
        )

    @classmethod
    def execute(cls, model: io.Model.Type, steps: int, denoise: float) -> io.NodeOutput:
        return io.NodeOutput(trailing_sigmas(model, steps, denoise))


class EmuVideoSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmuVideoSampler",
            display_name="Emu Video Sampler",
            category=CATEGORY,
            description="Step 2 of Emu Video: samples a video with guidance by text and by image. The same as DualCFGGuider with "
            "SamplerCustomAdvanced and the trailing scheduler, in one node.",
            inputs=[
                io.Model.Input("model", tooltip="A video MODEL, from Apply Temporal Stack with a stack of role F."),
                io.Conditioning.Input("positive", tooltip="Text and given frames."),
                io.Conditioning.Input("image_only", tooltip="Given frames with the negative text."),
                io.Conditioning.Input("negative", tooltip="The negative text without given frames."),
                io.Latent.Input("latent", tooltip="The LATENT of the conditioning node."),
                seed_input(),
                *sampler_inputs(),
                *guidance_inputs(),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The video's frames as a batch, for VAE Decode."),
                io.Float.Output(display_name="fps", tooltip="Frames a second of the video, for Create Video."),
            ],
            hidden=[io.Hidden.unique_id],
            **aliases("text to video, t2v, image to video, i2v, img2vid, video sampler, ksampler, dual cfg, image guidance"),
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        positive: io.Conditioning.Type,
        image_only: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        latent: dict[str, Any],
        seed: int,
        steps: int,
        sampler_name: str,
        text_guidance: float,
        image_guidance: float,
    ) -> io.NodeOutput:
        config = require_stack(model, "F")
        for name, conditioning in (("positive", positive), ("image_only", image_only), ("negative", negative)):
            if find_given(conditioning) is None:
                raise ValueError(f"{name} comes from no Emu Video Conditioning node: connect that node's {name} here")
        check_given(config, find_given(positive))
        settings, text = taken(config, "the stack's own", steps=steps, text_guidance=text_guidance, image_guidance=image_guidance)
        say(cls, text)
        guider = VideoGuider(model, settings["image_guidance"], settings["text_guidance"])
        guider.set_conditionings(positive, image_only, negative)
        sigmas = trailing_sigmas(model, settings["steps"])
        samples = run_guider(guider, latent, sigmas, sampler_name, seed, config.sampling.shared_noise)
        video = {**{k: v for k, v in latent.items() if k != "noise_mask"}, "samples": samples}
        return io.NodeOutput(video, config.clip.fps)
