"""A video of any length: the calls of its plan, one after the other, and its frames as they are done.

What is made is handed on as latents, so that nothing goes through the autoencoder twice; given frames come out as they came in.
What is held does not grow with the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from .errors import UserError
from .media import pad
from .model.config import StackConfig
from .model.streams import derived
from .model.timeline import Stretch, Timeline, stretches
from .pipeline import EmuVideoPipeline
from .settings import Keep, Progress, Settings, share

Pictures = Callable[[Sequence[int]], Iterable[torch.Tensor]]
"""Of some of the given frames, by their places in the video in rising order: pictures (H, W, 3) in 0..1, all of one size."""
AT_ONCE = 16
"""Given frames that are passed on at a time."""


def plan_of(timeline: Timeline, config: StackConfig, settings: Settings) -> list[Stretch]:
    """The calls that a stack needs for a video: as many frames at a time as it was trained on, or `settings.window`; of the past
    as many as it recommends, or `settings.past`. ValueError for what the stack cannot do."""
    if settings.freenoise:
        raise UserError("freenoise is for windows over one video (--frames), and here a call goes on from another: leave it out")
    size = settings.window or config.clip.frames
    replace(settings, frames=size, window=None).check_stack(config)
    if not config.takes_image:
        raise UserError(
            f"a stack of family {config.origin.family} takes no frames, so no video of it goes on from another: make it with "
            f"generate --frames {timeline.length} --window {size} --freenoise, or choose a stack of family emu, pia or fancyvideo"
        )
    plan = stretches(timeline, size, config.sampling.past if settings.past is None else settings.past)
    if "affinity" in config.channel_order and (more := [each for each in plan if len(each.given) > 1]):
        raise UserError(f"PIA takes one given frame at a time, and here it would be given more ({more[0]}): use another stack")
    return plan


def seed_of(seed: int, stretch: Stretch) -> int:
    """The seed of a call: that of a video itself for the call that begins it, which is so the one that `generate` makes."""
    return seed if stretch.first == 0 else derived(seed, "stretch", stretch.first)


def image_guidance(stretch: Stretch, config: StackConfig, settings: Settings) -> float | None:
    """The image guidance of a call: as set or, None, as the stack recommends. Where nothing is set and frames are given on both
    sides of those that are made, it is no less than that of the text, or the way that the text asks for would not arrive."""
    if settings.image_guidance is not None or not stretch.leads_to_given:
        return settings.image_guidance
    text = config.sampling.text_guidance if settings.text_guidance is None else settings.text_guidance
    return max(config.sampling.image_guidance, text)


def longer(
    pipeline: EmuVideoPipeline,
    timeline: Timeline,
    pictures: Pictures,
    settings: Settings = Settings(),
    keep: Keep | None = None,
    progress: Progress | None = None,
) -> Iterator[torch.Tensor]:
    """The frames (k, H, W, 3) of a video, part by part in their order, `timeline.length` in all. They are as large as the given
    ones, or of `settings.size` where none is given; then the first call has the text alone."""
    plan = plan_of(timeline, pipeline.models["F"].stack.config, settings)
    size, known = _encoded(pipeline, timeline, plan, pictures)
    height, width = size or pipeline.size(settings)
    multiple = pipeline.base.pixels_per_latent
    settings = replace(settings, size=(height + -height % multiple, width + -width % multiple), window=None)
    last = {frame: number for number, stretch in enumerate(plan) for frame in stretch.given}
    given, done = iter(pictures(timeline.given)), 0
    for frames, maker in parts(timeline, plan):
        while maker is not None and done <= maker:
            own, told = replace(settings, frames=plan[done].size), share(progress, done, len(plan))
            made = _made(pipeline, plan[done], known, own, keep, done, told)
            known |= zip(plan[done].made, made, strict=True)
            done += 1
        if maker is None:
            yield torch.stack([next(given) for _ in frames])
        else:
            yield pipeline.base.decode_latents(torch.stack([known[frame] for frame in frames]))[:, :height, :width]
        known = {frame: latents for frame, latents in known.items() if frame > frames[-1] or last.get(frame, -1) >= done}


def parts(timeline: Timeline, plan: Sequence[Stretch]) -> Iterator[tuple[list[int], int | None]]:
    """The video in the pieces in which it is passed on, in order: frames that follow each other, and the number of the call that
    makes them; None for given ones."""
    makers = {frame: number for number, stretch in enumerate(plan) for frame in stretch.made}
    piece: list[int] = []
    for frame in range(timeline.length):
        if piece and (makers.get(piece[0]) != makers.get(frame) or len(piece) == AT_ONCE > 0 == (frame in makers)):
            yield piece, makers.get(piece[0])
            piece = []
        piece.append(frame)
    yield piece, makers.get(piece[0])


def _encoded(
    pipeline: EmuVideoPipeline, timeline: Timeline, plan: Sequence[Stretch], pictures: Pictures
) -> tuple[tuple[int, int] | None, dict[int, torch.Tensor]]:
    """(height, width) of the given frames, and the latents (C, h, w) of those that a call is given, by their places."""
    wanted = sorted({frame for stretch in plan for frame in stretch.given}.intersection(timeline.given))
    size, known = None, dict[int, torch.Tensor]()
    for frame, picture in zip(wanted, pictures(wanted), strict=True):
        size = size or (picture.shape[0], picture.shape[1])
        if tuple(picture.shape) != (*size, 3):
            found = f"{size[1]} x {size[0]} and {picture.shape[1]} x {picture.shape[0]}"
            raise UserError(f"the given frames should be of one size, found {found}: give them one (--size)")
        padded = pad(picture[None].float().clamp(0, 1), pipeline.base.pixels_per_latent)
        known[frame] = pipeline.base.encode_images(padded)[0].cpu()
    return size, known


def _made(
    pipeline: EmuVideoPipeline,
    stretch: Stretch,
    known: Mapping[int, torch.Tensor],
    settings: Settings,
    keep: Keep | None,
    number: int,
    progress: Progress | None,
) -> torch.Tensor:
    """Latents (k, C, h, w) of the frames that a call makes."""

    def make() -> torch.Tensor:
        latents = [known[frame] for frame in stretch.given]
        given = torch.stack(latents) if latents else torch.zeros(0, *pipeline.latent_shape(settings))
        guidance = image_guidance(stretch, pipeline.models["F"].stack.config, settings)
        own = replace(settings, seed=seed_of(settings.seed, stretch), image_guidance=guidance)
        whole = pipeline.video_latents(given, stretch.places, stretch.prompt, own, progress)
        return whole[[frame - stretch.first for frame in stretch.made]].cpu()

    made = make() if keep is None else keep("video", number, make)
    if progress is not None:  # nothing new where it was made just now, but what was kept is done as well
        steps = settings.steps or pipeline.models["F"].stack.config.sampling.steps
        progress("video", steps, steps)
    return made
