"""GIF, WebP, APNG and folders of frames, curated as films are."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from emu_core.data.clips import read_at_times
from emu_core.data.curate import Curation, curate
from emu_core.data.motion_score import look
from emu_core.data.shards import Shards
from emu_core.data.sources import listing
from emu_core.data.table import TABLE
from emu_core.media import write_video
from emu_core.media.reading import is_frame_folder

from .film import COUNT, Film, middles, moving, quadrants

PLAIN = Curation(motion_fps=None, motion_height=None)
KINDS = {"a.gif": "gif", "b.webp": "webp", "c": "png", "d.e": "png", "f.mp4": "h264"}
"""Names that `write_video` takes, and the codec that is entered; a folder may have a dot in its name."""


def clip() -> torch.Tensor:
    return torch.from_numpy(np.stack(moving())).float() / 255


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this program writes, each with its caption beside it, and an APNG of another program."""
    folder = tmp_path_factory.mktemp("in") / "stills"
    (folder / "deep").mkdir(parents=True)
    for number, (name, codec) in enumerate(KINDS.items()):
        write_video(f"{folder / name}/" if codec == "png" else folder / name, clip(), 12.0, {"prompt": "not the caption"})
        stem, words = name if codec == "png" else name.split(".")[0], f"caption of {name}"
        put = (".json", json.dumps({"caption": words})) if number % 2 else (".txt", words)
        (folder / f"{stem}{put[0]}").write_text(put[1])
    write_video(folder / "deep" / "frames", clip(), 12.0)
    (folder / "deep" / "frames.txt").write_text("caption of deep")
    (folder / "g.apng").write_bytes(Film("apng", "apng", "rgb24").write(moving()))
    (folder / "g.txt").write_text("caption of g.apng")
    return folder


@pytest.fixture(scope="module")
def out(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "shards"
    curate([str(source)], folder, PLAIN)
    return folder


def test_each_is_one_clip_with_its_caption_rate_and_size(source: Path, out: Path) -> None:
    rows = {row["caption"]: row for row in parquet.read_table(out / TABLE).to_pylist()}
    kinds = KINDS | {"deep": "png", "g.apng": "apng"}
    assert {caption: row["codec"] for caption, row in rows.items()} == {
        f"caption of {name}": codec for name, codec in kinds.items()
    }
    for row in rows.values():
        assert (row["frames"], row["width"], row["height"]) == (COUNT, 96, 64)
        assert (row["fps"], row["duration"]) == (pytest.approx(12, rel=1e-3), pytest.approx(1, abs=0.002))
        assert row["transcoded"] == (row["codec"] != "h264")
    assert (out / "left_out.jsonl").read_text() == ""


def test_what_is_read_from_the_shards_is_what_was_written(out: Path) -> None:
    shards = Shards.open(out)
    assert len(shards) == 7
    for row in range(len(shards)):
        frames = read_at_times(shards.read(row), [number / 12 + 0.01 for number in range(COUNT)], "")
        known = np.stack(moving()).astype(int)
        assert [int(np.abs(known - frame).mean(axis=(1, 2, 3)).argmin()) for frame in frames] == [*range(COUNT)]
        assert np.abs(middles(frames[3]) - middles(quadrants())).max() <= 8


def test_a_second_run_finds_them_again_and_sees_a_changed_frame(source: Path, out: Path, tmp_path: Path) -> None:
    assert curate([str(source)], out, PLAIN).known == 7
    copied = tmp_path / "stills"
    copied.mkdir()
    write_video(copied / "x", clip(), 12.0)
    (copied / "x.txt").write_text("words")
    assert curate([str(copied)], tmp_path / "made", PLAIN).added == 1
    Image.effect_noise((96, 64), 90).convert("RGB").save(copied / "x" / "00003.png")
    again = curate([str(copied)], tmp_path / "made", PLAIN)
    assert (again.known, again.left_out) == (0, 1)
    assert "changed since" in (tmp_path / "made" / "left_out.jsonl").read_text()


def test_only_a_folder_that_is_a_video_is_one(tmp_path: Path) -> None:
    for name in ("plain", "mixed", "empty", "video"):
        write_video(tmp_path / name, clip()[:2], 12.0)
    os.remove(tmp_path / "plain" / "metadata.json")
    (tmp_path / "mixed" / "notes.txt").touch()
    for picture in (tmp_path / "empty").glob("*.png"):
        picture.unlink()
    (tmp_path / "video" / ".hidden").touch()
    assert [name for name in ("plain", "mixed", "empty", "video", "missing") if is_frame_folder(tmp_path / name)] == ["video"]
    items = [*listing([str(tmp_path)])]
    assert [item.source for item in items if not item.problem] == [str(tmp_path / "video")]


def test_a_list_names_folders_and_a_tar_holds_animations(source: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,caption\n{source / 'c'},a folder\n{source / 'b.webp'},an animation\n")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in ("b.webp", "a.gif"):
            tar.add(source / name, name)
            (tmp_path / "words.txt").write_text(f"in a tar: {name}")
            tar.add(tmp_path / "words.txt", f"{name[0]}.txt")
    summary = curate([str(tmp_path / "list.csv"), str(tmp_path / "set.tar")], tmp_path / "made", PLAIN)
    assert (summary.added, summary.left_out) == (4, 0)
    found: list[dict[str, Any]] = parquet.read_table(tmp_path / "made" / TABLE).to_pylist()
    assert [(row["codec"], row["frames"]) for row in found] == [("png", 12), ("webp", 12), ("webp", 12), ("gif", 12)]


def test_a_still_picture_is_no_clip(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "still.webp")
    with pytest.raises(ValueError, match="at least 2 frames"):
        look(tmp_path / "still.webp")
    broken = (tmp_path / "still.webp").read_bytes()[:40]
    with pytest.raises(ValueError, match="expected a video"):
        look(broken)


def test_motion_of_frames_is_that_of_a_film_without_loss(source: Path) -> None:
    film = look(Film("matroska", "libx264rgb", "rgb24", options={"qp": "0"}).write(moving()))
    for name in ("c", "b.webp"):
        seen = look(source / name)
        assert (seen.scores, seen.cuts) == (pytest.approx(film.scores, nan_ok=True), film.cuts)
