"""The picture that each video starts from, out of a list's own column or a folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import UserError
from ..evaluation.prompts import NoneNamed, Prompt, with_images
from ..media import IMAGE_EXTENSIONS
from ..media.files import natural
from .plan import Video, stems

logger = logging.getLogger(__name__)


def with_pictures(prompts: Sequence[Prompt], folder: Path | None, listed: str, samples: int = 1) -> list[Prompt]:
    """The prompts with their pictures: from the folder, by name, or in order where no name fits and there are as many; else as
    the list `listed` has them. Some may have none; that of a sample is not its prompt's, see `of_samples`. UserError where none
    has one, or one has two."""
    if folder is None:
        if not any(prompt.image for prompt in prompts):
            raise UserError(
                f"{listed}: expected a picture for each prompt in its column image, found none; name a folder (--images)"
            )
        return [*prompts]
    if not folder.is_dir():
        raise UserError(f"--images {folder}: expected a folder of pictures, found {'a file' if folder.exists() else 'nothing'}")
    files = _pictures(folder)
    try:
        return with_images(prompts, folder)
    except NoneNamed:
        if samples > 1 and {file.stem for file in files} & {name for names in stems(prompts, samples) for name in names}:
            return [*prompts]
        if len(files) != len(prompts):
            names = f"named as the prompts, or as many as there are prompts ({len(prompts)})"
            raise UserError(f"--images {folder}: expected pictures {names}, found {len(files)} of other names") from None
    logger.warning("%s: no picture is named as a prompt, so they are taken in order, %s first", folder, files[0].name)
    return [replace(prompt, image=file) for prompt, file in zip(prompts, files, strict=True)]


def of_samples(videos: Sequence[Video], folder: Path) -> list[Video]:
    """The videos with pictures that are named as they are, where there are such: starting frames of several samples, say."""
    named = {file.stem: file for file in _pictures(folder)}
    return [replace(video, image=named.get(video.stem, video.image)) for video in videos]


def _pictures(folder: Path) -> list[Path]:
    return sorted((f for f in folder.iterdir() if f.suffix.lower() in IMAGE_EXTENSIONS), key=lambda file: natural(file.name))
