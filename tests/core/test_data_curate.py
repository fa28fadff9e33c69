"""Curation of real files, broken ones among them; killed, resumed, run again, by one worker and by two."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from fractions import Fraction
from functools import cache, partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from emu_core.cli import curate as commands
from emu_core.data import curate as work
from emu_core.data import engines
from emu_core.data import table as storage
from emu_core.data.curate import Curation, Summary, curate
from emu_core.data.engines import ProcessEngine
from emu_core.data.files import TarWriter, locked
from emu_core.data.report import count_reasons
from emu_core.data.sources import key_of, listing
from emu_core.data.table import INDEX, INDEX_TYPE, TABLE

from .test_data_motion import counting, encoded, lying, sliding, sound_only, webm
from .test_data_scores import save_clip, save_head

SMALL = Curation(motion_fps=None, motion_height=None, shard_clips=3)


def put(folder: Path, name: str, data: bytes, caption: str | bytes | None = "a thing") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if caption is not None:
        text = caption.encode() if isinstance(caption, str) else caption
        path.with_suffix(".json" if text[:1] == b"{" else ".txt").write_bytes(text)


def fill_good(folder: Path) -> None:
    """Ten usable clips."""
    for index in range(5):
        put(folder, f"plain {index}.mp4", encoded(sliding((index % 3, 0), 8 + index, 32, 48)), f"clip {index}\n\n moves ")
    put(folder, "deep/er/x.y.mp4", encoded(counting(14), 7), '{"caption": "größer 狐"}')
    put(folder, "film.mp4", encoded(counting(9), Fraction(24000, 1001)), '{"text": "by text", "other": 1}')
    put(folder, "web.webm", webm(counting(6, 34, 50), 10))
    put(folder, "apple.mov", encoded(counting(6), form="mov"))
    put(folder, "lying.mp4", lying(encoded(counting(6))))


@cache
def problems() -> dict[str, tuple[bytes, str | bytes | None, str]]:
    """One file of each that cannot be used: its bytes, its caption, and why."""
    good = encoded(counting(4))
    return {
        "cut.mp4": (encoded(counting(24))[:700], "a thing", "broken file"),
        "garbage.mp4": (os.urandom(2000), "a thing", "broken file"),
        "empty.mp4": (b"", "a thing", "empty file"),
        "sound.mp4": (sound_only(), "a thing", "only audio"),
        "still.mp4": (encoded(counting(1)), "a thing", "at least 2 frames"),
        "tiny.mp4": (encoded(counting(3, 6, 16)), "a thing", "at least 8 px"),
        "silent.mp4": (good, None, "no caption"),
        "blank.mp4": (good, " \n", "caption empty"),
        "no-json.mp4": (good, "{oops", "not JSON"),
        "no-field.mp4": (good, '{"title": "x"}', 'no "caption"'),
        "latin.mp4": (good, "größe".encode("latin-1"), "not UTF-8"),
        "notes.md": (b"read me", None, "not a video"),
        "orphan.txt": (b"a caption", None, "without a video"),
    }


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in") / "wild"
    fill_good(folder)
    for name, (data, caption, _) in problems().items():
        put(folder, name, data, caption)
    put(folder, ".hidden.mp4", encoded(counting(4)), None)
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in") / "good"
    fill_good(folder)
    return folder


@pytest.fixture(scope="module")
def whole(good: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of an uninterrupted run over `good`."""
    out = tmp_path_factory.mktemp("out") / "whole"
    curate([str(good)], out, SMALL)
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != work.LOCK and p.suffix != ".png")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def table(out: Path) -> list[dict[str, Any]]:
    return parquet.read_table(out / TABLE).to_pylist()


def left_out(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / work.LEFT_OUT).read_text(encoding="utf-8").splitlines()]


# -- what comes out


def test_everything_is_either_in_the_shards_or_listed_with_its_reason(wild: Path, tmp_path: Path) -> None:
    summary = curate([str(wild)], tmp_path / "out", SMALL)
    assert summary == Summary(added=10, known=0, left_out=len(problems()), total=10)
    reasons = {Path(entry["source"]).name: entry["reason"] for entry in left_out(tmp_path / "out")}
    assert reasons.keys() == problems().keys()
    for name, (_, _, said) in problems().items():
        assert said in reasons[name], (name, reasons[name])
        assert str(wild) not in reasons[name]
    keys = [entry["key"] for entry in table(tmp_path / "out") + left_out(tmp_path / "out")]
    assert sorted(item.key for item in listing([str(wild)])) == sorted(keys)


def test_the_shards_are_webdataset_tars_and_the_index_says_where_each_member_lies(good: Path, tmp_path: Path) -> None:
    curate([str(good)], tmp_path, SMALL)
    rows, index = table(tmp_path), np.load(tmp_path / INDEX, mmap_mode="r")
    assert (index.dtype, index.dtype.itemsize, [row["shard"] for row in rows]) == (INDEX_TYPE, 28, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3])
    at = 0
    for number in range(4):
        with tarfile.open(tmp_path / f"clips-{number:06d}.tar") as tar:
            members = tar.getmembers()
            for video, about in zip(members[::2], members[1::2], strict=True):
                row, entry = rows[at], index[at]
                key = row["key"]
                assert "." not in key
                assert (video.name, about.name) == (f"{key}.mp4", f"{key}.json")
                assert (video.offset_data, video.size) == (entry["video"], entry["video_size"])
                assert (about.offset_data, about.size) == (entry["json"], entry["json_size"])
                assert entry["shard"] == row["shard"] == number
                facts = json.load(tar.extractfile(about))  # type: ignore[arg-type]
                assert (facts, facts.keys() | set(storage.LOCATION)) == ({name: row[name] for name in facts}, row.keys())
                if not row["transcoded"]:
                    assert tar.extractfile(video).read() == Path(row["source"]).read_bytes()  # type: ignore[union-attr]
                at += 1
    assert (at, (tmp_path / "clips-000000.tar").stat().st_size % 10240) == (10, 0)


def test_the_columns_say_what_the_files_are(good: Path, tmp_path: Path) -> None:
    curate([str(good)], tmp_path, SMALL)
    rows = {Path(row["source"]).name: row for row in table(tmp_path)}
    assert (rows["plain 2.mp4"]["caption"], rows["plain 2.mp4"]["motion_score"]) == ("clip 2 moves", pytest.approx(2, rel=0.05))
    assert rows["plain 0.mp4"]["motion_min"] < 0.05
    assert (rows["plain 2.mp4"]["frames"], rows["plain 2.mp4"]["width"], rows["plain 2.mp4"]["height"]) == (10, 48, 32)
    assert (rows["x.y.mp4"]["caption"], rows["x.y.mp4"]["fps"]) == ("größer 狐", 7)
    assert (rows["x.y.mp4"]["duration"], rows["film.mp4"]["caption"]) == (pytest.approx(2, abs=0.01), "by text")
    assert rows["film.mp4"]["fps"] == pytest.approx(24000 / 1001)
    assert {name: row["transcoded"] for name, row in rows.items() if row["transcoded"]} == {"web.webm": True, "apple.mov": True}
    assert (rows["web.webm"]["codec"], rows["lying.mp4"]["width"], rows["lying.mp4"]["height"]) == ("vp9", 32, 48)
    assert all(row["clip_score"] is None and row["aesthetic"] is None for row in rows.values())


def test_scores_are_filled_where_models_are_given(good: Path, tmp_path: Path) -> None:
    clip, head = save_clip(tmp_path / "clip"), save_head(tmp_path / "head.safetensors")
    some = tmp_path / "some"
    some.mkdir()
    for name in ("plain 0.mp4", "plain 0.txt", "web.webm", "web.txt"):
        shutil.copy(good / name, some)
    scored = Curation(motion_fps=None, motion_height=None, clip=str(clip), aesthetic=str(head))
    curate([str(some)], tmp_path / "out", scored)
    for row in table(tmp_path / "out"):
        assert -1 <= row["clip_score"] <= 1
        assert row["aesthetic"] is not None
    with pytest.raises(ValueError, match="--clip as when the folder was begun"):
        curate([str(some)], tmp_path / "out", SMALL)


# -- the same whatever happens


def test_two_workers_write_the_same_bytes_as_one(wild: Path, tmp_path: Path) -> None:
    engine = ProcessEngine(2)
    try:
        curate([str(wild)], tmp_path / "two", SMALL, engine)
    finally:
        engine.close()
    curate([str(wild)], tmp_path / "one", SMALL)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def command(source: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from argparse import ArgumentParser; from emu_core.cli.curate import add, curate\n"
        "if __name__ == '__main__':\n"
        "    parser = ArgumentParser(); add(parser.add_subparsers())\n"
        "    curate(parser.parse_args(sys.argv[1:]))"
    )
    options = ["--workers", str(workers), "--shard-clips", "3", "--motion-fps", "native", "--motion-height", "native"]
    words = [sys.executable, "-c", code, "curate", str(source), str(out), *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.parametrize(
    ("how", "workers", "wait_for"),
    [(signal.SIGKILL, 2, "parts/*.parquet"), (signal.SIGKILL, 1, "*.part"), (signal.SIGINT, 2, "parts/*.parquet")],
)
def test_killed_and_resumed_gives_the_bytes_of_an_uninterrupted_run(
    good: Path, whole: dict[str, bytes], tmp_path: Path, how: signal.Signals, workers: int, wait_for: str
) -> None:
    process = command(good, tmp_path / "out", workers)
    end = time.monotonic() + 120
    while not list((tmp_path / "out").glob(wait_for)) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.002)
    if how is signal.SIGINT:
        os.killpg(process.pid, how)  # Ctrl-C reaches the workers as well
    else:
        process.send_signal(how)
    assert process.wait(120) != 0
    with process.stdout as output:  # type: ignore[union-attr]
        output.read()  # to its end: until its workers, who see for themselves that it was killed, have ended too
    assert not (tmp_path / "out" / TABLE).exists(), "it was over before it could be stopped"
    if how is signal.SIGINT:
        assert not list((tmp_path / "out").rglob("*.part"))
    for shard in (tmp_path / "out").glob("*.tar"):
        assert shard.read_bytes() == whole[shard.name]
    curate([str(good)], tmp_path / "out", SMALL)
    assert contents(tmp_path / "out") == whole


class Stopped(BaseException):
    """A process that ends in the middle."""


@pytest.mark.parametrize("step", range(12))
def test_stopped_at_any_change_of_the_folder_and_resumed(
    good: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """curate.json, 4 x (shard, part), left_out.jsonl, table, index: 12 renames; before each one everything stops."""
    rename, done = os.replace, []

    def replace(source: Any, target: Any) -> None:
        done.append(target)
        if len(done) == step + 1:
            raise Stopped
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Stopped):
            curate([str(good)], tmp_path, SMALL)
    curate([str(good)], tmp_path, SMALL)
    assert contents(tmp_path) == whole


def test_stopped_after_the_merge_before_the_parts_are_gone(
    good: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".parquet":
            raise Stopped

    def merge(folder: Path) -> int:
        with monkeypatch.context() as inner:
            inner.setattr(Path, "unlink", unlink)
            return real(folder)

    real = storage.merge
    with monkeypatch.context() as patch:
        patch.setattr(storage, "merge", merge)
        with pytest.raises(Stopped):
            curate([str(good)], tmp_path, SMALL)
    assert list((tmp_path / "parts").glob("*.parquet"))
    assert curate([str(good)], tmp_path, SMALL) == Summary(added=0, known=10, left_out=0, total=10)
    assert contents(tmp_path) == whole


def test_what_workers_of_a_killed_run_leave_at_the_last_moment_does_no_harm(
    good: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = storage.merge
    monkeypatch.setattr(storage, "merge", lambda folder: (folder / "parts" / "late.part").write_bytes(b"half") and real(folder))
    assert curate([str(good)], tmp_path, SMALL).total == 10
    assert contents(tmp_path) == whole


def test_a_shard_that_was_lost_is_written_again_in_its_place(
    good: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when workers that write side by side are killed: a later shard is there and an earlier one is not."""
    with monkeypatch.context() as patch:
        patch.setattr(storage, "merge", lambda _: (_ for _ in ()).throw(Stopped()))
        with pytest.raises(Stopped):
            curate([str(good)], tmp_path, SMALL)
    for number in (0, 2):
        storage.part_path(tmp_path, number).unlink()
    (tmp_path / "clips-000002.tar").write_bytes(b"half")
    assert curate([str(good)], tmp_path, SMALL) == Summary(added=6, known=4, left_out=0, total=10)
    assert contents(tmp_path) == whole


# -- run again


def test_a_second_run_adds_only_what_is_new(good: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "good", tmp_path / "out"
    shutil.copytree(good, source)
    put(source, "late.mp4", b"not yet")
    curate([str(source)], out, SMALL)
    before, rows = contents(out), table(out)
    assert curate([str(source)], out, SMALL) == Summary(added=0, known=10, left_out=1, total=10)
    assert contents(out) == before
    put(source, "late.mp4", encoded(counting(5)))  # mended
    put(source, "aaa.mp4", encoded(counting(6)))
    assert curate([str(source)], out, SMALL) == Summary(added=2, known=10, left_out=0, total=12)
    tars = {name: data for name, data in before.items() if name.endswith(".tar")}
    assert tars.items() <= contents(out).items()
    assert (table(out)[:10], [row["caption"] for row in table(out)[10:]]) == (rows, ["a thing"] * 2)
    assert ({row["shard"] for row in table(out)[10:]}, len(np.load(out / INDEX))) == ({4}, 12)


def test_what_changed_since_is_left_out_and_said(good: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "good", tmp_path / "out"
    shutil.copytree(good, source)
    curate([str(source)], out, SMALL)
    (source / "plain 1.txt").write_text("another caption")
    put(source, "film.mp4", encoded(counting(20)), None)
    assert curate([str(source)], out, SMALL) == Summary(added=0, known=8, left_out=2, total=10)
    assert {Path(e["source"]).name for e in left_out(out) if "changed since" in e["reason"]} == {"plain 1.mp4", "film.mp4"}


def test_a_file_that_changes_while_curate_runs_is_left_out(wild: Path, tmp_path: Path) -> None:
    source = tmp_path / "wild"
    shutil.copytree(wild, source)

    class Meddling(ProcessEngine):
        def map(self, *arguments: Any) -> Iterator[Any]:
            for result in super().map(*arguments):
                if isinstance(result, list) and isinstance(result[0], work.Found) and "film" in result[0].item.source:
                    (source / "film.mp4").write_bytes(b"now something else")
                yield result

    summary = curate([str(source)], tmp_path / "out", SMALL, Meddling(1))
    assert summary == Summary(added=9, known=0, left_out=len(problems()) + 1, total=9)
    # Noticed when its shard was written, long before the last item was examined; at the end whatever the workers' timing.
    assert "changed while" in left_out(tmp_path / "out")[-1]["reason"]
    for row in table(tmp_path / "out"):
        with tarfile.open(tmp_path / "out" / storage.shard_name(row["shard"])) as tar:
            assert tar.getmember(row["key"] + ".mp4").offset_data == row["video_offset"]


def test_a_second_source_keeps_the_first_ones_reasons(wild: Path, good: Path, tmp_path: Path) -> None:
    curate([str(wild)], tmp_path, SMALL)
    first = left_out(tmp_path)
    assert curate([str(good)], tmp_path, SMALL).added == 10  # another folder name: other keys
    assert (left_out(tmp_path), len(table(tmp_path))) == (first, 20)


# -- other sources


def test_lists_and_tars_give_the_same_clips_as_a_folder(good: Path, tmp_path: Path) -> None:
    curate([str(good)], tmp_path / "folder", SMALL)
    wanted = {(row["caption"], row["frames"], row["motion_score"]) for row in table(tmp_path / "folder")}
    rows = [(row["source"], row["caption"]) for row in table(tmp_path / "folder")]
    relative = [(os.path.relpath(path, tmp_path), caption) for path, caption in rows]
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("other", "video", "text"), *(("x", *pair) for pair in relative)])
    columns = pyarrow.table({"path": [p for p, _ in relative], "caption": [c for _, c in relative]})
    parquet.write_table(columns, tmp_path / "list.parquet")
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for index, (path, caption) in enumerate(rows):
            tar.add(path, f"sub/{index:03}.{Path(path).suffix[1:]}")
            (tmp_path / "caption.json").write_text(json.dumps({"text": caption}), encoding="utf-8")
            tar.add(tmp_path / "caption.json", f"sub/{index:03}.json")
    for source in ("list.csv", "list.parquet", "data.tar"):
        summary = curate([str(tmp_path / source)], tmp_path / f"out-{source}", SMALL)
        assert summary == Summary(added=10, known=0, left_out=0, total=10), source
        assert {(row["caption"], row["frames"], row["motion_score"]) for row in table(tmp_path / f"out-{source}")} == wanted
    again = curate([str(tmp_path / "out-data.tar")], tmp_path / "again", SMALL)  # curated folders are a source as well
    assert again.added == 10
    assert {(row["caption"], row["frames"]) for row in table(tmp_path / "again")} == {pair[:2] for pair in wanted}


def test_rows_that_cannot_be_used_and_duplicates_are_listed(good: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        f"path,caption\n{good}/film.mp4,one\n{good}/film.mp4,two\n,nothing\nmissing.mp4,three\n{good}/web.webm,\n{good}/web.webm\n"
        "/,a folder\na\0b.mp4,no name\n"
    )
    summary = curate([str(tmp_path / "list.csv")], tmp_path / "out", SMALL)
    assert summary == Summary(added=1, known=0, left_out=6, total=1)
    said = [entry["reason"] for entry in left_out(tmp_path / "out")]
    words = (
        "no path in this row of the list (line 4)",
        "No such file or directory) (line 5)",
        "caption empty (line 6)",
        "(line 7)",
    )
    assert all(any(part in reason for reason in said) for part in (*words, "(line 8)", "NUL character in it (line 9)")), said
    assert table(tmp_path / "out")[0]["captions"] == ["one", "two"]
    (tmp_path / "more").mkdir()
    shutil.copy(tmp_path / "list.csv", tmp_path / "more")
    curate([str(tmp_path / "list.csv"), str(tmp_path / "more/list.csv")], tmp_path / "both", SMALL)
    assert sum("duplicate key" in entry["reason"] for entry in left_out(tmp_path / "both")) == 3


def test_a_tar_that_breaks_off_gives_what_is_before(good: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for index in range(3):
            tar.add(good / f"plain {index}.mp4", f"{index}.mp4")
            tar.add(good / f"plain {index}.txt", f"{index}.txt")
    data = (tmp_path / "data.tar").read_bytes()
    (tmp_path / "data.tar").write_bytes(data[: data.index(b"2.mp4") + 700])
    summary = curate([str(tmp_path / "data.tar")], tmp_path / "out", SMALL)
    assert summary.added == 2
    assert any("tar" in entry["reason"] for entry in left_out(tmp_path / "out"))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["none"], "nothing of that name"),
        (["x.zip"], "uncompressed .tar"),
        (["bad.csv"], "columns path"),
        (["bad.parquet"], "parquet file"),
        ([""], "outside of the sources"),
        ([], "at least one"),
    ],
)
def test_sources_that_cannot_be_used_are_refused_before_any_work(tmp_path: Path, names: list[str], said: str) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK")
    (tmp_path / "bad.csv").write_text("file,words\na.mp4,b\n")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=said):
        curate([str(tmp_path / name) for name in names], tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / TABLE).exists()


def test_other_settings_a_second_run_at_the_same_time_and_a_file_for_a_folder_are_refused(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with locked(out / work.LOCK), pytest.raises(ValueError, match="no other curate"):
        curate([str(good)], out, SMALL)
    curate([str(good)], out, SMALL)
    with pytest.raises(ValueError, match="--motion-fps as when"):
        curate([str(good)], out, Curation(motion_fps=8, motion_height=None))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="folder to write into"):
        curate([str(good)], tmp_path / "file", SMALL)


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, calls = TarWriter.add, []

    def full(self: TarWriter, name: str, *rest: Any) -> int:
        calls.append(name)
        if len(calls) == 9:
            raise OSError(28, "No space left on device")
        return add(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TarWriter, "add", full)
        with pytest.raises(ValueError, match="No space left on device; mend that and run the same command again"):
            curate([str(good)], tmp_path, SMALL)
    assert [path.name for path in tmp_path.glob("*.tar*")] == ["clips-000000.tar"]
    assert curate([str(good)], tmp_path, SMALL).total == 10


# -- engines


CALL = methodcaller("__call__")
TASKS = [partial(abs, -1), partial(abs, -2), partial(os._exit, 9), partial(abs, -4)]
"""Light to import in a new process; the third kills it."""


def test_an_item_that_kills_its_worker_costs_only_itself() -> None:
    engine = ProcessEngine(2)
    try:
        assert list(engine.map(CALL, TASKS, lambda item: item.args)) == [1, 2, (9,), 4]
        with pytest.raises(OSError, match="worker process was killed"):
            list(engine.map(CALL, TASKS[2:3]))
    finally:
        engine.close()


def test_only_a_bounded_number_of_items_is_taken_ahead() -> None:
    taken = []

    def endless() -> Iterator[int]:
        for number in iter(int, 1):
            taken.append(number)
            yield number

    ahead = engines._ahead(lambda item: item, endless(), lambda: 8)
    for _ in range(20):
        next(ahead)
    assert len(taken) <= 28


@pytest.mark.slow
def test_ray_gives_the_same_bytes(wild: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="NO RAY: curation on a cluster was NOT tested; install the extra 'cluster'.")
    engine = engines.RayEngine(workers=2)
    try:
        assert list(engine.map(CALL, TASKS, lambda item: item.args)) == [1, 2, (9,), 4]
        curate([str(wild)], tmp_path / "ray", SMALL, engine)
    finally:
        engine.close()
    curate([str(wild)], tmp_path / "one", SMALL)
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


# -- the parts


@example("/", ".")
@given(st.text(max_size=80), st.text(max_size=80))
@settings(deadline=None, max_examples=100)
def test_keys_are_short_and_plain_and_of_the_path(one: str, other: str) -> None:
    one, other = one.replace("\0", ""), other.replace("\0", "")
    keys = key_of("/x/data", one), key_of("/y/data/", one), key_of("/x/data", other)
    assert keys[0] == keys[1]
    assert (keys[0] == keys[2]) == (str(Path("data") / one) == str(Path("data") / other))
    assert len(keys[0]) <= 69
    assert all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in keys[0])


@given(st.lists(st.binary(max_size=1500), max_size=6), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_tars_hold_what_was_added_but_for_what_fell_short(parts: list[bytes], short: int) -> None:
    target = io.BytesIO()
    writer = TarWriter(target)  # type: ignore[arg-type]
    offsets = {}
    for index, data in enumerate(parts):
        if index == short:
            with pytest.raises(ValueError, match="missing"):
                writer.add(f"{index}", io.BytesIO(data), len(data) + 1)
        else:
            offsets[f"{index}"] = writer.add(f"{index}", io.BytesIO(data), len(data))
    writer.close()
    with tarfile.open(fileobj=io.BytesIO(target.getvalue())) as tar:
        assert {m.name: m.offset_data for m in tar.getmembers()} == offsets
        assert all(tar.extractfile(m).read() == parts[int(m.name)] for m in tar.getmembers())  # type: ignore[union-attr]


def test_the_table_of_keys_finds_what_it_was_given() -> None:
    keys = storage.KeyTable()
    for number in range((1 << 18) + 50):
        keys.add(f"k{number}", number)
    assert len(keys.hashes) == 1 << 18
    for number in (0, 77, (1 << 18) - 1, 1 << 18, (1 << 18) + 49):
        assert keys.get(f"k{number}") == number
    assert keys.get("other") is None


def test_the_command_leaves_pictures_and_says_what_it_did(wild: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    commands.add(parser.add_subparsers())
    words = ["curate", str(wild), str(tmp_path / "out"), "--workers", "1", "--motion-height", "32"]
    commands.curate(parser.parse_args(words))
    assert "10 clips, 10 of them new" in capsys.readouterr().out
    for name in ("report.png", "sheet.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("RGB")).std() > 10
    commands.curate(parser.parse_args([*words, "--json"]))
    assert json.loads(capsys.readouterr().out) == {"added": 0, "known": 10, "left_out": len(problems()), "total": 10}
    assert count_reasons(tmp_path / "out")["no caption"] == 1
    for option, value in (("--motion-fps", "x"), ("--motion-height", "17"), ("--address", "a"), ("--workers", "0")):
        with pytest.raises(ValueError, match=option):
            commands.curate(parser.parse_args([*words, option, value]))
    (tmp_path / "bad").mkdir()
    put(tmp_path / "bad", "x.mp4", b"")
    with pytest.raises(ValueError, match="at least one clip"):
        commands.curate(parser.parse_args(["curate", str(tmp_path / "bad"), str(tmp_path / "none"), "--workers", "1"]))
    assert (tmp_path / "none" / "report.png").exists()
