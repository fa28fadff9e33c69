"""What the command line says when something is wrong: a sentence to a user, a traceback of a fault of the program."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emu_core.cli import description
from emu_core.cli.main import build_parser, main
from emu_core.cli.options import progress_bar
from emu_core.cli.said import LOWER, Told
from emu_core.errors import ISSUES, Stopped, UserError, of_one_item, out_of_memory
from emu_core.media import read_image
from emu_core.model_folder import BUNDLED

from .saved import ROOT, surroundings
from .test_before_weights import COMMANDS, leaves

if sys.version_info >= (3, 11):
    import tomllib


def ended(monkeypatch: pytest.MonkeyPatch, capsys: Any, error: Any, *arguments: str) -> tuple[int, str]:
    """How `info` ends where this is raised, or comes of a call, in it; and what it says."""

    def fails(*_: Any, **__: Any) -> Any:
        if isinstance(error, BaseException):
            raise error
        return error()

    monkeypatch.setattr(description, "describe_file", fails)
    return main([*arguments, "info"]), capsys.readouterr().err


def test_a_user_s_error_is_a_sentence_and_v_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for error in (UserError("x.png: expected a picture,\n found none"), Stopped("x.png: expected a picture, found none")):
        assert ended(monkeypatch, capsys, error) == (2, "emu-video: x.png: expected a picture, found none\n")
        code, said = ended(monkeypatch, capsys, error, "-v")
        assert (code, "Traceback" in said, said.splitlines()[-1]) == (
            2,
            True,
            "emu-video: x.png: expected a picture, found none",
        )


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("a"), RuntimeError("b"), OSError("c"), ConnectionError("d")])
def test_a_fault_of_the_program_asks_for_a_report(monkeypatch: pytest.MonkeyPatch, capsys: Any, error: Exception) -> None:
    code, said = ended(monkeypatch, capsys, error)
    assert (code, "Traceback" in said) == (1, True)
    assert f"report it with all of the above at {ISSUES} (emu-video 0.1.0, Python 3." in said
    assert f"torch {torch.__version__}" in said


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_reports_go_where_the_package_says() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Issues"] == ISSUES


@pytest.mark.parametrize("code", ["ENOENT", "EACCES", "ENOSPC", "ENAMETOOLONG", "ENOTDIR", "EADDRINUSE"])
def test_errors_of_the_system_are_sentences(monkeypatch: pytest.MonkeyPatch, capsys: Any, code: str) -> None:
    number = getattr(errno, code)
    found = ended(monkeypatch, capsys, OSError(number, os.strerror(number), "some/file"))
    assert found == (2, f"emu-video: some/file: {os.strerror(number)}\n")


OUT_OF_MEMORY = {
    "torch on a CPU": lambda: torch.empty(2**45),
    "numpy": lambda: np.ones((2**25, 2**25)),
    "Python": lambda: bytearray(2**60),
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 17.99 GB)"),
    "a fork": OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
}


@pytest.mark.parametrize("what", OUT_OF_MEMORY)
def test_out_of_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch, capsys: Any, what: str) -> None:
    monkeypatch.setitem(LOWER, "info", "lower this")
    code, said = ended(monkeypatch, capsys, OUT_OF_MEMORY[what])
    assert (code, said.count("\n"), said.startswith("emu-video: memory has run out (")) == (2, 1, True), said
    assert said.endswith("): lower this\n")


def test_out_of_memory_behind_another_error_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture whose pixels do not fit into memory is no broken picture."""
    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setattr("PIL.Image.open", lambda *_: bytearray(2**60))
    with pytest.raises(ValueError, match="a.png") as caught:
        read_image(tmp_path / "a.png")
    assert out_of_memory(caught.value)


def test_commands_that_compute_say_what_to_lower() -> None:
    options = {name: set(parser._option_string_actions) for name, parser in leaves(build_parser())}
    for command, advice in LOWER.items():
        named = {word.strip("(),;:") for word in advice.split() if word.strip("(),;:").startswith("--")}
        assert named <= options[command], command


@pytest.mark.parametrize("command", [name for name, _ in leaves(build_parser())])
def test_v_stands_before_or_behind_any_command(command: str) -> None:
    parser = dict(leaves(build_parser()))[command]
    needed = [a for a in parser._actions if not a.option_strings and a.nargs != "?"]
    given = [*command.split(), *("x" for a in needed for _ in range(2 if a.nargs == "+" else 1))]
    for action in parser._actions:
        if action.required and action.option_strings:
            given += [action.option_strings[-1], "x"]
    given += ["--hq"] if command == "select" else []
    assert not build_parser().parse_args(given).verbose
    assert build_parser().parse_args(["-v", *given]).verbose
    assert build_parser().parse_args([*given, "-v"]).verbose
    assert command.split()[0] in {*COMMANDS, "info", "curate", "select", "equalise", "study", "lab", "recipes", "train"}


@pytest.mark.parametrize(
    ("command", "lines", "status"),
    [
        ("recipes --json", 1, 141), ("--version", 0, 141), ("--help", 0, 141), ("nothing", 0, 2),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("recipes", 0, 141), ("info --json", 0, 141))),
    ],
)  # fmt: skip
def test_a_reader_that_goes_away_ends_it_quietly(command: str, lines: int, status: int) -> None:
    """At once, or behind the first line as `head -n 1` does: by then all may be written, and that is no failure. With standard
    error in the same pipe, and not; buffered, as Python is where nobody says otherwise."""
    whole = [sys.executable, "-m", "emu_core", *command.split()]
    around = {name: value for name, value in surroundings().items() if name != "PYTHONUNBUFFERED"}
    error = subprocess.STDOUT if lines == 0 and status == 2 else subprocess.PIPE
    reads, writes = os.pipe()
    with os.fdopen(reads, "rb") as reader:
        if lines == 0:
            reader.close()  # before it begins, for a busy machine may run all of it before this line otherwise
        with subprocess.Popen(whole, stdout=writes, stderr=error, cwd=ROOT, env=around) as process:
            os.close(writes)
            for _ in range(lines):
                reader.readline()
            reader.close()
            said = process.stderr.read() if process.stderr else b""
    assert process.returncode in ({status} if lines == 0 or status == 2 else {0, status})
    assert b"Broken" not in said
    assert b"Traceback" not in said
    assert bool(said) == (status == 2 and error == subprocess.PIPE)


def test_a_warning_stands_above_the_bars_and_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a terminal shows it: what stands on a line goes where the cursor comes back to its beginning and writes on."""
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    logger, told = logging.Logger("of a command"), Told()
    logger.addHandler(told)
    with progress_bar("videos", 2) as moved:
        for _ in range(2):
            logger.warning("the model does not know %s", "dolphin")
            moved(1)
    lines = [line.rpartition("\r")[2].strip() for line in shown.getvalue().rstrip("\n").split("\n")]
    assert (lines[0], len(lines)) == ("the model does not know dolphin", 2)
    assert lines[1].startswith("videos: 100%")


@pytest.mark.slow
@pytest.mark.parametrize(("closed", "expected"), [("1>&-", 0), ("2>&-", 0), ("2>/dev/full", 0), (">/dev/full", 2)])
def test_streams_that_take_nothing(closed: str, expected: int) -> None:
    """As a program without a console has them, and a full disk."""
    command = f'"{sys.executable}" -m emu_core recipes {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, env=surroundings())
    said = "emu-video: No space left on device\n" if expected else ""
    assert (done.returncode, done.stderr) == (expected, said)
    wrong = command.replace("recipes", "info /nowhere")
    done = subprocess.run(["sh", "-c", wrong], capture_output=True, text=True, cwd=ROOT, env=surroundings())
    assert (done.returncode, done.stdout) == (2, "")


def test_only_a_reader_of_ours_that_went_away_ends_it_quietly(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A pipe to a process of our own that broke is a fault of the program, also where the output goes into a pipe."""
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "w") as out:  # noqa: PTH123 - numbers of open files
        monkeypatch.setattr(sys, "stdout", out)
        code, said = ended(monkeypatch, capsys, BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (code, "BrokenPipeError" in said) == (1, True)


def test_one_item_of_many() -> None:
    assert of_one_item(UserError("broken")) == "broken"
    assert of_one_item(KeyError("a")) == "KeyError: 'a'"
    assert of_one_item(MemoryError()) == "memory has run out"
    full = UserError("cannot be written")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    for error in (full, torch.OutOfMemoryError("CUDA out of memory")):
        with pytest.raises(type(error)):
            of_one_item(error)


@pytest.mark.slow
def test_of_two_processes_one_speaks(tmp_path: Path) -> None:
    """A loss that overflows in both at once."""
    command = ["train", "tiny-f", "--processes", "2", "--out", str(tmp_path / "run"), "--set", "optimisation.rate=2e9"]
    few = [
        f"base={BUNDLED}",
        "optimisation.batch=2",
        "cache=4",
        "optimisation.steps=20",
        "optimisation.warmup=0",
        "optimisation.clip=2e9",
    ]
    settings = [part for setting in few for part in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "emu_core", *command, *settings], capture_output=True, text=True, cwd=ROOT, env=surroundings()
    )
    _, *said = done.stderr.split("emu-video: ")  # it may stand behind the other process's bar
    assert (done.returncode, len(said)) == (2, 1), done.stderr[-3000:]
    assert "is nan at step" in said[0] or "is inf at step" in said[0]
    assert "Traceback" not in done.stderr
