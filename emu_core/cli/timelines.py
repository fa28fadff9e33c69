"""What commands that make videos of several calls share: their options, the plan, and the run that is kept and gone on with."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import UserError
from ..kept import Kept, folder_of
from ..longer import Pictures, longer, plan_of
from ..media import fit, read_image
from ..media.writing import ENCODINGS
from ..model.calls import parts
from ..model.conditioning import FACTOR, MAX_FRAMES, windows
from ..model.config import StackConfig
from ..model.timeline import Stretch, Timeline
from ..model.timeline import timeline_of as unchecked
from ..pipeline import EmuVideoPipeline
from ..settings import Keep, Progress, Settings, check_prompt
from .making import fast_for, load_pipeline, read_loras, read_motion_loras, read_request, read_stacks, write
from .options import is_there, progress_bars, then_close
from .said import tell

logger = logging.getLogger(__name__)

Given = Callable[[EmuVideoPipeline, Keep | None, Progress | None], Pictures]
"""What gives the given pictures once the models are there."""


@dataclass(frozen=True)
class Work:
    """A video to be made: its `timeline`, `given` pictures and `fps`; `cut`, how many frames at its end are not shown; `third`,
    whether the frame rate is raised afterwards; `inputs`, the files that it depends on; a video whose `sound` is kept, and after
    how many seconds of the new one it begins (`late`)."""

    timeline: Timeline
    given: Given
    fps: float
    cut: int = 0
    third: bool = False
    inputs: tuple[str, ...] = ()
    sound: str | None = None
    late: float = 0.0

    @property
    def shown(self) -> int:
        """Frames before the frame rate is raised."""
        return self.timeline.length - self.cut


def read_long(options: argparse.Namespace) -> tuple[list[str], Settings, StackConfig]:
    """The texts of PROMPT and --prompt, the settings, and what the video stack is; what can be refused before any weights are
    read is refused."""
    texts = [text for text in (options.prompt, *(options.ranges or ())) if text is not None]
    if not texts:
        raise UserError("expected a prompt, found none: say what the video should show")
    options.prompt, options.overlap = "\n".join(texts), 0  # calls share what they are given, and no window slides
    _, settings = read_request(options)
    config = read_stacks(options)["F"]
    if config.takes_image and (settings.window or 0) > config.clip.frames:
        told = f"this stack was trained on {config.clip.frames} frames, and --window {settings.window} asks for more in one call"
        logger.warning("%s: what moves may stop after %d", told, config.clip.frames)
    return texts, settings, config


def timeline_of(
    length: int, given: Sequence[int], texts: Sequence[str], fps: float, first: int = 0, count: int | None = None
) -> Timeline:
    """As `model.timeline.timeline_of`, and each prompt is one that `base.prompts` can read."""
    timeline = unchecked(length, given, texts, fps, first, count)
    for span in timeline.prompts:
        check_prompt(span.prompt)
    return timeline


def parse_length(text: str, fps: float, option: str) -> int:
    """`48` or `12s` -> frames. ValueError for what is neither, or comes to no frame."""
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d+)?)\s*(s?)\s*", text)
    count = round(float(found[1]) * (fps if found[2] else 1)) if found else 0
    if count < 1:
        raise UserError(f"{option} should be a number of frames such as 48, or of seconds such as 12s, found {text!r}")
    return count


def upright(path: str) -> torch.Tensor:
    """A picture (1, H, W, 3) of a file."""
    return read_image(path)[None]


def fitted(pictures: Sequence[torch.Tensor], places: Sequence[int], settings: Settings) -> Given:
    """Pictures (1, H, W, 3), each cut and resized to the video's size, at their places."""

    def of(pipeline: EmuVideoPipeline, *_: Any) -> Pictures:
        size = pipeline.size(settings)
        known = {place: fit(picture, *size)[0] for place, picture in zip(places, pictures, strict=True)}
        return lambda wanted: (known[place] for place in wanted)

    return of


def make(options: argparse.Namespace, settings: Settings, config: StackConfig, work: Work) -> None:
    """Print the plan, or make the video, write it, and say so. What is made is kept beside the output until that is whole; a stop
    leaves there what has been made so far, as a video too."""
    plan = plan_of(work.timeline, config, settings)
    if options.plan:
        print("\n".join(map(str, plan)) or "nothing to make: every frame is given")
        return
    count = _count(work, range(len(plan)), plan, options)
    if count > MAX_FRAMES and Path(options.out).suffix.lower() not in (*ENCODINGS, ""):
        raise UserError(f"a {Path(options.out).suffix} holds at most {MAX_FRAMES} frames here, found {count}: write .mp4")
    before, kept = is_there(options.out), Kept(folder_of(options.out), _facts(options, settings, work), options.resume)
    finished, pipeline = False, None
    try:
        pipeline = load_pipeline(options)
        pipeline.name_unknown([settings.negative, *(span.prompt for span in work.timeline.prompts)])
        fps = work.fps * (FACTOR if work.third else 1)
        with ExitStack() as bars:
            made = then_close(_frames(pipeline, work, settings, kept, bars.enter_context(progress_bars())), bars)
            write(options, settings, pipeline, made, count, fps, sound=work.sound, late=work.late)
        finished = True
    except KeyboardInterrupt:
        done = {number for number in range(len(plan)) if kept.has("video", number)}
        count = _count(work, done, plan, options, kept)
        if pipeline is not None and kept.count() and count and (kept.left_video or not before):
            tell(f"emu-video: writing the {count} frames that there are; Ctrl-C again leaves them out")
            made = _first(count, _frames(pipeline, work, settings, kept, None))
            write(options, settings, pipeline, made, count, fps, sound=work.sound, late=work.late)
            kept.note_video()
        raise
    finally:
        if not finished and kept.count():
            tell(f"emu-video: what was made is kept in {kept.folder}: the same command with --resume goes on from there")
        kept.close(finished)


def _frames(
    pipeline: EmuVideoPipeline, work: Work, settings: Settings, keep: Keep, progress: Progress | None
) -> Iterator[torch.Tensor]:
    """The finished frames (k, H, W, 3), part by part."""
    pictures = work.given(pipeline, keep, progress)
    made = _first(work.shown, longer(pipeline, work.timeline, pictures, settings, keep, progress))
    if not work.third:
        yield from made
        return
    each = (frame for part in made for frame in part)
    own = replace(settings, size=None, window=None)
    yield from pipeline.interpolated(each, work.shown, lambda frame: work.timeline.span(frame).prompt, own, progress, keep)


def _first(count: int, made: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    for part in made:
        yield part[:count]
        count -= len(part)
        if count <= 0:
            return


def _count(
    work: Work, done: Container[int], plan: Sequence[Stretch], options: argparse.Namespace, kept: Kept | None = None
) -> int:
    """How many finished frames there are from the beginning on, once the calls `done` are."""
    if work.third:
        size = (read_stacks(options)["I"].clip.frames - 1) // FACTOR - 1
        lengths = [window.stop - window.start for window in windows(work.shown, size, "continuous")]
        missing = next((n for n in range(len(lengths)) if kept is not None and not kept.has("interpolation", n)), len(lengths))
        return sum(lengths[:missing])
    count = 0
    for frames, maker in parts(work.timeline, plan):
        if maker is not None and maker not in done:
            break
        count += len(frames)
    return min(count, work.shown)


def _facts(options: argparse.Namespace, settings: Settings, work: Work) -> dict[str, Any]:
    """All that the frames depend on."""
    files = ("model", "stack", "interpolation_stack", "vae", "clip")
    models = (*files, "variant", "lora", "motion_lora", "tokenizer", "dtype", "candidates")
    named = [getattr(options, name, None) for name in files]
    loras = [str(file) for file, _ in (*read_loras(options), *read_motion_loras(options))]
    stamps = {str(file): _stamp(Path(file), Path(options.out).name) for file in (*work.inputs, *named, *loras) if file}
    timeline = {"length": work.timeline.length, "given": list(work.timeline.given), "cut": work.cut, "third": work.third}
    told = {name: getattr(options, name, None) for name in models}
    spans = [[span.start, span.stop, span.prompt] for span in work.timeline.prompts]
    return {
        "version": __version__,
        "command": options.command,
        "prompts": spans,
        **timeline,
        **told,
        **({"fast": True} if fast_for(options) else {}),
        "files": stamps,
        **vars(settings),
    }


def _stamp(path: Path, out: str) -> list[int]:
    """How many files there are, their bytes, and when the last was changed: of a file, or of a folder with all in it but hidden
    ones and what the run itself writes there, whose names begin with `out`."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if not _of_run(each.relative_to(path), out)]
    facts = [file.stat() for file in files if file.is_file()]
    return [len(facts), sum(each.st_size for each in facts), max((each.st_mtime_ns for each in facts), default=0)]


def _of_run(path: Path, out: str) -> bool:
    return any(part.startswith((".", out)) for part in path.parts)
