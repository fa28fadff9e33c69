"""A study is there whole or not at all, and what is half-made is called that by whoever opens it, or makes one in its place."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from emu_core.cli.main import main
from emu_core.media.files import whole_folder
from emu_core.study.create import create_study
from emu_core.study.database import APPLICATION_ID
from emu_core.study.lock import ServerLock
from emu_core.study.store import Study

from ..study.serving import ROOT


def half_made(folder: Path, kind: str) -> None:
    """What the program, or an earlier version of it, leaves that is killed while it makes a study."""
    if kind == "no row":
        Study.create(folder).close()
    else:
        (folder / "videos").mkdir(parents=True)
    if kind == "videos":
        (folder / "videos" / f"{'0' * 16}.mp4").write_bytes(b"0")
    elif kind == "empty store":
        (folder / "study.sqlite").touch()
    elif kind != "folder":
        with closing(sqlite3.connect(folder / "study.sqlite")) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}" if kind == "marks alone" else "DELETE FROM study")
            db.commit()


@pytest.mark.parametrize("kind", ["folder", "videos", "empty store", "marks alone", "no row"])
def test_a_half_made_study_is_called_that(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "study"
    half_made(folder, kind)
    for arguments in (["report", str(folder)], ["serve", str(folder)], ["export", str(folder), str(tmp_path / "x.csv")]):
        assert main(["study", *arguments]) == 2
        assert "found a half-made one, whose creation was ended on the way; delete this folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "videos", "empty store"])
def test_none_is_made_over_a_half_made_one(tmp_path: Path, kind: str, systems: dict[str, Path], prompts: Path) -> None:
    half_made(tmp_path / "study", kind)
    with pytest.raises(ValueError, match="half-made"):
        create_study(tmp_path / "study", systems, prompts)
    with pytest.raises(ValueError, match="half-made"):
        Study.create(tmp_path / "study")


def test_what_was_left_is_swept_or_named(
    tmp_path: Path, systems: dict[str, Path], prompts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What has a lock that nobody holds is swept; what an earlier version left has none, so it is named and stays."""
    create_study(tmp_path / "study", systems, prompts)
    part = tmp_path / f".{'0' * 32}.part"
    (tmp_path / "study").rename(part)
    with pytest.raises(ValueError, match="half-made"):
        Study(part)
    create_study(tmp_path / "study", systems, prompts)
    assert part.is_dir()
    assert f"{part}: a half-made study, whose creation was ended on the way" in caplog.text
    lock = ServerLock(part, "making.lock")
    lock.take("")
    create_study(tmp_path / "other", systems, prompts)
    assert part.is_dir()  # somebody is making it
    lock.release()
    create_study(tmp_path / "third", systems, prompts)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other", "prompts.txt", "study", "third"]
    assert sorted(file.name for file in (tmp_path / "third").iterdir()) == ["study.sqlite", "videos"]


@pytest.mark.parametrize("moment", ["before the lock", "after the lock", "while it is swept"])
def test_what_was_killed_while_it_had_no_lock_is_swept(tmp_path: Path, moment: str) -> None:
    """By the number of its process, which is in the name; one that runs is left alone, and so is what is no study."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    parts = []
    for process in (int(gone.stdout), os.getpid()):
        with whole_folder(tmp_path / "name") as made:
            parts.append(made.with_name(made.name.replace(f"-{os.getpid()}-", f"-{process}-")))
        (tmp_path / "name").rmdir()
    for part in parts:
        part.mkdir()
        if moment != "before the lock":
            Study.begin(part).close()
        if moment == "while it is swept":
            (part / "study.sqlite").unlink()
    other = parts[0].with_name(f"{parts[0].name[:-13]}{'0' * 8}.part")
    other.mkdir()
    (other / "frames.png").touch()
    Study.create(tmp_path / "next").close()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([other.name, parts[1].name, "next"])


def test_parts_that_cannot_be_swept_stop_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user, or gone by the time: another creation sweeps too."""
    part = tmp_path / f".{'0' * 32}.part"
    part.mkdir()
    (part / "making.lock").touch()

    def gone(lock: ServerLock, address: str) -> None:
        if lock.path.parent == part:
            raise FileNotFoundError(lock.path)
        take(lock, address)

    take = ServerLock.take
    monkeypatch.setattr(ServerLock, "take", gone)
    Study.create(tmp_path / "study").close()
    assert (tmp_path / "study" / "study.sqlite").is_file()


@pytest.mark.parametrize("names", [["videos/holiday.mp4"], ["videos/0123456789abcdef.mp4", "notes.txt"], []])
def test_a_folder_of_the_users_is_not_called_half_made(tmp_path: Path, names: list[str]) -> None:
    """Nobody is told to delete it."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"expected a study's folder with study\.sqlite, found none"):
        Study(tmp_path)


def test_a_failed_creation_from_python_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="odd number"):
        Study.create(tmp_path / "new" / "study", raters=4)
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(ValueError, match="new or empty folder"):
        Study.create(tmp_path / "full")
    Study.create(tmp_path / "new").close()  # an empty folder is none
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["study.sqlite", "videos"]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_creation_leaves_no_half_study(tmp_path: Path, systems: dict[str, Path], prompts: Path, kills: int) -> None:
    """At random moments: there is none or a whole one, and the next creation sweeps what is left and makes the same."""
    command = [sys.executable, "-c", "import sys; from emu_core.cli.main import main; sys.exit(main())", "study", "create"]
    arguments = [*map(str, systems.values()), "--prompts", str(prompts), "--seed", "1"]
    started = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole"), *arguments], check=True, capture_output=True, cwd=ROOT)
    length, generator, completed = time.monotonic() - started, random.Random(kills), 0
    with Study(tmp_path / "whole") as study:
        expected = study.results().pairs
    for number in range(kills):
        out = tmp_path / f"out {number}"
        process = subprocess.Popen([*command, str(out), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        time.sleep(length * generator.uniform(0.3, 1.1))
        process.kill()
        process.communicate()
        if out.exists():
            completed += 1
            with Study(out) as study:
                assert study.results().pairs == expected
    subprocess.run([*command, str(tmp_path / "last"), *arguments], check=True, capture_output=True, cwd=ROOT)
    with Study(tmp_path / "last") as study:
        assert study.results().pairs == expected
    names = sorted(file.name for file in tmp_path.iterdir())
    assert len(names) == 3 + completed
    assert not [name for name in names if name.startswith(".")]
