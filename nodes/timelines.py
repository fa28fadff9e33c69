"""Nodes that make a video of any length by several calls: extension, loops, pictures at any places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..emu_core.errors import UserError
from ..emu_core.media import pad
from ..emu_core.model.calls import asked, calls_of, image_guidance, in_order, seed_of
from ..emu_core.model.conditioning import MAX_FRAMES, checked_positions
from ..emu_core.model.config import StackConfig
from ..emu_core.model.timeline import MOST_FRAMES, timeline_of
from .adapter.given import Given, with_given
from .adapter.pixels import RESIZE, decode, latent_size, pixels_per_latent, prepare
from .adapter.sampling import run_guider, stop_if_cancelled
from .adapter.schema import RARE, Node, answer, growing, grown, io, links
from .adapter.video_model import require_stack
from .conditioning import TOLD, parse_positions, values_of
from .prompts import by_range, refuse_ranges
from .sampling import SIZE, Sampling, sampling_inputs

LINKS = links(model=io.Model, positive=io.Conditioning, negative=io.Conditioning, vae=io.Vae)
CALLS = [
    io.Float.Input("fps", default=0.0, min=0.0, max=1000.0, step=0.01, optional=True),
    io.Int.Input("past", default=0, min=0, max=MAX_FRAMES - 1, optional=True, **RARE),
    io.Int.Input("window", default=0, min=0, max=MAX_FRAMES, optional=True, **RARE),
    *TOLD,
]
"""How the calls are made; below 1, or 0, as the stack has it."""
OUTPUTS = {"IMAGE": io.Image, "fps": io.Float}


def sampled() -> list[io.Input]:
    """How each call samples."""
    return sampling_inputs("text_guidance", "image_guidance")


@dataclass(frozen=True)
class Calls:
    """What a node got through LINKS, CALLS and `sampled`: `how` is a `Sampling`, `told` are cond_fps and motion_score."""

    model: Any
    positive: list[Any]
    negative: list[Any]
    vae: Any
    how: dict[str, Any]
    told: dict[str, Any]
    fps: float
    past: int
    window: int
    motion: str

    @classmethod
    def of(
        cls, model, positive, negative, vae, fps=0.0, past=0, window=0, motion="moderate", cond_fps=-1.0, motion_score=-1.0, **how
    ) -> Calls:
        """ValueError for a MODEL without a stack that frames can be given to."""
        config = require_stack(model, "F")
        if not config.takes_image:
            raise UserError(
                f"the stack on this MODEL is of family {config.origin.family}, which takes no frames, so no video of it goes on "
                "from another: choose a stack of family emu, pia or fancyvideo"
            )
        refuse_ranges(negative=negative)
        told = {"cond_fps": cond_fps, "motion_score": motion_score}
        return cls(model, positive, negative, vae, how, told, fps or config.clip.fps, past, window, motion)

    @property
    def config(self) -> StackConfig:
        """Of the stack."""
        return require_stack(self.model, "F")

    @property
    def size(self) -> int:
        """Frames that a call sees."""
        return self.window or self.config.clip.frames

    def video(
        self,
        node: type[Node],
        length: int,
        places: Sequence[int],
        pictures: torch.Tensor,
        first: int = 0,
        count: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """Frames (length, H, W, 3) in which `pictures` (k, H, W, 3) are those at `places`, rising; of `size` where there are
        none. The prompts' ranges are of the `count` frames from `first` on."""
        texts, entries = by_range(self.positive)
        timeline = timeline_of(length, places, texts, self.fps, first, count)
        plan = calls_of(timeline, self.config, self.window or None, self.past or None)
        height, width = size or pictures.shape[1:3]
        multiple = pixels_per_latent(self.vae)
        shape = latent_size(self.vae, height + -height % multiple, width + -width % multiple)
        none = Given(torch.zeros(0, *shape), (), self.size, motion=self.motion, values=values_of(self.told))
        wanted = asked(timeline, plan)
        chosen = [pad(pictures[places.index(place)][None], multiple) for place in wanted]
        known = dict(zip(wanted, self.vae.encode(torch.cat(chosen)), strict=True)) if chosen else {}
        sampling, own = Sampling(**self.how), self.config.sampling
        image, text = (None if one < 0 else one for one in (sampling.image_guidance, sampling.text_guidance))
        guidances = [image_guidance(stretch, own, image, text) for stretch in plan]
        shown = self.config.changed(image_guidance=max(guidances, default=own.image_guidance))
        guider, sigmas, sampler = sampling.video_guider(node, self.model, shown)

        def make(number: int, latents: Sequence[torch.Tensor]) -> torch.Tensor:
            stop_if_cancelled()
            stretch, guider.image_guidance = plan[number], guidances[number]
            given = replace(none, latents=torch.stack([*latents]), positions=tuple(stretch.places)) if latents else none
            guider.set_conditionings(
                with_given(entries[stretch.prompt], given), with_given(self.negative, given), with_given(self.negative, none)
            )
            latent, seed = {"samples": torch.zeros(stretch.size, *shape)}, seed_of(sampling.seed, stretch)
            whole = run_guider(guider, latent, sigmas, sampler, seed, own.shared_noise, part=(number, len(plan)))
            return whole[[frame - stretch.first for frame in stretch.made]]

        result, at = torch.empty(length, height, width, 3), 0
        for part in in_order(
            timeline, plan, known, iter(pictures), make, lambda latents: decode(self.vae, latents)[:, :height, :width]
        ):
            result[at : at + len(part)] = part
            at += len(part)
        return result


class EmuVideoExtend(Node):
    """A video -> the same, and how it goes on."""

    sought = "extend video, video extension, longer video, continue video, long video, autoregressive, outpaint time"
    inputs = [
        *LINKS,
        io.Image.Input("images"),
        io.Int.Input("frames", default=16, min=1, max=MOST_FRAMES),
        *sampled(),
        io.Boolean.Input("backwards", default=False, optional=True, **RARE),
        *CALLS,
    ]
    outputs = OUTPUTS
    speaks = True

    @classmethod
    def execute(cls, images, frames, backwards=False, **further: Any) -> io.NodeOutput:
        """`images` (k, H, W, 3) -> (k + frames, H, W, 3), the given ones as they are. `further` makes `Calls`."""
        calls, there = Calls.of(**further), len(images)
        if calls.past > there:
            raise UserError(f"the video has {there} frames, and past {calls.past} gives a call {calls.past} of them: lower it")
        first, begin = (frames, 0) if backwards else (0, there)
        places = range(first, first + there)
        video = calls.video(cls, there + frames, places, images[..., :3].cpu().float(), begin, frames)
        return io.NodeOutput(video, calls.fps)


class EmuVideoLoop(Node):
    """A picture -> a video that begins again where it ends."""

    sought = "loop, looping video, seamless loop, cinemagraph, gif loop, boomerang"
    inputs = [
        *LINKS,
        io.Image.Input("image"),
        io.Int.Input("frames", default=0, min=0, max=MAX_FRAMES),
        *sampled(),
        *CALLS,
    ]
    outputs = OUTPUTS
    speaks = True

    @classmethod
    def execute(cls, image, frames, **further: Any) -> io.NodeOutput:
        """`image`, the first of a batch, is the first frame of (frames, H, W, 3), and what would follow the last. 0 frames: as
        many as a call can make. `further` makes `Calls`."""
        calls = Calls.of(**further)
        count = frames or calls.size - 1
        if not 2 <= count < calls.size:
            sees = f"this stack sees {calls.size} frames at a time, of which the last is the first again"
            raise UserError(f"a loop should have 2 to {calls.size - 1} frames, found {count}: {sees}; window lets it see more")
        both = image[[0, 0], ..., :3].cpu().float()
        return io.NodeOutput(calls.video(cls, count + 1, (0, count), both, 0, count)[:-1], calls.fps)


class EmuVideoKeyframes(Node):
    """Pictures at any places -> the video in which they are these frames."""

    sought = "keyframes, first frame, last frame, flf2v, inbetween, fill, storyboard, long video, text to video, t2v"
    inputs = [
        *LINKS,
        *SIZE,
        io.Int.Input("length", default=16, min=1, max=MOST_FRAMES),
        io.String.Input("positions", default=""),
        io.Combo.Input("resize", options=list(RESIZE), default=RESIZE[0], **RARE),
        *sampled(),
        *growing("images", io.Image, "image"),
        *CALLS,
    ]
    outputs = OUTPUTS
    speaks = True

    @classmethod
    def validate_inputs(cls, positions: str | None = None, length: int | None = None, images: Any = None) -> bool | str:
        """Frame numbers that fit the length. Of what grows ComfyUI (0.33.0) tells each node that has this."""
        return answer(_check, positions, length)

    @classmethod
    def execute(cls, width, height, length, positions, resize, **further: Any) -> io.NodeOutput:
        """Pictures, and those of batches, at the positions, which are spread evenly where none is named. `further` makes `Calls`,
        but for the pictures."""
        images = [prepare(image, height, width, resize).cpu().float() for image in grown("images", "image", further)]
        calls = Calls.of(**further)
        pictures = torch.cat(images) if images else torch.zeros(0, height, width, 3)
        named = parse_positions(positions) or spread(len(pictures), length)
        found = checked_positions(named, len(pictures), length)
        order = sorted(range(len(found)), key=found.__getitem__)
        places = [found[place] for place in order]
        return io.NodeOutput(calls.video(cls, length, places, pictures[order], size=(height, width)), calls.fps)


def _check(positions: str | None, length: int | None) -> None:
    """ValueError for positions that cannot be. None: linked, known when the node runs."""
    places = [] if positions is None else parse_positions(positions)
    if length is not None:
        checked_positions(places, len(places), length)


def spread(count: int, length: int) -> list[int]:
    """Places of so many pictures, evenly from the first frame to the last; of one, the first."""
    return [round(number * (length - 1) / max(count - 1, 1)) for number in range(count)]
