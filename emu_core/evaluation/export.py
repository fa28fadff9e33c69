"""Videos under the names that other benchmarks' tools expect."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ..media.files import write_text
from .equalise import copy_video
from .prompts import Prompt
from .sets import SetResult


def export_vbench(results: Sequence[SetResult], out: Path) -> int:
    """OUT/SYSTEM/PROMPT-K.mp4 with K from 0, as VBench names them, and OUT/SYSTEM.json: path -> prompt. Returns the videos."""
    return _export(results, out, lambda number, prompt, sample: f"{_file_name(prompt.text)}-{sample}")


def export_evalcrafter(results: Sequence[SetResult], out: Path) -> int:
    """OUT/SYSTEM/NNNN.mp4, the prompt's number from 0, as EvalCrafter names them; OUT/SYSTEM.json. Only the first sample."""
    return _export(results, out, lambda number, prompt, sample: "" if sample else f"{number:04d}")


def _file_name(text: str) -> str:
    """A prompt as VBench reads it back from a name, as far as file systems allow."""
    plain = "".join(" " if character in '/\\\0:*?"<>|' or ord(character) < 32 else character for character in text)
    return plain.encode()[:180].decode(errors="ignore").strip()


def _export(results: Sequence[SetResult], out: Path, named: Callable[[int, Prompt, int], str]) -> int:
    count = 0
    for result in results:
        folder = out / result.videos.name
        folder.mkdir(parents=True, exist_ok=True)
        broken = {file for file, _ in result.broken}
        told: dict[str, str] = {}
        for number, (prompt, files) in enumerate(result.matching.found):
            for sample, file in enumerate(file for file in files if file not in broken):
                if name := named(number, prompt, sample):
                    target = folder / f"{name}{'.mp4' if file.is_dir() else file.suffix.lower()}"
                    copy_video(file, target)
                    told[str(target.relative_to(out))] = prompt.text
                    count += 1
        write_text(out / f"{result.videos.name}.json", json.dumps(told, indent=1, ensure_ascii=False))
    return count
