"""Prompt sets: one prompt with its id and, where there is one, the image that the video was made from."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..media import IMAGE_EXTENSIONS, read_image
from ..media.files import PathLike

BUNDLED = Path(__file__).with_name("prompt_sets")
SLUG_LENGTH = 60
ID_KEYS, TEXT_KEYS, IMAGE_KEYS = ("id", "index"), ("prompt", "text", "caption"), ("image", "conditioning_image")


@dataclass(frozen=True)
class Prompt:
    """id: unique in its set. text: what was asked for. image: the conditioning image (starting frame), if it is known."""

    id: str
    text: str
    image: Path | None = None


def bundled_sets() -> dict[str, Path]:
    """The sets that come with this package, by name."""
    return {path.stem: path for path in sorted(BUNDLED.iterdir()) if path.suffix in (".txt", ".csv")}


def slug(text: str) -> str:
    """A prompt as part of a file name: lower-case ASCII letters, digits and hyphens, at most 60 characters; may be empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:SLUG_LENGTH].rstrip("-")


def file_stem(number: int, text: str) -> str:
    """`NNN-slug`, the name under which this program writes the video of a prompt; number counts from 0."""
    return f"{number:03d}-{slug(text)}".rstrip("-")


def read_prompts(name: PathLike) -> list[Prompt]:
    """Read a prompt set: a file, or the name of a bundled one.

    .txt: one prompt a line; empty lines and lines that begin with # are left out. .csv: a heading with `prompt` and, if wanted,
    `id` and `image`. .json: a list of prompts (text, or objects with those names), or an object id -> prompt. .jsonl: one
    object a line. Images are relative to the file. Without ids they are 000, 001, ...
    Raises ValueError for a file that is none of these, without prompts, with an empty prompt, an id twice, or a missing image.
    """
    path, sets = Path(name), bundled_sets()
    if not path.is_file():
        if os.fspath(name) not in sets:
            kinds = f"a file of prompts (.txt, .csv, .json, .jsonl) or a bundled set ({', '.join(sets)})"
            raise ValueError(f"{name}: expected {kinds}, found neither; check the path")
        path = sets[os.fspath(name)]
    try:
        rows = list(_rows(path, path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as problem:
        kind = f"{path.suffix or 'text'} in UTF-8"
        raise ValueError(f"{path}: expected prompts as {kind}, found something else ({problem}); mend the file") from problem
    if not rows:
        raise ValueError(f"{path}: expected one or more prompts, found none; write one a line")
    prompts: dict[str, Prompt] = {}
    width = max(3, len(str(len(rows) - 1)))
    for number, row in enumerate(rows):
        text = " ".join(_first(row, TEXT_KEYS).split())
        if not text:
            keys = " or ".join(TEXT_KEYS)
            raise ValueError(f"{path}: expected a prompt in entry {number + 1} ({keys}), found none; write or drop it")
        key = _first(row, ID_KEYS).strip() or f"{number:0{width}d}"
        if key in prompts:
            raise ValueError(f"{path}: expected every id once, found {key!r} again in entry {number + 1}; rename one")
        given = _first(row, IMAGE_KEYS).strip()
        image = path.parent / Path(given).expanduser() if given else None
        if image is not None and not image.is_file():
            raise ValueError(f"{path}: expected the conditioning image {image}, found no such file; check its path")
        prompts[key] = Prompt(key, text, image)
    return list(prompts.values())


def _rows(path: Path, text: str) -> Iterator[Mapping[str, object]]:
    suffix = path.suffix.lower()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if suffix == ".txt":
        yield from ({"prompt": line} for line in lines if not line.startswith("#"))
    elif suffix == ".csv":
        yield from csv.DictReader(io.StringIO(text))
    elif suffix == ".jsonl":
        yield from (_object(path, json.loads(line)) for line in lines)
    elif suffix == ".json":
        content = json.loads(text)
        if isinstance(content, dict) and isinstance(content.get("prompts"), list):
            content = content["prompts"]
        if isinstance(content, dict):
            yield from ({**_object(path, value), "id": name} for name, value in content.items())
        elif isinstance(content, list):
            yield from (_object(path, value) for value in content)
    else:
        raise ValueError(f"{path}: expected prompts in .txt, .csv, .json or .jsonl, found {suffix or 'no extension'}; rename it")


def _object(path: Path, value: object) -> dict[str, object]:
    if isinstance(value, str):
        return {"prompt": value}
    if isinstance(value, dict):
        return value
    raise ValueError(f"{path}: expected each prompt as text or as an object, found {str(value)[:60]!r}; mend that entry")


def _first(row: Mapping[str, object], keys: Sequence[str]) -> str:
    return next((str(row[key]) for key in keys if row.get(key) not in (None, "")), "")


def with_images(prompts: Sequence[Prompt], folder: PathLike) -> list[Prompt]:
    """The prompts with conditioning images from a folder: ID.png, NNN.png, or NNN-slug.png (also .jpg, .jpeg, .webp).

    Raises ValueError for a folder in which no prompt has an image. A prompt without one keeps what it had.
    """
    found = {path.stem: path for path in sorted(Path(folder).glob("*")) if path.suffix.lower() in IMAGE_EXTENSIONS}
    names = [(prompt.id, f"{number:03d}", file_stem(number, prompt.text)) for number, prompt in enumerate(prompts)]
    images = [next((found[name] for name in choices if name in found), None) for choices in names]
    if not any(images):
        wanted = f"conditioning images named after prompts (such as {names[0][2]}.png)"
        raise ValueError(f"{folder}: expected {wanted}, found none; check it")
    return [replace(prompt, image=image or prompt.image) for prompt, image in zip(prompts, images, strict=True)]


def check_images(prompts: Sequence[Prompt]) -> None:
    """Read every conditioning image once, before long work. Raises ValueError for the first that cannot be read."""
    for prompt in prompts:
        if prompt.image is not None:
            read_image(prompt.image)
