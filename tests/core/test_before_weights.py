"""What can be known before weights are read is refused before: every option of every command with values that cannot be.

The trap stands where weights are read; the arguments that are right spring it, the wrong ones do not get so far.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from emu_core import networks, weights
from emu_core.base import folder, single_file
from emu_core.cli.main import build_parser, main
from emu_core.media import write_video
from emu_core.model_folder import BUNDLED

from .evaluation_tiny import tiny_clip
from .saved import SAVED

SPRUNG = "weights were read"
NUMBERS = ("nan", "inf", "x", "")
FILES = ("/nowhere/file", "HERE/notes.txt", "HERE", "", "~nobody-of-this-name/x", "a\0b", "x" * 300)
OUTPUTS = ("/nowhere/x.mp4", "HERE/x.xyz", "HERE/notes.txt/x.mp4", "", "HERE/" + "x" * 300 + ".mp4", "HERE/videos")
PICTURES = ("/nowhere/x.png", "HERE/x.xyz", "HERE/x", "", "HERE/x.mp4")
FOLDERS = ("/nowhere/a/b", "HERE/notes.txt", "HERE/notes.txt/a", "HERE/" + "x" * 300)
SAMPLING = {
    "--fps": ("0", "-1", "1000", "0.001", *NUMBERS),
    "--size": ("60x64", "big", "0x0", "-8x8", "8x", ""),
    "--steps": ("0", "-1", "1001", "1.5", "x"),
    "--sampler": ("magic", ""),
    "--text-guidance": NUMBERS,
    "--image-guidance": NUMBERS,
    "--seed": ("-1", str(2**64), "1.5", "x"),
    "--negative": (),
}
FRAMES = {
    "--frames": ("0", "-1", "513", "1.5", "x"),
    "--window": ("0", "-1", "x"),
    "--overlap": ("-1", "x"),
    "--freenoise": (),
    "--freeinit": ("0", "21", "2", "1.5", "x"),
    "--freeinit-filter": ("box", "gaussian", ""),
    "--motion": ("huge", "moderate"),
    "--cond-fps": ("8", *NUMBERS),
    "--motion-score": ("6", *NUMBERS),
}
LIMIT = ("frames", "frames=x", "frames=0", "frames=-1", "nothing=1", "frames=nan", "")
MODEL = {
    "--model": FILES,
    "--lora": ("/nowhere/x.safetensors", "HERE/notes.txt", f"{BUNDLED}/stack_F.safetensors", *FILES),
    "--vae": FILES,
    "--stack": (*FILES, f"{BUNDLED}/stack_I.safetensors", "HERE/other.safetensors", "HERE/cut.safetensors"),
    "--variant": ("animatediff", ""),
    "--interpolation-stack": (*FILES, f"{BUNDLED}/stack_F.safetensors", "HERE/cut.safetensors"),
    "--fast": (),
    "--no-fast": ("yes",),
    "--tokenizer": FILES,
    "--device": ("nonsense", "cuda:99", "", "meta"),
    "--dtype": ("int8", ""),
    "--attention": ("fast", "xformers", ""),
    "--batch-calls": ("sometimes", ""),
    "--compile": (),
    "--vae-tiling": (),
}
SCALE = {"--scale": ("0", "17", "1.5", "x", "4:cubic", ":lanczos", "")}
MAKING: dict[str, Any] = {**SAMPLING, **MODEL, **SCALE, "--out": OUTPUTS, "--sheet": PICTURES, "--json": (), "--limit": LIMIT}
TIMELINE: dict[str, Any] = {
    "--prompt": ("0-1s: ", "9s-: up", "2-1: up", "up"),
    "--past": ("0", "8", "x"),
    "--plan": (),
    "--resume": (),
}
OF_ONE_CALL = ("--frames", "--overlap", "--freenoise", "--freeinit", "--freeinit-filter")
LONG: dict[str, Any] = {**MAKING, **{name: values for name, values in FRAMES.items() if name not in OF_ONE_CALL}}
LONG |= {**TIMELINE, "--motion-lora": ("/nowhere/x.safetensors", "HERE/notes.txt")}
HOW_MANY = {
    "--format": ("avi", ""),
    "--batch": ("0", "-1", "x", "1.5", ""),
    "--resume": (),
    "--processes": ("0", "-1", "x"),
    "--threads": ("0", "-1", "x"),
    "--engine": ("spark", ""),
    "--address": ("somewhere", ""),
}
LIST = {"--prompts": (*FILES, "HERE/empty.txt"), "--samples": ("0", "-1", "x", "10000000"), **HOW_MANY}
NETWORKS = {f"--{name.replace('_', '-')}": FILES for name in networks.NETWORKS}
COMMANDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "generate": (
        ["a circle", "--out", "HERE/out.png/", "--steps", "1"],
        {
            **MAKING,
            **FRAMES,
            **LIST,
            "--only-starting-frames": ("yes",),
            "--starting-frame": PICTURES,
            "--candidates": ("0", "65", "2", "x"),
            "--clip": ("HERE/clip",),
            "--no-interpolate": (),
            "--t2i-guidance": NUMBERS,
            "--motion-lora": ("/nowhere/x.safetensors", "HERE/notes.txt", f"{BUNDLED}/stack_F.safetensors:nan"),
            **TIMELINE,
            "--length": ("0", "x", "-3", "1e9", "200000"),
        },
    ),
    "extend": (
        ["HERE/video.mp4", "up", "--by", "9", "--out", "HERE/out.mp4"],
        {**LONG, "--by": ("0", "x", "-3"), "--backwards": ()},
    ),
    "loop": (["HERE/picture.png", "up", "--out", "HERE/out.mp4"], {**LONG, "--frames": ("0", "1", "8", "x")}),
    "between": (
        ["HERE/picture.png", "HERE/picture.png", "up", "--out", "HERE/out.mp4"],
        {**LONG, "--frames": ("0", "2", "9", "x")},
    ),
    "fill": (
        ["up", "--keyframe", "0=HERE/picture.png", "--out", "HERE/out.mp4"],
        {**LONG, "--keyframe": ("x", "HERE/picture.png", "0=HERE/picture.png", "9=/nowhere/x.png"), "--length": ("0", "x")},
    ),
    "animate": (
        ["HERE/picture.png", "moves left", "--out", "HERE/out.mp4"],
        {
            **MAKING,
            **FRAMES,
            **LIST,
            "--images": ("HERE/videos", "/nowhere"),
            "--position": ("8", "-9", "99", "x"),
            "--strength": ("0", "1.5", "nan", "x"),
            "--no-interpolate": (),
            "--motion-lora": ("/nowhere/x.safetensors", "HERE/notes.txt"),
        },
    ),
    "compare": (
        ["--prompts", "HERE/prompts.txt", "--out", "HERE/many", "--system", "a:", "--system", "b: --steps 2"],
        {
            **SAMPLING,
            **MODEL,
            **SCALE,
            **FRAMES,
            **LIST,
            "--out": FOLDERS,
            "--system": ("", "a: --steps 0", "no colon", "c/d:", "a:", "c: --seed 4", "c: --frames x", "c: --stack /nowhere"),
            "--candidates": ("0", "65", "2", "x"),
            "--clip": ("HERE/clip",),
            "--no-interpolate": (),
            "--t2i-guidance": NUMBERS,
            "--motion-lora": ("/nowhere/x.safetensors", "HERE/notes.txt", f"{BUNDLED}/stack_F.safetensors:nan"),
            "--json": (),
            "--limit": LIMIT,
        },
    ),
    "interpolate": (["HERE/video.mp4", "a circle", "--out", "HERE/out.mp4"], {**MAKING, "--stitch": ("sewn", "")}),
    "convert": (
        [f"{BUNDLED}/stack_F.safetensors", "--out", "HERE/s.safetensors"],
        {
            "--out": ("/nowhere/x.safetensors", "HERE/x.ckpt", "HERE", "", "HERE/s.safetensors/x.safetensors"),
            "--image-model": ("/nowhere/x.safetensors", "HERE/x", "HERE/s.safetensors", "HERE/fine.safetensors"),
            "--variant": ("nothing",),
            "--dtype": ("int8", ""),
            "--limit": LIMIT,
        },
    ),
    "evaluate": (
        ["HERE/videos", "--prompts", "HERE/prompts.txt", "--clip", "HERE/clip"],
        {
            **MODEL,
            **SAMPLING,
            **FRAMES,
            **NETWORKS,
            "--prompts": (*FILES, "HERE/empty.txt"),
            "--videos": ("HERE/videos",),
            "--out": FOLDERS,
            "--images": ("HERE/videos", "/nowhere"),
            "--reference": ("/nowhere", "~nobody-of-this-name/x"),
            "--save-reference": ("/nowhere/x.npz", "HERE/x.npy", "HERE/x.npz"),
            "--samples": ("0", "1", "x"),
            "--export-vbench": FOLDERS,
            "--export-evalcrafter": FOLDERS,
            "--no-interpolate": (),
            "--json": (),
            "--limit": LIMIT,
            "--last": ("-1", "8", "x", "1.5", ""),
            "--photographs": ("/nowhere", "HERE/notes.txt"),
        },
    ),
    "retrieve": (
        [str(SAVED / "shards"), "--prompts", "HERE/prompts.txt", "--out", "HERE/found", "--text-network", "HERE/clip"],
        {
            "--prompts": (*FILES, "HERE/empty.txt"),
            "--out": FOLDERS,
            "--text-network": FILES[:3],
            "--vectors": ("/nowhere/x.npy", "HERE/x.txt"),
            "--device": ("nonsense", ""),
            "--json": (),
            "--limit": LIMIT,
        },
    ),
}
WHERE_ONLY_OF_TOY = (*FRAMES, "--fps", "--size", "--steps", "--sampler", "--text-guidance", "--image-guidance", "--seed", *MODEL,
                     "--last", "--photographs")  # fmt: skip
"""Options of `evaluate` that are for `evaluate toy`, which is asked with them."""
IGNORED = {
    ("evaluate", "--fps", "0.001"),
    *((name, "--prompts", "HERE/notes.txt") for name in ("compare", "evaluate", "retrieve")),
}
"""What can be after all: no file is written at that rate, and any text is prompts."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to name: right ones, and some that are something else."""
    place = tmp_path_factory.mktemp("given")
    (place / "notes.txt").write_text("hello\n")
    (place / "empty.txt").write_text("\n# nothing\n")
    (place / "prompts.txt").write_text("a big red circle moves right\n")
    Image.new("RGB", (64, 64), (200, 60, 30)).save(place / "picture.png")
    frames = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    write_video(place / "video.mp4", frames, 5.0)
    (place / "videos").mkdir()
    write_video(place / "videos" / "000.mp4", frames, 5.0)
    tiny_clip(place / "clip")
    whole = (BUNDLED / "stack_F.safetensors").read_bytes()
    (place / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (place / "other.safetensors").write_bytes((SAVED / "own.safetensors").read_bytes())
    return place


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that reads weights raises."""

    def sprung(*_: Any, **__: Any) -> Any:
        raise KeyError(SPRUNG)

    monkeypatch.setattr(weights.WeightFile, "read", sprung)
    monkeypatch.setattr(torch.jit, "load", sprung)
    for module in (folder, single_file):
        monkeypatch.setattr(module, "load_unet", sprung)
        monkeypatch.setattr(module, "load_vae", sprung)
    monkeypatch.setattr(networks._Transformers, "_class", sprung)


def placed(arguments: list[str], here: Path) -> list[str]:
    return [argument.replace("HERE", str(here)) for argument in arguments]


def leaves(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands of a parser, with those of their own."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield name, parser
    for action in inner:
        for word, below in action.choices.items():
            yield from leaves(below, f"{name} {word}".strip())


def code_of(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:  # argparse refuses by itself
        return int(stop.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_right_arguments_spring_the_trap(command: str, here: Path, trap: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of([command, *placed(COMMANDS[command][0], here)]) == 1
    assert SPRUNG in capsys.readouterr().err


def test_every_option_is_asked(here: Path) -> None:
    parsers = dict(leaves(build_parser()))
    for command, (_, values) in COMMANDS.items():
        options = {name for action in parsers[command]._actions for name in action.option_strings if name.startswith("--")}
        assert options - {"--help", "--verbose"} == set(values), command


def cases() -> Iterator[Any]:
    """Every command, option and value; of those that several commands share, one command's run by default."""
    seen = set()
    for command, (_, values) in COMMANDS.items():
        for option, wrong in values.items():
            for value in wrong:
                if (command, option, value) not in IGNORED:
                    marks = [pytest.mark.slow] if (option, value) in seen else []
                    yield pytest.param(command, option, value, marks=marks)
                    seen.add((option, value))


@pytest.mark.parametrize(("command", "option", "value"), list(cases()))
def test_what_cannot_be_is_a_sentence_before_weights_are_read(
    command: str, option: str, value: str, here: Path, trap: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    arguments = placed([*COMMANDS[command][0], f"{option}={value}"], here)
    if command == "evaluate" and option in WHERE_ONLY_OF_TOY and option != "--device":
        arguments = placed(["toy", f"{option}={value}"], here)
    code, said = code_of([command, *arguments]), capsys.readouterr().err
    assert code == 2, said[-3000:]
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("emu-video"), said
    assert sorted(here.rglob("*")) == before


OTHERS = [
    "generate circle --out HERE/out.mp4 --freenoise",
    "generate circle --out HERE/out.mp4 --window 8 --length 3s --freenoise",
    "animate HERE/picture.png circle --out HERE/out.mp4 --window 4 --freenoise",
    "generate --prompts toy --out HERE/notes.txt",
    "generate --prompts toy --out HERE/many --batch 0",
    "generate --prompts toy --out HERE/many --steps 0",
    "generate --prompts toy --out HERE/many --stack /nowhere",
    "generate --prompts toy --out HERE/many --processes 0",
    "animate --prompts toy --out HERE/many",
    "animate --prompts toy --images HERE/videos --out HERE/many",
    "animate --prompts toy --images HERE/notes.txt --out HERE/many",
    "info /nowhere",
    "info HERE/notes.txt",
    "info --config nothing",
    "info HERE/picture.png --config tiny",
    "info HERE/cut.safetensors",
    "curate HERE/videos HERE/shards --workers 0",
    "curate HERE/videos HERE/shards --shard-clips 0",
    "curate HERE/videos HERE/shards --shard-mb nan",
    "curate HERE/videos HERE/shards --shard-mb -1",
    "curate HERE/videos HERE/shards --motion-fps nan",
    "curate HERE/videos HERE/shards --motion-height 15",
    "curate HERE/videos HERE/shards --clip /nowhere",
    "curate HERE/videos HERE/shards --clip HERE/clip --device nonsense",
    "curate HERE/videos HERE/shards --aesthetic HERE/notes.txt",
    "curate /nowhere HERE/shards",
    "curate HERE/videos HERE/notes.txt",
    "curate HERE/videos HERE/videos/inside",
    "select /nowhere some --hq",
    "select HERE some --where nonsense(",
    "equalise HERE/videos HERE/out",
    "equalise HERE/videos HERE/videos HERE/out",
    "equalise a=HERE/videos b=HERE/videos HERE/notes.txt",
    "equalise a=HERE/videos b=HERE/videos HERE/out --across time",
    "equalise a=HERE/videos b=HERE/videos HERE/out --prompts /nowhere",
    "recipes nothing",
    "recipes tiny-f --set steps",
    "recipes tiny-f --set optimisation.steps=x",
    "recipes tiny-f --fit much",
    "recipes stage2_512px --base /nowhere",
    "train tiny-f --processes 0 --out HERE/run",
    "train tiny-f --max-minutes x --out HERE/run",
    "train tiny-f --out HERE/notes.txt",
    "train chain nothing --out HERE/run",
    "train tiny-f --resume --out HERE/run",
    "study create HERE/study HERE/videos --prompts HERE/prompts.txt",
    "study create HERE/study a=HERE/videos b=HERE/videos --prompts HERE/prompts.txt --raters 4",
    "study create HERE/study a=HERE/videos b=HERE/videos --prompts HERE/prompts.txt --lease-minutes nan",
    "study serve /nowhere",
    "study report /nowhere",
    "study report HERE/notes.txt",
    "study correlate /nowhere --figures HERE/notes.txt",
    "study correlate HERE/notes.txt --figures HERE/notes.txt",
    "study export /nowhere HERE/x.json",
    "study import HERE/notes.txt HERE/study",
]


@pytest.mark.parametrize("line", OTHERS)
def test_other_commands_say_a_sentence_and_write_nothing(
    line: str, here: Path, trap: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    code, said = code_of(placed(line.split(), here)), capsys.readouterr().err
    assert code == 2, said[-3000:]
    assert "Traceback" not in said
    assert sorted(here.rglob("*")) == before
