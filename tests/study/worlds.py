"""Small studies for tests: clips of the procedural world as three systems, and votes as raters with known tastes give them."""

from __future__ import annotations

import argparse
import random
import sys
from importlib import import_module
from pathlib import Path

import torch

from emu_core.cli.study import add
from emu_core.media import write_video
from emu_core.study.questions import QUESTIONS, reason_keys
from emu_core.study.store import Rater, Study
from emu_core.toy import shapes

SYSTEMS = ("ours", "blurred", "frozen")


def run(*arguments: str) -> None:
    """`emu-video study ...`, from the same parser and functions."""
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    options = parser.parse_args(["study", *arguments])
    module, _, function = options.run.partition(":")
    getattr(import_module(module), function)(options)


def captions(count: int) -> list[str]:
    """The first `count` captions of the world that are all different."""
    texts = dict.fromkeys(shapes.clip(5, index).caption for index in range(3 * count))
    return list(texts)[:count]


def make_systems(folder: Path, prompts: list[str], systems: tuple[str, ...] = SYSTEMS, seconds: float = 1.5) -> list[Path]:
    """A folder of mp4 a system, numbered: the clip as it is, out of focus, and without motion. 128 x 128, 8 frames a second."""
    times = torch.arange(round(8 * seconds)) / 8
    for number, text in enumerate(prompts):
        known = shapes.read_caption(text)
        assert known is not None
        clip = shapes.Clip(**{**vars(known), "start": (28.0 + number % 9, 32.0)})
        sharp = (shapes.render([clip], times)[0] + 1) / 2
        for system in systems:
            frames = {"blurred": blur, "frozen": lambda video: video[:1].expand_as(video)}.get(system, lambda video: video)(sharp)
            frames = torch.nn.functional.interpolate(frames, scale_factor=2, mode="bilinear")
            (folder / system).mkdir(parents=True, exist_ok=True)
            tags = {"prompt": text, "model": system}
            write_video(folder / system / f"{number:03d}.mp4", frames.permute(0, 2, 3, 1).clamp(0, 1), 8, tags)
    return [folder / system for system in systems]


def blur(video: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(video, 7, stride=1, padding=3, count_include_pad=False)


def make_study(folder: Path, count: int, *options: str, systems: tuple[str, ...] = SYSTEMS) -> Path:
    """A study of `count` prompts, through the command."""
    prompts = captions(count)
    (folder / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    folders = make_systems(folder / "systems", prompts, systems)
    run("create", str(folder / "study"), *map(str, folders), "--prompts", str(folder / "prompts.txt"), *options)
    return folder / "study"


def empty_pairs(study: Study, count: int) -> None:
    """`count` pairs of two systems whose "videos" are a few bytes: for tests that never look at them."""
    with study.transaction() as db:
        db.executemany("INSERT INTO systems (name) VALUES (?)", [("a",), ("b",)])
        for number in range(1, count + 1):
            db.execute("INSERT INTO prompts (key, text) VALUES (?, ?)", (f"{number:04d}", f"prompt {number}"))
            for system in (1, 2):
                name = f"{number}-{system}.mp4"
                values = (number, system, name, f"{system}" * 64)
                db.execute("INSERT INTO videos (prompt_id, system_id, file, sha256) VALUES (?, ?, ?, ?)", values)
                (study.folder / "videos" / name).write_bytes(b"0" * 2000)
            db.execute(
                "INSERT INTO pairs (prompt_id, first_id, second_id) VALUES (?, ?, ?)", (number, 2 * number - 1, 2 * number)
            )


def answer(question: str, side: str, *reasons: str) -> dict[str, object]:
    return {"choice": side, "reasons": list(reasons or reason_keys(question)[:1]), "ms": 1500}


def vote_all(study: Study, raters: int, likes_first: float, seed: int = 0) -> None:
    """Raters who take each pair's first system with this probability, until nothing is open to them."""
    generator = random.Random(seed)
    for number in range(raters):
        rater: Rater = study.join(f"rater {number}")[0]
        while task := study.next_pair(rater):
            pair = study._all("SELECT pair_id FROM seats WHERE rater_id = ? AND expires_ms IS NOT NULL", rater.id)[0][0]
            left = study.sides(rater.id, pair)["left"] == "first"
            answers = []
            for question in QUESTIONS:
                side = "left" if (generator.random() < likes_first) == left else "right"
                reasons = generator.sample(reason_keys(question.key), generator.randint(1, 2))
                answers.append(answer(question.key, side, *reasons))
            study.vote(rater, f"{generator.getrandbits(128):032x}", task.key, *answers)


def vote_all_by(study: Study, name: str, pairs: int) -> None:
    """One more rater, who takes the left video of so many pairs."""
    rater = study.join(name)[0]
    for number in range(pairs):
        task = study.next_pair(rater)
        assert task is not None
        uid = f"{rater.id:08d}{number:08d}"
        study.vote(rater, uid, task.key, answer("quality", "left"), answer("faithfulness", "left"))


if __name__ == "__main__":
    run(*sys.argv[1:])
