"""Prompt sets: one prompt with its id and, where there is one, the image that the video was made from."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.rows import MARK, Object, Row, lowered, not_text, open_text, read_json_lines, read_table
from ..errors import UserError, of_one_item
from ..limits import NotJson, how, json_of, limits
from ..media import IMAGE_EXTENSIONS, read_image
from ..media.files import PathLike

BUNDLED = Path(__file__).with_name("prompt_sets")
SLUG_LENGTH = 60
ID_KEYS, TEXT_KEYS, IMAGE_KEYS = ("id", "index"), ("prompt", "text", "caption"), ("image", "conditioning_image")
KEYS = {"id": ID_KEYS, "prompt": TEXT_KEYS, "image": IMAGE_KEYS}
NAMES = [key for keys in KEYS.values() for key in keys]


@dataclass(frozen=True)
class Prompt:
    """id: unique in its set. text: what was asked for. image: the conditioning image (starting frame), if it is known. place: its
    number in the set, from 0, where others of the set were left out."""

    id: str
    text: str
    image: Path | None = None
    place: int | None = field(default=None, compare=False)


class NoneNamed(UserError):
    """No picture of a folder is named after a prompt."""


LeftOut = list[tuple[str, str]]
"""Prompts that cannot be used, or that lost their image: (where they stand, why)."""


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


def places(prompts: Sequence[Prompt]) -> list[int]:
    """The number of each prompt in its set, from 0."""
    return [number if prompt.place is None else prompt.place for number, prompt in enumerate(prompts)]


def file_stems(prompts: Sequence[Prompt]) -> list[str]:
    """`file_stem` of each prompt, none of which is another's id: `-prompt` is put behind one that would be."""
    found = []
    ids = Counter(prompt.id.casefold() for prompt in prompts)
    for number, prompt in zip(places(prompts), prompts, strict=True):
        stem = file_stem(number, prompt.text)
        while ids[stem] - (prompt.id.casefold() == stem):
            stem += "-prompt"
        found.append(stem)
    return found


def read_prompts(name: PathLike, left_out: LeftOut | None = None, check_images: bool = True) -> list[Prompt]:
    """Read a prompt set: a file, or the name of a bundled one.

    .txt: one prompt a line; empty lines and lines that begin with # are left out. .csv, .tsv: a heading with `prompt` and, if
    wanted, `id` and `image`. .json: a list of prompts (text, or objects with those names), or an object id -> prompt. .jsonl: one
    object a line. Images are relative to the file. Without ids they are 000, 001, ...
    Raises ValueError for a file that is none of these, without prompts, with an empty prompt, an id twice, or a missing image.
    left_out: takes in such prompts instead, with the reason; the others keep their numbers, and one is enough. check_images:
    false where images are not needed, or are looked at one by one.
    """
    path, sets = Path(name), bundled_sets()
    if not path.is_file():
        if os.fspath(name) not in sets:
            kinds = f"a file of prompts (.txt, .csv, .tsv, .json, .jsonl) or a bundled set ({', '.join(sets)})"
            raise UserError(f"{name}: expected {kinds}, found neither; check the path")
        path = sets[os.fspath(name)]
    if (size := path.stat().st_size) > limits().json:
        raise UserError(f"{path}: expected at most {limits().json:,} bytes of prompts, found {size:,}; {how('json')}")
    try:
        rows = list(_rows(path))
    except (OSError, NotJson) as problem:
        kind = f"{path.suffix or 'text'} in UTF-8"
        raise UserError(f"{path}: expected prompts as {kind}, found something else ({problem}); mend the file") from problem
    if not rows:
        raise UserError(f"{path}: expected one or more prompts, found none; write one a line")
    prompts: dict[str, Prompt] = {}
    width = max(3, len(str(len(rows) - 1)))
    problems: LeftOut = []
    for number, row in enumerate(rows):
        place = f"entry {number + 1}" + (f" ({row.place})" if row.place else "")
        try:
            prompt = replace(_prompt(path, row, place, f"{number:0{width}d}"), place=number)
            if prompt.id in prompts:
                raise UserError(f"{path}: expected every id once, found {prompt.id!r} again in {place}; rename one")
            prompts[prompt.id] = prompt
            if check_images and prompt.image is not None and not os.path.isfile(prompt.image):
                prompts[prompt.id] = replace(prompt, image=None)
                raise UserError(f"{path}: expected the conditioning image {prompt.image}, found no such file; check its path")
        except UserError as problem:
            if left_out is None:
                raise
            problems.append((place, str(problem)))
    if not prompts:
        raise UserError(problems[0][1])
    if left_out is not None:
        left_out += problems
    gaps = len(prompts) < len(rows)
    return [prompt if gaps else replace(prompt, place=None) for prompt in prompts.values()]


def _prompt(path: Path, row: Row, place: str, number: str) -> Prompt:
    """The prompt of a row at a `place`, whose id is its `number` where it has none. ValueError for one that cannot be used."""
    if row.problem:
        raise UserError(f"{path}: expected a prompt in {place}, found {row.problem}; mend it")
    given = {name: _first(row.cells, keys) for name, keys in KEYS.items()}
    for name, value in given.items():
        if not isinstance(value, str | int | float) or not_text(str(value)):
            raise UserError(f"{path}: expected text as {name} in {place}, found {str(value)[:60]!r}; mend it")
    text, key, image_name = (" ".join(str(given["prompt"]).split()), *(str(given[n]).strip() for n in ("id", "image")))
    if not text:
        keys = " or ".join(TEXT_KEYS)
        raise UserError(f"{path}: expected a prompt in {place} ({keys}), found none; write or drop it")
    return Prompt(key or number, text, path.parent / os.path.expanduser(image_name) if image_name else None)


def _rows(path: Path) -> Iterator[Row]:
    """Every entry of a file of prompts, with its names in small letters."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        rows = read_table(path, NAMES, (*ID_KEYS, *TEXT_KEYS), one_line=None)
        next(rows)  # the heading
        yield from rows
    elif suffix == ".jsonl":
        yield from read_json_lines(path, NAMES, _object)
    elif suffix == ".txt":
        with open_text(path) as text:
            lines = [(number, line.lstrip(MARK).strip()) for number, line in enumerate(text, 1)]
        shown = [(number, line) for number, line in lines if line and not line.startswith("#")]
        yield from (Row(f"line {number}", {"prompt": line}, not_text(line)) for number, line in shown)
    elif suffix == ".json":
        with open_text(path) as text:
            content = _json(path, text.read())
        if isinstance(content, dict) and isinstance(content.get("prompts"), list):
            content = content["prompts"]
        if not isinstance(content, dict | list):
            raise UserError(f"{path}: expected a list or an object of prompts, found {str(content)[:60]!r}; mend it")
        pairs = content.items() if isinstance(content, dict) else (("", value) for value in content)
        for name, value in pairs:
            cells = _object(value)
            if cells is None:
                yield Row("", problem=f"neither text nor an object ({str(value)[:60]!r})")
                continue
            try:
                yield Row("", {**lowered(cells, NAMES), **({"id": name} if name else {})})
            except ValueError as problem:
                yield Row("", problem=str(problem))
    else:
        raise UserError(
            f"{path}: expected prompts in .txt, .csv, .tsv, .json or .jsonl, found {suffix or 'no extension'}; rename it"
        )


def _json(path: Path, text: str) -> Any:
    if wrong := not_text(text):
        raise UserError(f"{path}: expected prompts as .json in UTF-8, found {wrong}")
    content = json_of(text.lstrip(MARK), Object)
    if isinstance(content, Object) and content.twice:
        raise UserError(f"{path}: expected every name once, found the name {content.twice[0]!r} twice in one object; rename one")
    return content


def _object(value: object) -> dict[str, Any] | None:
    """A prompt in JSON as an object, None where it is none."""
    return {"prompt": value} if isinstance(value, str) else value if isinstance(value, dict) else None


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) not in (None, "")), "")


def with_images(prompts: Sequence[Prompt], folder: PathLike) -> list[Prompt]:
    """The prompts with conditioning images from a folder: ID.png, NNN.png, or NNN-slug.png (also .jpg, .jpeg, .webp).

    Raises ValueError for a folder in which no prompt has an image, or one has two. A prompt without one keeps what it had.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).glob("*")):
        if path.suffix.lower() in IMAGE_EXTENSIONS:
            found.setdefault(unicodedata.normalize("NFC", path.stem), []).append(path)
    stems = file_stems(prompts)
    names = [
        (unicodedata.normalize("NFC", prompt.id), f"{number:03d}", stem)
        for number, prompt, stem in zip(places(prompts), prompts, stems, strict=True)
    ]
    images = [next((found[name] for name in choices if name in found), []) for choices in names]
    if twice := next((paths for paths in images if len(paths) > 1), None):
        raise UserError(f"{folder}: expected one image of a prompt, found {' and '.join(p.name for p in twice)}; keep one")
    if not any(images):
        wanted = f"conditioning images named after prompts (such as {names[0][2]}.png)"
        raise NoneNamed(f"{folder}: expected {wanted}, found none; check it")
    return [replace(prompt, image=[*paths, prompt.image][0]) for prompt, paths in zip(prompts, images, strict=True)]


def with_readable_images(prompts: Sequence[Prompt], left_out: LeftOut) -> list[Prompt]:
    """The prompts after every conditioning image was read once, before long work; without those that cannot be read, which
    `left_out` takes in."""
    found = []
    for prompt in prompts:
        try:
            check_images([prompt])
        except (ValueError, OSError, MemoryError) as problem:
            left_out.append((f"prompt {prompt.id}", f"its conditioning image is left out: {of_one_item(problem)}"))
            prompt = replace(prompt, image=None)
        found.append(prompt)
    return found


def check_images(prompts: Sequence[Prompt]) -> None:
    """Read every conditioning image once, before long work. Raises ValueError for the first that cannot be read."""
    for prompt in prompts:
        if prompt.image is not None:
            read_image(prompt.image)
