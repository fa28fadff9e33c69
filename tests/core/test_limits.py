"""What one file may cost: bombs, headers that lie, sizes that change on the way, and files damaged at random."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from emu_core.cli.main import main
from emu_core.data import curate as work
from emu_core.data.curate import Curation, curate
from emu_core.data.engines import ProcessEngine
from emu_core.data.files import mapped
from emu_core.data.motion_score import look
from emu_core.data.sources import listing, read_captions
from emu_core.errors import UserError
from emu_core.evaluation.frechet import load_statistics
from emu_core.limits import DEPTH, Limits, NotJson, changed, json_of, limits
from emu_core.media import Unreadable, VideoReader, read_image, read_video, write_video
from emu_core.media import budget as budgets

from . import hostile
from .film import Film, quadrants, with_sound

ROOT = Path(__file__).parents[2]


def fuzzed(seed: int, count: int, *kinds: str, timeout: int = 120) -> list[str]:
    """What went otherwise in a process of its own, with a limit of memory."""
    words = [sys.executable, "-W", "ignore", "-m", "tests.core.fuzzing", str(seed), str(count), *kinds]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.stdout, f"the process died: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def test_damaged_files_and_bombs_give_a_result_or_a_sentence() -> None:
    assert fuzzed(1, 30) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_many_damaged_files_give_a_result_or_a_sentence(seed: int) -> None:
    """EMU_VIDEO_FUZZ: how many of a kind."""
    assert fuzzed(seed, int(os.environ.get("EMU_VIDEO_FUZZ", "300")), timeout=3600) == []


# -- each limit, from the header and on the way, whatever reads


def grown() -> bytes:
    """A transport stream whose second part is larger."""
    return Film("mpegts", size=(32, 48)).write() + Film("mpegts", size=(64, 96)).write()


ALPHA = Film("webm", "libvpx-vp9", "yuva420p", size=(64, 96))
PICTURES = [quadrants(64, 96)] * 30
FILMS: dict[str, Callable[[], bytes]] = {
    "mp4": partial(Film().write, PICTURES),
    "mkv": partial(Film("matroska").write, PICTURES),
    "ts": partial(Film("mpegts").write, PICTURES),
    "webm": lambda: ALPHA.write([np.dstack([one, one[..., :1]]) for one in PICTURES]),
    "apng": lambda: hostile.png(96, 64, 8, 2, frames=80),
    "gif": lambda: hostile.gif(96, 64, 30, 9),
    "webp": lambda: hostile.webp(96, 64, 80),
}


@pytest.mark.parametrize(
    ("limit", "most"), [("pixels", 96 * 64 - 1), ("frames", 29), ("seconds", 2), ("bytes", 29 * 96 * 64 * 3)]
)
@pytest.mark.parametrize("kind", FILMS)
def test_every_reader_keeps_every_limit(
    kind: str, limit: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"a.{kind}").write_bytes(FILMS[kind]())
    monkeypatch.setattr(budgets, "UNFOLDED", 1)
    readers: list[Callable[[Any], Any]] = [
        look,
        VideoReader,
        partial(look, str),
        lambda path: look(io.BytesIO(path.read_bytes())),
    ]
    for read in (readers[0], readers[1], readers[3]):
        read(tmp_path / f"a.{kind}")
        with changed([f"{limit}={most}"]), pytest.raises(Unreadable) as told:
            read(tmp_path / f"a.{kind}")
        assert f"--limit {limit}=N or EMU_VIDEO_MAX_{limit.upper()}" in str(told.value)
        assert str(told.value).count(". ") == 0


@pytest.mark.parametrize("read", [look, lambda path: list(VideoReader(path))], ids=["look", "reader"])
def test_a_size_that_grows_on_the_way_is_refused_there(read: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_bytes(grown())
    with changed(["pixels=6000"]), pytest.raises(Unreadable, match=r"at most 6,000 pixels, found 96 x 64 \(6,144\)"):
        read(tmp_path / "a.ts")


def test_folders_of_frames_keep_them_too(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('{"fps": 2}')
    for number in range(30):
        (tmp_path / f"{number:05d}.png").write_bytes(hostile.png(96, 64, 8, 2))
    list(VideoReader(tmp_path))
    for limit, most in (("pixels", 96 * 64 - 1), ("frames", 29), ("seconds", 14)):
        with changed([f"{limit}={most}"]), pytest.raises(Unreadable, match=f"EMU_VIDEO_MAX_{limit.upper()}"):
            VideoReader(tmp_path)


def test_8k_films_and_pictures_of_64_megapixels_pass(tmp_path: Path) -> None:
    budgets.Budget("a", 100_000_000).claim(8192, 4320, 100_000, 4000.0)
    (tmp_path / "a.png").write_bytes(hostile.png(7680, 4320))
    assert read_image(tmp_path / "a.png").shape == (4320, 7680, 3)


def test_a_long_still_film_is_no_bomb(tmp_path: Path) -> None:
    """Two hours of black 1080p, at the 60 bytes a frame of x264."""
    budgets.Budget("a", 172_800 * 60).claim(1920, 1080, 172_800, 7200.0)
    with pytest.raises(Unreadable, match="EMU_VIDEO_MAX_BYTES"):
        budgets.Budget("a", 172_800).claim(1920, 1080, 172_800, 7200.0)


def test_what_is_held_at_once_is_limited(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(FILMS["mp4"]())
    with changed([f"bytes={30 * 96 * 64 * 12 - 1}"]), pytest.raises(Unreadable, match="expected at most 29 frames of 96 x 64"):
        read_video(tmp_path / "a.mp4")
    with changed([f"bytes={30 * 96 * 64 * 12}"]):
        assert len(read_video(tmp_path / "a.mp4").frames) == 30


def test_a_jpeg_that_goes_over_its_picture_forever_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = io.BytesIO()
    Image.new("RGB", (512, 512)).save(made, "JPEG", progressive=True)
    (tmp_path / "a.jpg").write_bytes(made.getvalue())
    read_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(hostile.jpeg_scans(made.getvalue(), 40_000))
    monkeypatch.setattr(budgets, "UNFOLDED", 10_000)
    with pytest.raises(Unreadable, match="EMU_VIDEO_MAX_BYTES"):
        read_image(tmp_path / "a.jpg")


def test_packed_text_of_an_apng_is_not_unpacked(tmp_path: Path) -> None:
    plain, text = hostile.png(64, 64, 8, 2, frames=3), hostile.chunk(b"zTXt", b"a\0\0" + hostile.zeros(1 << 29))
    place = plain.index(b"fcTL", plain.index(b"IDAT")) - 4
    (tmp_path / "a.apng").write_bytes(plain[:place] + text + plain[place:])
    with pytest.raises(Unreadable, match="bytes of packed text and profiles"):
        VideoReader(tmp_path / "a.apng")


def test_no_other_program_draws_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n")
    with pytest.raises(Unreadable, match="EPS, which another program would have to draw"):
        read_image(tmp_path / "a.png")


def test_sound_keeps_the_limit_of_seconds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.mp4").write_bytes(with_sound(Film().write(PICTURES), "mp4", "aac", 2.5))
    frames = read_video(tmp_path / "a.mp4").frames
    with changed(["seconds=1"]):
        write_video(tmp_path / "b.mp4", frames, 12, sound=tmp_path / "a.mp4")
    assert "the rest of its sound is not kept (expected at most 1 s" in caplog.text
    assert len(read_video(tmp_path / "b.mp4").frames) == 30


# -- how they are changed


def test_limits_are_changed_by_environment_and_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert limits() == Limits()
    monkeypatch.setenv("EMU_VIDEO_MAX_PIXELS", "2_000")
    assert limits().pixels == 2000
    with changed(["pixels=3000", "json=7"]):
        assert (limits().pixels, limits().json) == (3000, 7)
    assert limits() == Limits(pixels=2000)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_bytes(FILMS["mp4"]())
    (tmp_path / "in/a.txt").write_text("x")
    command = ["curate", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]  # the limit reaches other processes
    assert main(command) == 2
    assert "EMU_VIDEO_MAX_PIXELS" in (tmp_path / "out/left_out.jsonl").read_text()
    assert main([*command, "--limit", "pixels=100000"]) == 0
    assert (tmp_path / "out/left_out.jsonl").read_text() == ""
    for wrong in ("pixels", "width=3", "pixels=x", "pixels=-1", "pixels=0", "pixels=1e9"):
        assert main(["curate", "--limit", wrong, str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    monkeypatch.setenv("EMU_VIDEO_MAX_FRAMES", "many")
    with pytest.raises(UserError, match="EMU_VIDEO_MAX_FRAMES: expected a whole number above 0, found 'many'"):
        limits()
    capsys.readouterr()


# -- JSON


def test_json_within_its_limits() -> None:
    assert json_of('{"a": [1, 2.5, NaN, 1e999]}')["a"][1] == 2.5
    assert json_of(b"\xef\xbb\xbf[1]") == [1]
    json_of("[" * DEPTH + "]" * DEPTH)
    for text in ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "[" * 10**6, "9" * 101, "{", b"\xff", "[" + "[]," * 3_000_000 + "[]]"):
        with pytest.raises(NotJson) as told:
            json_of(text)
        assert len(str(told.value)) < 200
    with changed(["json=9"]), pytest.raises(NotJson, match="EMU_VIDEO_MAX_JSON"):
        json_of("[1, 2, 3, 4]")


# -- arrays


@pytest.mark.parametrize("shape", [(10**12,), (-1,), (2**40, 2**40)])
def test_arrays_that_claim_more_than_there_is_take_no_memory(shape: tuple[int, ...], tmp_path: Path) -> None:
    lying = io.BytesIO()
    np.lib.format.write_array_header_1_0(lying, {"descr": "<f8", "fortran_order": False, "shape": shape})
    lying.write(bytes(16))
    (tmp_path / "a.npy").write_bytes(lying.getvalue())
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("count", "mean", "covariance"):
            archive.writestr(f"{name}.npy", lying.getvalue())
    with pytest.raises(UserError, match="found others"):
        load_statistics(tmp_path / "a.npz", {})
    with pytest.raises(UserError, match="no array"):
        mapped(tmp_path / "a.npy")


# -- curation


def fill(folder: Path, *names: str) -> None:
    """Clips, each of other pictures."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(Film("matroska", size=(32, 48)).write([quadrants(32, 48)] * (5 + number)))
        (folder / name).with_suffix(".txt").write_text(name)


def left_out(folder: Path) -> dict[str, str]:
    lines = map(json.loads, (folder / "left_out.jsonl").read_text().splitlines())
    return {Path(line["source"]).name: line["reason"] for line in lines}


class Deadly(ProcessEngine):
    """An engine whose processes die of one item."""

    def __init__(self, workers: int, name: str, *functions: str) -> None:
        super().__init__(workers)
        self.dies = partial(hostile.deadly, name, functions)

    def map(self, function: Any, items: Any, *crashed: Any) -> Any:
        return super().map(partial(self.dies, function), items, *crashed)


@pytest.mark.parametrize(("workers", "functions"), [(1, ["examine"]), (1, ["write_shard", "_try_writing"])])
def test_what_kills_processes_costs_itself_alone(
    workers: int, functions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    fill(tmp_path / "in", "a.mkv", "killer.mkv", "z.mkv")
    engine = Deadly(workers, "killer.mkv", *functions)
    try:
        for added in (2, 0):  # and again: nothing is stuck
            summary = curate([str(tmp_path / "in")], tmp_path / "out", Curation(None, None), engine)
            assert (summary.added, summary.total, summary.left_out) == (added, 2, 1)
            assert left_out(tmp_path / "out") == {"killer.mkv": work.KILLED}
    finally:
        engine.close()
    assert curate([str(tmp_path / "in")], tmp_path / "out", Curation(None, None)).added == 1
    assert left_out(tmp_path / "out") == {}


def test_bombs_and_faults_are_left_out_with_their_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "in", "a.mkv", "b.mkv")
    (tmp_path / "in/bomb.gif").write_bytes(hostile.gif(9000, 9000, 60))
    (tmp_path / "in/bomb.txt").write_text("x")
    real = work.look

    def broken(source: Any, *arguments: Any, **more: Any) -> Any:
        return {}["oops"] if "b.mkv" in arguments[2] else real(source, *arguments, **more)

    monkeypatch.setattr(work, "look", broken)
    summary = curate([str(tmp_path / "in")], tmp_path / "out", Curation(None, None))
    assert (summary.added, summary.left_out) == (1, 2)
    found = left_out(tmp_path / "out")
    assert "found 9000 x 9000 (81,000,000)" in found["bomb.gif"]
    assert "a fault of this program" in found["b.mkv"]
    assert "KeyError: 'oops', test_limits.py line" in found["b.mkv"]
    with open(tmp_path / "out/left_out.jsonl", "a") as file:
        file.write("no JSON\n[1]\n")
    monkeypatch.undo()
    assert curate([str(tmp_path / "in")], tmp_path / "out", Curation(None, None)).added == 1


def test_a_broken_group_of_rows_costs_its_rows(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(6)]
    table = pyarrow.table({"path": names, "caption": [f"caption number {name}" * 9 for name in names]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2, compression="gzip", use_dictionary=False)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    told = parquet.read_metadata(tmp_path / "a.parquet").row_group(1).column(1)
    data[told.data_page_offset : told.data_page_offset + 10] = bytes(10)
    (tmp_path / "a.parquet").write_bytes(data)
    items = [item.video.path or item.problem for item in listing([str(tmp_path / "a.parquet")])]
    assert [Path(one).name for one in items if one.endswith(".mp4")] == ["0.mp4", "1.mp4", "4.mp4", "5.mp4"]
    assert [one.partition(" (")[0] for one in items if not one.endswith(".mp4")] == ["they cannot be read"]
    with changed(["bytes=100"]):
        assert all("EMU_VIDEO_MAX_BYTES" in item.problem for item in listing([str(tmp_path / "a.parquet")]))


def test_a_text_that_stands_in_a_thousand_rows_once_in_the_file_is_not_unfolded(tmp_path: Path) -> None:
    rows, before = [0] * 600 + [1], pyarrow.total_allocated_bytes()
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array(rows, pyarrow.int32()), pyarrow.array(["y" * 5_000_000, "x"]))
    table = pyarrow.table({"path": [f"{number}.mp4" for number in range(601)], "caption": texts})
    whole = {"dictionary_pagesize_limit": 1 << 30, "store_schema": False}
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd", **whole)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    items = list(listing([str(tmp_path / "a.parquet")]))
    assert [read_captions(item) for item in items if not item.problem] == [["x"]]
    assert len(items) == 601
    assert pyarrow.default_memory_pool().max_memory() - before < 1 << 30


def header(name: bytes, size: bytes, kind: bytes) -> bytes:
    """Of a tar's member."""
    made = struct.pack("100s8s8s8s12s12s8s1s", name, b"", b"", b"", size, b"", b" " * 8, kind).ljust(512, b"\0")
    return made[:148] + f"{sum(made):06o}\0 ".encode() + made[156:]


def test_a_tar_of_endless_headers_or_samples_is_named(tmp_path: Path) -> None:
    name = struct.pack("100s8s8s8s12s12s8s1s", b"././@LongLink", b"", b"", b"", b"00000000001\0", b"", b" " * 8, b"L").ljust(
        512, b"\0"
    )
    name = name[:148] + f"{sum(name):06o}\0 ".encode() + name[156:]
    (tmp_path / "a.tar").write_bytes((name + b"a".ljust(512, b"\0")) * 2000)
    (item,) = listing([str(tmp_path / "a.tar")])
    assert "cannot be read to its end (maximum recursion depth" in item.problem
    member = header(b"a.mp4", b"00000000000\0", b"0")
    (tmp_path / "b.tar").write_bytes(member * 20_000 + bytes(1024))
    (item,) = listing([str(tmp_path / "b.tar")])
    assert "more than 1000 members of one sample" in item.problem
