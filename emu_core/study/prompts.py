"""Files of prompts, and which file in a system's folder shows which prompt."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .videos import EXTENSIONS

FORMATS = (".txt", ".json", ".jsonl", ".csv")
FRAME_EXTENSIONS = (".png", ".jpg", ".jpeg")
SLUG_LENGTH = 60
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """key: the file's id, or the number from 0; named: whether the file gave the id."""

    key: str
    text: str
    named: bool


def slug(text: str) -> str:
    """A prompt as a file name: lower-case letters and digits of any script, joined by "_", at most 60."""
    return re.sub(r"[\W_]+", "_", text.lower()).strip("_")[:SLUG_LENGTH].strip("_")


def read_prompts(path: str | Path) -> list[Prompt]:
    """.txt: one a line; .json: a list, .jsonl: one a line, of texts or {"id", "prompt"}; .csv: a header with prompt and maybe id.

    ValueError: no such file or format, an empty prompt, an id that comes twice.
    """
    file = Path(path)
    if file.suffix.lower() not in FORMATS:
        raise ValueError(
            f"{path}: expected prompts as {', '.join(FORMATS)}, found {file.suffix or 'no extension'}; convert them."
        )
    try:
        entries = _entries(file, file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: expected text in UTF-8, found other bytes; save it as UTF-8.") from problem
    except OSError as problem:
        raise ValueError(f"{path}: expected a file of prompts, found {problem.strerror}; check the path.") from problem
    except (json.JSONDecodeError, csv.Error) as problem:
        raise ValueError(f"{path}: expected {file.suffix[1:].upper()}, found something else ({problem}); mend it.") from problem
    prompts = [_prompt(file, number, entry) for number, entry in enumerate(entries)]
    if not prompts:
        raise ValueError(f"{path}: expected at least one prompt, found none; write one a line.")
    twice = [key for key, count in Counter(prompt.key for prompt in prompts).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: expected each id once, found {twice[0]!r} more than once; change one.")
    return prompts


def _entries(file: Path, text: str) -> list[Any]:
    kind = file.suffix.lower()
    if kind == ".txt":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if kind == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    if kind == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    found = json.loads(text)
    if isinstance(found, dict) and isinstance(found.get("prompts"), list):
        return found["prompts"]
    if isinstance(found, dict):
        return [{"id": key, "prompt": value} for key, value in found.items()]
    if not isinstance(found, list):
        raise ValueError(f"{file}: expected a list of prompts, found {type(found).__name__}; write a list.")
    return found


def _prompt(file: Path, number: int, entry: Any) -> Prompt:
    text, key = entry, None
    if isinstance(entry, dict):
        text, key = entry.get("prompt", entry.get("text")), entry.get("id")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f'{file}: expected a text for prompt number {number}, found {text!r}; give "prompt".')
    named = key is not None and str(key).strip() != ""
    return Prompt(str(key).strip() if named else str(number), text.strip(), named)


def find_videos(folder: str | Path, prompts: Sequence[Prompt]) -> list[Path]:
    """The video of each prompt in a system's folder, in the prompts' order.

    A video's name without extension is the prompt's id, its number (from 0, or from 1 if there is no 0; zeros in front do not
    matter) where the file gives no ids, its text, or its text as a slug. A folder of frames counts as a video.
    ValueError, naming the prompt and the folder: none for a prompt, or more than one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a system's folder of videos, found none; check the path.")
    files = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and _is_video(file))
    names = _names(prompts, _first_number(files, prompts))
    found: list[list[Path]] = [[] for _ in prompts]
    others = []
    for file in files:
        stem = file.name if file.is_dir() else file.stem
        index = names.get(stem, names.get(_plain_number(stem), names.get(slug(stem))))
        if index is None:
            others.append(file.name)
        else:
            found[index].append(file)
    for prompt, matches in zip(prompts, found, strict=True):
        if len(matches) != 1:
            seen = "none" if not matches else " and ".join(file.name for file in matches)
            example = prompt.key if prompt.named else f"{prompt.key}.mp4 or {slug(prompt.text)}"
            raise ValueError(
                f"{folder}: expected exactly one video of the prompt {prompt.text!r} (such as {example}.mp4), found {seen}; "
                f"add or remove one."
            )
    if others:
        log.warning("%s: %d videos belong to no prompt and are left out, such as %s.", folder, len(others), others[0])
    return [matches[0] for matches in found]


def _is_video(file: Path) -> bool:
    if file.is_dir():
        return any(frame.suffix.lower() in FRAME_EXTENSIONS for frame in file.iterdir())
    return file.suffix.lower() in EXTENSIONS


def _plain_number(stem: str) -> str:
    return str(int(stem)) if stem.isascii() and stem.isdigit() else stem


def _first_number(files: Sequence[Path], prompts: Sequence[Prompt]) -> int:
    """1 if the files are numbered from 1 to the number of prompts, else 0."""
    numbers = {int(file.stem) for file in files if file.stem.isascii() and file.stem.isdigit()}
    return 1 if 0 not in numbers and len(prompts) in numbers else 0


def _names(prompts: Sequence[Prompt], first_number: int) -> dict[str, int]:
    """Name -> index of the prompt; a text that two prompts share names neither."""
    names: dict[str, int] = {}
    for shorten in (slug, str.strip):
        shared = Counter(shorten(prompt.text) for prompt in prompts)
        names.update({shorten(p.text): n for n, p in enumerate(prompts) if shared[shorten(p.text)] == 1 and shorten(p.text)})
    for number, prompt in enumerate(prompts):  # ids last: they are exact, and win
        names[prompt.key if prompt.named else str(number + first_number)] = number
        if prompt.named:
            names.setdefault(_plain_number(prompt.key), number)
    return names
