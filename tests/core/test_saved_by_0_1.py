"""Files that version 0.1.0 wrote, and its command lines, go on working: stacks, recipes, interrupted runs, shards, a study.

How the files came to be is in fixtures/README.md.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.core.saved import PROMPT, SAVED, emu, narrow_model, serving

EXPECTED: dict[str, Any] = json.loads((SAVED / "expected.json").read_text())
STAGE_LOSS = 1e-3  # relative: the same step from the same weights, on whichever machine


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return narrow_model(tmp_path_factory.mktemp("model") / "narrow")


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(SAVED / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# -- stacks


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own", {"family": "emu", "base": "tiny", "role": "F (video)", "frames": 8, "fps": 4.0}),
        ("converted", {"family": "animatediff", "role": "F (video)", "frames": 16, "max_frames": 16, "fps": 8.0}),
    ],
)
def test_a_stack_is_described_and_makes_a_video(name: str, said: dict[str, Any], narrow: Path, tmp_path: Path) -> None:
    file = SAVED / f"{name}.safetensors"
    found = json.loads(emu("info", file, "--json"))
    assert {key: found[key] for key in said} == said
    assert found["temporal_parameters"] == sum(value.numel() for value in load_file(file).values())
    assert found["recommended"].pop("sampler") == "ddim"  # which a file may name since; then, all were sampled with it
    assert found == EXPECTED["info"][name] | {"file": str(file)}
    common = ["--model", narrow, "--stack", file, "--steps", "2", "--size", "64x64", "--frames", "4", "--no-interpolate"]
    emu("generate", PROMPT, "--out", tmp_path / "frames", *common)
    pictures = [Image.open(path).tobytes() for path in sorted((tmp_path / "frames").glob("*.png"))]
    assert len(set(pictures)) == 4


# -- training


@pytest.mark.parametrize("name", ["world", "shards", "autoencoder", "text_to_image", "lora"])
def test_a_run_starts_from_a_saved_recipe(name: str, narrow: Path, tmp_path: Path) -> None:
    """Its first step has the loss that it had, on a base that is there still. As it stands it starts on today's bundled model,
    which is another; its autoencoder is all that the image model's recipe reads."""
    if name == "lora" and not find_spec("peft"):
        pytest.skip("training a LoRA needs peft, and it is not installed")
    file = SAVED / "recipes" / f"{name}.json"
    base = ["--set", f"base={narrow}"] if name in ("world", "shards", "text_to_image") else []
    emu("train", file, "--out", tmp_path / "run", "--max-minutes", "0", *base)
    if base:
        emu("train", file, "--out", tmp_path / "today", "--max-minutes", "0")
    assert rows(tmp_path / "run")[0]["loss"] == pytest.approx(EXPECTED["first_loss"][name], rel=STAGE_LOSS)
    assert list((tmp_path / "run" / "model").rglob("*.safetensors"))


def test_a_saved_recipe_can_be_changed_and_is_checked(tmp_path: Path) -> None:
    file = SAVED / "recipes" / "world.json"
    for change, said in (
        ("optimisation.steps=0", "optimisation.steps must be 1 or more, found 0"),
        ("role=I", "an interpolation model is trained on 37 frames"),
        ("compute.micro=3", "do not divide into compute.micro=3"),
    ):
        assert said in emu("train", file, "--out", tmp_path / "run", "--set", change, status=2)
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_goes_on_to_the_end_it_would_have_had(narrow: Path, tmp_path: Path) -> None:
    (tmp_path / "narrow").symlink_to(narrow)
    run = unpacked("run", tmp_path)
    emu("train", "run/recipe.json", "--out", "run", "--resume", cwd=tmp_path)
    found, expected = rows(run), EXPECTED["run"]
    assert [row["step"] for row in found] == [1, 2]
    assert found[0] == expected[0]  # written then
    assert found[1] == pytest.approx(expected[1], rel=STAGE_LOSS)
    assert emu("info", run / "model" / "stack_F.safetensors")


def test_an_interrupted_chain_goes_on_where_it_stopped(narrow: Path, tmp_path: Path) -> None:
    """Its first stage is done and is passed over; the others follow from it."""
    (tmp_path / "narrow").symlink_to(narrow)
    chain = unpacked("chain", tmp_path)
    first = chain / "1-stage1_256px"
    before = {file.name: file.read_bytes() for file in first.rglob("*") if file.is_file()}
    emu("train", "chain", *EXPECTED["chain_arguments"], "--resume", cwd=tmp_path)
    assert {file.name: file.read_bytes() for file in first.rglob("*") if file.is_file()} == before
    for stage, loss in EXPECTED["chain"].items():
        assert rows(chain / stage)[0]["loss"] == pytest.approx(loss, rel=STAGE_LOSS)
    assert json.loads((chain / "done.json").read_text()) == {"stages": [name[2:] for name in EXPECTED["chain"]]}


# -- shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAVED / "shards", tmp_path / "shards"))


def test_curating_again_adds_nothing(shards: Path) -> None:
    before = {file.name: file.read_bytes() for file in shards.glob("*.tar")}
    sizes = ["--motion-fps", "8", "--motion-height", "64", "--shard-clips", "3", "--workers", "1"]
    counts = json.loads(emu("curate", SAVED / "videos", shards, *sizes, "--json"))
    assert (counts["added"], counts["known"], counts["total"]) == (0, 4, 4)
    assert {file.name: file.read_bytes() for file in shards.glob("*.tar")} == before


def test_further_videos_are_added_and_selected(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for suffix in (".mp4", ".txt"):
        shutil.copy(SAVED / "videos" / f"clip-00001{suffix}", tmp_path / "more" / f"again{suffix}")
    sizes = ["--motion-fps", "8", "--motion-height", "64", "--shard-clips", "3", "--workers", "1"]
    counts = json.loads(emu("curate", tmp_path / "more", shards, *sizes, "--json"))
    assert (counts["added"], counts["total"]) == (1, 5)
    chosen = json.loads(emu("select", shards, "long", "--where", "duration >= 2", "--json"))
    assert (chosen["count"], chosen["of"]) == (5, 5)


# -- a study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return unpacked("study", tmp_path)


REPORT = (SAVED / "study_report.json").read_text()


def test_the_report_of_a_study_is_the_same_to_the_byte(study: Path, tmp_path: Path) -> None:
    assert emu("study", "report", study, "--json") == REPORT
    for kind in ("json", "csv"):
        assert emu("study", "report", SAVED / f"study.{kind}", "--json") == REPORT
        emu("study", "export", study, tmp_path / f"again.{kind}")
        assert (tmp_path / f"again.{kind}").read_text() == (SAVED / f"study.{kind}").read_text()


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_an_export_becomes_a_study_and_is_known_to_its_own(kind: str, study: Path, tmp_path: Path) -> None:
    emu("study", "import", SAVED / f"study.{kind}", tmp_path / "taken")
    assert json.loads(emu("study", "report", tmp_path / "taken", "--json"))["questions"] == json.loads(REPORT)["questions"]
    assert "0 new votes, 5 that were there already" in emu("study", "import", SAVED / f"study.{kind}", study)


def test_a_study_is_served_and_takes_the_vote_that_it_lacks(study: Path) -> None:
    with serving(study) as address:
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

        def post(name: str, body: dict[str, Any]) -> dict[str, Any]:
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{address}api/{name}", json.dumps(body).encode(), headers)
            with opener.open(request, timeout=30) as answer:
                return json.load(answer)

        with opener.open(f"{address}api/state", timeout=30) as answer:
            questions = json.load(answer)["questions"]
        post("join", {"name": "Eve"})
        pair = post("next", {})["pair"]
        with opener.open(f"{address}{pair['left']}", timeout=30) as video:
            assert video.read()[4:8] == b"ftyp"
        answers = {q["key"]: {"choice": "left", "reasons": [q["reasons"][0]["key"]], "ms": 900} for q in questions}
        assert post("vote", {"id": "e" * 32, "pair": pair["key"], **answers}) == {"stored": True, "repeated": False}
        assert post("next", {})["status"] == "finished"
    report = json.loads(emu("study", "report", study, "--json"))
    assert (report["study"]["votes"], report["study"]["complete_pairs"]) == (6, 2)


# -- the command line


COMMANDS: dict[str, list[dict[str, Any]]] = json.loads((SAVED / "commands.json").read_text())
ANY = "depends on the machine"


def describe(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each command with its arguments as a parser takes them."""
    arguments = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from describe(inner, f"{name} {word}".strip())
        elif not isinstance(action, argparse._HelpAction | argparse._VersionAction):
            arguments.append(
                {
                    "options": list(action.option_strings), "dest": None if action.option_strings else action.dest,
                    "nargs": action.nargs, "choices": list(action.choices) if action.choices else None,
                    "default": ANY if "--workers" in action.option_strings else action.default,
                    "type": getattr(action.type, "__name__", None), "required": action.required,
                    "repeated": isinstance(action, argparse._AppendAction),
                }
            )  # fmt: skip
    yield name, arguments


def commands() -> dict[str, list[dict[str, Any]]]:
    """Of the parser that `python -m emu_core` really uses."""
    seen: list[argparse.ArgumentParser] = []

    class Seen(Exception):
        pass

    def stop(parser: argparse.ArgumentParser, *arguments: Any, **settings: Any) -> None:
        seen.append(parser)
        raise Seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", ["emu-video"])
        with pytest.raises(Seen):
            runpy.run_module("emu_core", run_name="__main__")
    return dict(describe(seen[0]))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_still_taken(name: str) -> None:
    """New ones may come; none may go, change its default, want other values or become required."""
    found = commands()[name]
    places, before = ([a for a in each if not a["options"]] for each in (found, COMMANDS[name]))
    for place, known in zip(places, before, strict=True):
        left_out = place["nargs"] == "?" and known["nargs"] is None  # what had to be there may be left out since
        assert place == ({**known, "nargs": "?", "required": False} if left_out else known)
    for argument in COMMANDS[name]:
        if argument["options"]:
            same = next((a for a in found if set(argument["options"]) <= set(a["options"])), None)
            assert same is not None, argument["options"]
            if argument["options"] == ["--sampler"]:  # without it the stack's own since, which is ddim for all of then
                assert (argument["default"], same["default"]) == ("ddim", None)
                same = {**same, "default": "ddim"}
            if "--verbose" in argument["options"]:  # left out, it does not undo one that stands before the command
                assert same["default"] == argparse.SUPPRESS
                same = {**same, "default": argument["default"]}
            choices = same["choices"] and [c for c in same["choices"] if c in (argument["choices"] or ())]
            assert {**same, "options": argument["options"], "choices": choices} == argument
    assert all(not a["required"] for a in found if a["options"] and not any(a["options"] == b["options"] for b in COMMANDS[name]))
