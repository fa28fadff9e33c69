"""A video of any length: the calls of its plan, one after the other, and its frames as they are done.

What is made is handed on as latents, so that nothing goes through the autoencoder twice; given frames come out as they came in.
What is held does not grow with the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from .errors import UserError
from .media import pad
from .model.calls import asked, calls_of, image_guidance, in_order, seed_of
from .model.config import StackConfig
from .model.timeline import Stretch, Timeline
from .pipeline import MOST_JUDGED, EmuVideoPipeline
from .settings import Keep, Progress, Settings, share

Pictures = Callable[[Sequence[int]], Iterable[torch.Tensor]]
"""Of some of the given frames, by their places in the video in rising order: pictures (H, W, 3) in 0..1, all of one size."""


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
    return calls_of(timeline, config, settings.window, settings.past)


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

    def make(number: int, latents: Sequence[torch.Tensor]) -> torch.Tensor:
        own, told = replace(settings, frames=plan[number].size), share(progress, number, len(plan))
        return _made(pipeline, plan[number], latents, own, keep, number, told)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return pipeline.base.decode_latents(latents)[:, :height, :width]

    yield from in_order(timeline, plan, known, iter(pictures(timeline.given)), make, decode)


def _encoded(
    pipeline: EmuVideoPipeline, timeline: Timeline, plan: Sequence[Stretch], pictures: Pictures
) -> tuple[tuple[int, int] | None, dict[int, torch.Tensor]]:
    """(height, width) of the given frames, and the latents (C, h, w) of those that a call is given, by their places."""
    wanted = asked(timeline, plan)
    size, known, first = None, dict[int, torch.Tensor](), list[torch.Tensor]()
    for frame, picture in zip(wanted, pictures(wanted), strict=True):
        size = size or (picture.shape[0], picture.shape[1])
        if tuple(picture.shape) != (*size, 3):
            found = f"{size[1]} x {size[0]} and {picture.shape[1]} x {picture.shape[0]}"
            raise UserError(f"the given frames should be of one size, found {found}: give them one (--size)")
        padded = pad(picture[None].float().clamp(0, 1), pipeline.base.pixels_per_latent)
        known[frame] = pipeline.base.encode_images(padded)[0].cpu()
        first += [padded] if len(first) < MOST_JUDGED else []
    if first:
        pipeline.judge(torch.cat(first), torch.stack([*known.values()][: len(first)]))
    return size, known


def _made(
    pipeline: EmuVideoPipeline,
    stretch: Stretch,
    latents: Sequence[torch.Tensor],
    settings: Settings,
    keep: Keep | None,
    number: int,
    progress: Progress | None,
) -> torch.Tensor:
    """Latents (k, C, h, w) of the frames that a call makes."""

    def make() -> torch.Tensor:
        given = torch.stack([*latents]) if latents else torch.zeros(0, *pipeline.latent_shape(settings))
        sampling = pipeline.models["F"].stack.config.sampling
        guidance = image_guidance(stretch, sampling, settings.image_guidance, settings.text_guidance)
        own = replace(settings, seed=seed_of(settings.seed, stretch), image_guidance=guidance)
        whole = pipeline.video_latents(given, stretch.places, stretch.prompt, own, progress)
        return whole[[frame - stretch.first for frame in stretch.made]].cpu()

    made = make() if keep is None else keep("video", number, make)
    if progress is not None:  # nothing new where it was made just now, but what was kept is done as well
        steps = settings.steps or pipeline.models["F"].stack.config.sampling.steps
        progress("video", steps, steps)
    return made
