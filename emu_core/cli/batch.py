"""What a process does of a list of prompts: read the request, load the models once, make batches of videos and write them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from .. import media
from ..errors import UserError, of_one_item
from ..evaluation.names import check_free
from ..evaluation.prompts import LeftOut, Prompt, read_prompts
from ..many import manifest
from ..many.memory import clips_that_fit
from ..many.pictures import of_samples, with_pictures
from ..many.plan import Video, planned
from ..many.together import together
from ..pipeline import EmuVideoPipeline, Result
from ..settings import Settings
from ..training.checks import check_processes
from .candidates import best_start, load_clip
from .making import (
    check_models,
    check_scale,
    fast_for,
    interpolates,
    load_pipeline,
    read_loras,
    read_motion_loras,
    read_settings,
    scale_for,
    what_made_it,
)
from .options import OF_ONE_LONG, check_folder, choose_device

logger = logging.getLogger(__name__)

FREE = (
    "out",
    "prompts",
    "images",
    "json",
    "resume",
    "processes",
    "engine",
    "address",
    "device",
    "limit",
    "verbose",
    "run",
    "batch",
)
"""Options that may change when a run goes on; the prompts themselves may not."""
FILES = ("model", "stack", "interpolation_stack", "tokenizer", "vae", "clip")
PRESERVED = "preserved_db"
Made: TypeAlias = "tuple[Result | torch.Tensor, list[float]]"
"""A video, or its starting frame (1, H, W, 3) alone; and the scores of the candidates."""


@dataclass(frozen=True)
class Work:
    """A request that was read and can be done, as far as that is known before models are loaded."""

    options: Namespace
    settings: Settings
    third_step: bool
    videos: list[Video]
    left_out: LeftOut
    facts: dict[str, Any]

    @property
    def out(self) -> Path:
        """The folder of the videos."""
        return Path(self.options.out)

    @property
    def only_frames(self) -> bool:
        """Whether starting frames are all that is made."""
        return getattr(self.options, "only_starting_frames", False)

    @property
    def suffix(self) -> str:
        """The end of the name of what is made; none for folders of frames."""
        return ".png" if self.only_frames else "" if self.options.format == "png" else f".{self.options.format}"

    @property
    def frames(self) -> Path | None:
        """Where starting frames go besides."""
        place = getattr(self.options, "starting_frame", None)
        return Path(place) if place else None

    @property
    def files(self) -> list[str]:
        """All that goes into `out`."""
        pictures = self.frames is not None and self.frames.resolve() == self.out.resolve()
        return [video.stem + end for video in self.videos for end in ((self.suffix, ".png") if pictures else (self.suffix,))]

    def check(self) -> dict[str, Any] | None:
        """The run that is there, if there is one. UserError for what `manifest.check` refuses."""
        check_folder(str(self.out))
        run = manifest.check(self.out, self.facts, self.files, self.options.resume)
        if run is None and self.frames is not None:
            check_folder(str(self.frames))
            check_free(self.frames, [f"{video.stem}.png" for video in self.videos], [])
        return run

    def check_unused(self) -> None:
        """UserError if another run is at work in the folder."""
        if self.out.is_dir():
            with manifest.claimed(self.out):
                pass

    def settings_of(self, video: Video) -> Settings:
        """The settings with the video's own seed."""
        return replace(self.settings, seed=video.seed)

    def entry(self, video: Video, seconds: float | None = None) -> dict[str, Any]:
        """The line of a video that is there, in the manifest."""
        told = {name: value for name, value in vars(self.settings).items() if value not in (None, "") and name != "seed"}
        file = self.out / f"{video.stem}{self.suffix}"
        size = {"bytes": file.stat().st_size} if file.is_file() else {}
        made = {"file": file.name, "seconds": seconds, "settings": told, **size}
        return {"id": video.id, "prompt": video.prompt, "sample": video.sample, "seed": video.seed, **made}

    def failed(self, video: Video, why: str) -> dict[str, Any]:
        """The line of a video that could not be made."""
        return {"id": video.id, "prompt": video.prompt, "sample": video.sample, "seed": video.seed, "failed": why}

    def where_it_stands(self) -> str:
        """For whoever stopped it, or sees it stop."""
        summary = self.summary()
        return f"{summary['videos']} of {summary['of']} {summary['what']} are in {self.out}: go on with --resume"

    def preserved(self) -> list[float]:
        """How many dB the autoencoder keeps of each picture, where that is known."""
        told = manifest.entries(self.out)
        return [line[PRESERVED] for video in self.videos if PRESERVED in (line := told.get((video.id, video.sample), {}))]

    def summary(self) -> dict[str, Any]:
        """What is there now, and what is not."""
        names = {entry.name for entry in os.scandir(self.out)}
        there = sum(f"{video.stem}{self.suffix}" in names for video in self.videos)
        what = "starting frames" if self.only_frames else "videos"
        facts = {"out": str(self.out), "videos": there, "of": len(self.videos), "failed": len(self.videos) - there}
        return facts | {"left_out": len(self.left_out), "what": what}


def read_work(options: Namespace) -> Work:
    """Read and check a request for many videos. UserError for what cannot be done; prompts that cannot be used are listed."""
    if long := next((name for name in OF_ONE_LONG[:-1] if getattr(options, name, None)), None):
        raise UserError(f"--{long.replace('ranges', 'prompt')} is of one video, and --prompts makes many: leave it out")
    settings = read_settings(options)
    check_scale(options, settings)
    if options.batch_calls == "auto":  # which asks the memory that is free just then
        options = Namespace(**vars(options) | {"batch_calls": "off"})
    check_processes(options.processes, accelerated=False)
    if options.address and options.engine != "ray":
        raise UserError("--address: expected --engine ray with it, found none; add it or leave the address out")
    if options.threads < 1:
        raise UserError(f"--threads must be 1 or more, found {options.threads}")
    if options.batch != "auto" and not (options.batch.isascii() and options.batch.isdecimal() and int(options.batch)):
        raise UserError(f"--batch must be auto or a whole number above 0, found {options.batch!r}")
    left_out: LeftOut = []
    prompts = read_prompts(options.prompts, left_out, check_images=False)
    folder = Path(options.images) if getattr(options, "images", None) else None
    if options.command == "animate":
        prompts = with_pictures(prompts, folder, options.prompts, options.samples)
    videos = planned(prompts, options.samples, settings.seed, left_out)
    if folder is not None:
        videos = of_samples(videos, folder)
    check_models(options, settings)
    device = choose_device(options.device)
    third = interpolates(options, settings) if not getattr(options, "only_starting_frames", False) else False
    check_folder(options.out)
    _check_output(options)
    for place, why in left_out:
        logger.warning("%s, %s: %s", options.prompts, place, why)
    return Work(options, settings, third, videos, left_out, _facts(options, prompts, device))


def _check_output(options: Namespace) -> None:
    """Refuse, before long work, a format that cannot be written, or a full disk."""
    folder = Path(options.out).absolute()
    inside = folder if folder.is_dir() else folder.parent
    media.check_output(inside / ("x" if options.format == "png" else f"x.{options.format}"))


def _facts(options: Namespace, prompts: Sequence[Prompt], device: torch.device) -> dict[str, Any]:
    """What is the same in every part of one run. Files are known by their names and sizes, so that they may be moved."""
    given = {name: value for name, value in vars(options).items() if name not in FREE}
    facts = {name: value for name, value in given.items() if value is not None and value is not False}
    facts |= {name: _known(Path(facts[name])) for name in FILES if name in facts}
    facts["model"] = facts.get("model", "bundled tiny model")
    facts.pop("scale", None)
    if (scale := scale_for(options)).factor > 1 and not facts.get("only_starting_frames"):
        most = "" if scale.within is None else f", of at most {scale.within} px"  # a --scale of the same number enlarges any
        facts["scale"] = f"{scale.factor}:{scale.filter}{most}"
    facts.pop("fast", None)
    facts |= {"fast": True} if fast_for(options) else {}
    loras = {"lora": read_loras(options), "motion_lora": read_motion_loras(options)}
    facts |= {name: [f"{_known(file)}:{strength:g}" for file, strength in each] for name, each in loras.items() if each}
    if facts["dtype"] == "auto":
        facts["dtype"] = "float32" if device.type == "cpu" else "float16"
    if device.type != "cpu":
        del facts["threads"]
    listed = json.dumps([(prompt.id, prompt.text) for prompt in prompts])
    return facts | {
        "prompts": f"{len(prompts)} prompts, sha256 {hashlib.sha256(listed.encode()).hexdigest()[:16]}",
        "starting_frame": bool(getattr(options, "starting_frame", None)),
    }


def _known(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{path.name} ({sum(file.stat().st_size for file in files):,} bytes)"


class Maker:
    """The models of a request, loaded, and what makes videos with them. On a CPU its process has as many threads as the request
    says, whatever the number of cores, so that the same videos come out. `speaks`: of several processes, one says what holds for
    all."""

    def __init__(self, work: Work, device: str | None = None, speaks: bool = True) -> None:
        self.work, options = work, Namespace(**vars(work.options) | ({"device": device} if device else {}))
        if choose_device(options.device).type == "cpu":
            torch.set_num_threads(options.threads)
        self.pipeline = load_pipeline(options)
        self.pipeline.name_unknown([work.settings.negative, *(video.prompt for video in work.videos)], speaks)
        self.clip = load_clip(options) if options.command == "generate" else None
        self._preserved: dict[str, Sequence[float]] = {}  # of each video's picture, in dB

    def fitting(self) -> int:
        """How many clips at once fit into this device's memory, by the peak of one; 1 on a CPU."""
        video = next(video for video in self.work.videos if video.image or self.work.options.command == "generate")
        return clips_that_fit(self.pipeline.base.device, lambda: self._one(video, self.pipeline))

    def make(self, batch: Sequence[Video], missing: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Make a batch, write those of its videos that are missing, by their names, and their lines in the manifest. Gives the
        lines. UserError where the next batch would fail too."""
        start = time.perf_counter()
        made = together(self.pipeline, [partial(self._one, video) for video in batch])
        seconds = (time.perf_counter() - start) / len(batch)
        for video, each in zip(batch, made, strict=True):
            if video.stem in missing:
                entry = self._written(video, each, seconds)
                manifest.append(self.work.out, entry)
                yield entry

    def _one(self, video: Video, pipeline: EmuVideoPipeline) -> Made:
        options, settings = self.work.options, self.work.settings_of(video)
        if options.command == "animate":
            if video.image is None:
                where = f"in --images {options.images}" if options.images else f"in the column image of {options.prompts}"
                raise UserError(f"expected a picture of this prompt {where}, such as {video.stem}.png, found none; add it")
            given = media.read_image(video.image)[None]
            pipeline.tell_preserved = partial(self._preserved.__setitem__, video.stem)
            return pipeline(video.prompt, settings, given, self.work.third_step, None, options.position), []
        image, scores = best_start(pipeline, self.clip, options.candidates, video.prompt, settings, None)
        if self.work.only_frames:
            return pipeline.starting_frame(video.prompt, settings) if image is None else image, scores
        return pipeline(video.prompt, settings, image, interpolate=self.work.third_step), scores

    def _written(self, video: Video, made: Made | Exception, seconds: float) -> dict[str, Any]:
        start = time.perf_counter()
        try:
            if isinstance(made, Exception):
                raise made
            result, scores = made
            self._write(video, result)
        except Exception as error:
            why = of_one_item(error)
            logger.warning("%s: %s", video.stem, why)
            return self.work.failed(video, why)
        entry = self.work.entry(video, round(seconds + time.perf_counter() - start, 3))
        kept = self._preserved.pop(video.stem, ())
        return entry | ({"candidates": scores} if scores else {}) | ({PRESERVED: round(kept[0], 2)} if kept else {})

    def _write(self, video: Video, made: Result | torch.Tensor) -> None:
        """The starting frame first, where it is wanted: whoever sees the video knows that both are there."""
        work, settings = self.work, self.work.settings_of(video)
        options = Namespace(**vars(work.options) | {"prompt": video.prompt})
        told, place = what_made_it(options, settings, self.pipeline), work.out / f"{video.stem}{work.suffix}"
        if isinstance(made, torch.Tensor):
            media.write_image(place, made[0], told)
            return
        if work.frames is not None:
            media.write_image(work.frames / f"{video.stem}.png", made.starting_frame[0], told)
        frames, fps = made.final
        media.write_video(place if work.suffix else f"{place}/", frames, fps, told, scale=scale_for(work.options))
