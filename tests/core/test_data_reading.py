"""Reading curated clips: shards by row, the order of positions, clips at a rate and length, and the loader."""

from __future__ import annotations

import io
import logging
import os
import pickle
import shutil
import signal
import time
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emu_core.data import clips as reading
from emu_core.data import motion_score
from emu_core.data import table as storage
from emu_core.data.clips import ClipDataset, eligible, loader, read_at_times
from emu_core.data.curate import Curation, curate
from emu_core.data.order import ClipOrder, fraction
from emu_core.data.select import select
from emu_core.data.shards import Shards
from emu_core.errors import Stopped
from emu_core.media import fit
from emu_core.media.decoding import Decoder

from .test_data_curate import put
from .test_data_motion import counting, encoded, lying, webm

RATES = {"even.mp4": 24, "odd.mp4": Fraction(30000, 1001), "slow.mp4": 7, "web.webm": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips in three shards: about 2 s each but for a short one of 1/4 s."""
    source, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    for name, rate in RATES.items():
        frames = counting(round(2 * rate))
        data = webm(frames, rate) if name.endswith("webm") else encoded(frames, rate, g="12", bf="2")
        put(source, name, data, f"caption of {name}")
    put(source, "short.mp4", encoded(counting(6)), "caption of short.mp4")
    put(source, "turned.mp4", lying(encoded(counting(48, 32, 64))), "caption of turned.mp4")
    curate([str(source)], out, Curation(motion_fps=None, motion_height=None, shard_clips=2))
    return out


# -- shards


def test_rows_keys_captions_and_bytes(folder: Path) -> None:
    shards = Shards.open(folder)
    assert (len(shards), shards.counts().tolist()) == (6, [2, 2, 2])
    for row, name in enumerate(("even.mp4", "odd.mp4", "short.mp4", "slow.mp4", "turned.mp4", "web.webm")):
        assert shards.caption(row) == shards.column("caption")[row] == f"caption of {name}"
        assert shards.column("key")[row] == shards.facts(row)["key"]
        source = Path(shards.column("source")[row])
        assert (shards.read(row) == source.read_bytes()) == (name != "web.webm")
        with shards.open_video(row) as file:
            assert file.read() == shards.read(row)
    assert shards.column("fps")[3] == 7


def test_a_selection_chooses_rows_without_renumbering_them(folder: Path) -> None:
    select(folder, "long", "duration > 1")
    shards = Shards.open(folder, selection="long")
    assert (shards.rows.tolist(), len(shards), shards.counts().tolist()) == ([0, 1, 3, 4, 5], 5, [2, 1, 2])
    assert shards.facts(3) == Shards.open(folder).facts(3)
    assert len(Shards.open(folder, selection=folder / "selections" / "long.npy")) == 5


def test_any_address_and_a_cache_on_this_machine(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, local = fsspec.filesystem("memory"), Shards.open(folder)
    memory.put(str(folder), "/data/clips", recursive=True)
    select(folder, "long", "duration > 1")
    remote, cached = Shards.open("memory://data/clips"), Shards.open("memory://data/clips", cache=tmp_path)
    for row in range(6):
        assert remote.read(row) == cached.read(row) == local.read(row)
        assert remote.facts(row) == local.facts(row)
        with remote.open_video(row) as one, cached.open_video(row) as other:
            assert one.read() == other.read()
    assert remote.column("key").tolist() == local.column("key").tolist()
    assert sorted(p.suffix for p in tmp_path.rglob("*.tar")) == [".tar"] * 3
    monkeypatch.setattr(type(memory), "get_file", lambda *_: pytest.fail("fetched again"))
    fresh = pickle.loads(pickle.dumps(cached))
    assert fresh.read(3) == local.read(3)
    dataset = [ClipDataset(s, None, 8, 4, (16, 24), 0)[3]["frames"] for s in (remote, cached, local)]
    assert torch.equal(dataset[0], dataset[2])
    assert torch.equal(dataset[1], dataset[2])


def test_a_cached_shard_of_other_data_at_the_same_address_is_not_used(folder: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/swap", recursive=True)
    before = Shards.open("memory://swap", cache=tmp_path).read(0)
    source, out = tmp_path / "in", tmp_path / "out"
    put(source, "even.mp4", encoded(counting(30)))
    curate([str(source)], out, Curation())
    memory.rm("/swap", recursive=True)
    memory.put(str(out), "/swap", recursive=True)
    assert Shards.open("memory://swap", cache=tmp_path).read(0) == (source / "even.mp4").read_bytes() != before


def test_what_is_no_curated_folder_or_selection_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "beyond.npy", np.array([2, 6]))
    np.save(tmp_path / "twice.npy", np.array([2, 2]))
    np.save(tmp_path / "floats.npy", np.array([0.5]))
    wrong = {"none": "emu-video select", "beyond.npy": "below 6", "twice.npy": "ascending", "floats.npy": "row numbers"}
    for name, said in wrong.items():
        with pytest.raises(ValueError, match=said):
            Shards.open(folder, name if name == "none" else tmp_path / name)
    with pytest.raises(ValueError, match="curate finished"):
        Shards.open(tmp_path)
    with pytest.raises(ValueError, match="expected one of key"):
        Shards.open(folder).column("colour")


def test_ten_million_rows_open_through_the_map(folder: Path, tmp_path: Path) -> None:
    total = 10**7
    index = np.lib.format.open_memmap(tmp_path / storage.INDEX, "w+", storage.INDEX_TYPE, (total,))  # type: ignore[no-untyped-call]
    index[total - 1] = np.load(folder / storage.INDEX)[0]
    index.flush()
    del index
    (tmp_path / "clips-000000.tar").write_bytes((folder / "clips-000000.tar").read_bytes())
    tracemalloc.start()
    try:
        begin = time.process_time()
        shards = Shards.open(tmp_path)
        data = shards.read(total - 1)
        seconds = time.process_time() - begin
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (data, len(shards)) == (Shards.open(folder).read(0), total)
    assert seconds < 0.5
    assert peak < 2**20


# -- the order


def all_of(order: ClipOrder, start: int, stop: int) -> list[int]:
    return [order[position] for position in range(start, stop)]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9).filter(any), st.integers(0, 2**40), st.integers(1, 4))
@settings(deadline=None, max_examples=80)
def test_each_epoch_is_a_permutation_and_a_function_of_the_position(counts: list[int], seed: int, window: int) -> None:
    order, size = ClipOrder(counts, seed, window), sum(counts)
    epochs = [all_of(order, epoch * size, (epoch + 1) * size) for epoch in range(3)]
    for rows in epochs:
        assert sorted(rows) == list(range(size))
    other = ClipOrder(counts, seed, window)
    whole = [row for rows in epochs for row in rows]
    assert [other[position] for position in reversed(range(3 * size))] == whole[::-1]
    assert order.rows(0, 3 * size).tolist() == whole
    assert order.rows(size // 2, 2 * size + 1).tolist() == all_of(other, size // 2, 2 * size + 1)
    shard = np.repeat(np.arange(len(counts)), counts)
    filled = [number for number, count in enumerate(counts) if count]
    rows, at = epochs[0], 0
    for _ in range(0, len(filled), window):  # shards come in groups of `window`, each done before the next
        group: set[int] = set()
        while at < size and (len(group) < window or shard[rows[at]] in group):
            group.add(int(shard[rows[at]]))
            at += 1
        assert len(group) <= window
    assert at == size


def test_orders_differ_between_epochs_and_seeds_and_are_well_mixed() -> None:
    order = ClipOrder([100] * 8, 0, window=8)
    first, second = order.rows(0, 800), order.rows(800, 1600)
    assert (first == second).mean() < 0.02
    assert (first == ClipOrder([100] * 8, 1, window=8).rows(0, 800)).mean() < 0.02
    assert abs(np.corrcoef(np.arange(800), first)[0, 1]) < 0.15
    # the same on every machine and in every version
    assert ClipOrder([3, 0, 4], 7, window=1).rows(0, 14).tolist() == ORDER_OF_SEVEN


ORDER_OF_SEVEN = [6, 5, 3, 4, 0, 1, 2, 1, 2, 0, 6, 5, 4, 3]


@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), st.data())
@settings(deadline=None, max_examples=60)
def test_an_order_narrowed_to_rows_is_the_order_of_that_selection(counts: list[int], data: st.DataObject) -> None:
    size = sum(counts)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))))
    shard = np.repeat(np.arange(len(counts)), counts)
    narrowed = ClipOrder(counts, 3, 2).keep(rows)
    direct = ClipOrder(np.bincount(shard[rows], minlength=len(counts)), 3, 2, rows)
    assert narrowed.rows(0, 2 * len(rows)).tolist() == direct.rows(0, 2 * len(rows)).tolist()
    assert sorted(narrowed.rows(0, len(rows)).tolist()) == rows.tolist()


def test_every_clip_once_through_a_resume_and_from_two_to_four_ranks() -> None:
    """400 clips, a global batch of 8: stopped after step 20 on 2 ranks, resumed on 4 with other workers' share."""
    counts, batch, seen = [50] * 8, 8, []

    def share(step: int, rank: int, ranks: int) -> list[int]:
        order = ClipOrder(counts, 5, window=3)  # as a new process makes it
        first = step * batch + rank * (batch // ranks)
        return [order[position] for position in range(first, first + batch // ranks)]

    for step in range(20):
        seen += [row for rank in range(2) for row in share(step, rank, 2)]
    for step in range(20, 50):
        seen += [row for rank in reversed(range(4)) for row in share(step, rank, 4)]
    assert (len(seen), sorted(seen)) == (400, list(range(400)))


def test_ten_million_clips_each_exactly_once() -> None:
    begin = time.process_time()
    order = ClipOrder(np.full(10_000, 1000), 0)
    assert order[12_345_678] >= 0
    assert time.process_time() - begin < 1
    seen = np.zeros(10**7, np.uint8)
    for start in range(0, 10**7, 10**6):  # as ten ranks or resumes would
        seen[order.rows(10**7 + start, 10**7 + start + 10**6)] += 1
    assert (seen == 1).all()


def test_orders_that_cannot_be_are_refused() -> None:
    for counts, window, rows in (([0, 0], 1, None), ([2], 0, None), ([-1, 3], 1, None), ([2], 1, [3]), ([2], 1, [3, 3])):
        with pytest.raises(ValueError, match="order: expected"):
            ClipOrder(counts, 0, window, None if rows is None else np.array(rows))
    with pytest.raises(ValueError, match="position of 0"):
        ClipOrder([1], 0)[-1]


# -- clips


def shown(clip: dict[str, Any]) -> list[int]:
    """Which frame of `counting` each frame of a clip is."""
    return [round((float(frame.float().mean()) - 20) / 4) for frame in clip["frames"]]


def test_frames_are_those_in_view_at_their_times(folder: Path) -> None:
    shards = Shards.open(folder)
    dataset = ClipDataset(shards, None, fps=8, frames=5, size=(32, 48), seed=1)
    rows = set()
    for position in range(60):
        clip = dataset[position]
        rate = float(RATES.get(shards.facts(clip["row"])["source"].rsplit("/", 1)[1], 24))
        expected = [(clip["start"] + index / 8) * rate for index in range(5)]
        for found, exact in zip(shown(clip), expected, strict=True):
            assert exact - 1.02 < found <= exact + 0.02, (clip["key"], found, exact)
        assert 0 <= clip["start"] <= shards.facts(clip["row"])["duration"] - 0.5
        assert (clip["frames"].shape, clip["frames"].dtype) == ((5, 3, 32, 48), torch.uint8)
        assert (clip["caption"], clip["position"]) == (shards.caption(clip["row"]), position)
        rows.add(clip["row"])
    assert rows == {0, 1, 3, 4, 5}  # all but the short one


def test_more_frames_a_second_than_there_are_repeat_them(folder: Path) -> None:
    dataset = ClipDataset(Shards.open(folder), None, fps=48, frames=8, size=(32, 48), seed=0)
    clip = next(dataset[p] for p in range(50) if dataset[p]["row"] == 0)
    steps = np.diff(shown(clip))
    assert set(steps) <= {0, 1}
    assert 3 <= steps.sum() <= 4


def test_only_what_is_needed_is_decoded_and_never_a_later_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(counting(50), 25, g="10", bf="2")
    decoded: list[int] = []
    frames = Decoder.frames

    def counted(video: Decoder) -> Iterator[Any]:
        for frame in frames(video):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(Decoder, "frames", counted)
    for first in (0.0, 0.2, 0.39, 0.4, 1.0, 1.3, 1.88):
        decoded.clear()
        pictures = read_at_times(io.BytesIO(data), [first, first + 0.08], "x")
        found = [round((float(p.mean()) - 20) / 4) for p in pictures]
        assert found == [int(first * 25 + 1e-3), int((first + 0.08) * 25 + 1e-3)]
        assert len(decoded) <= 10 + 3 + 1  # from the key frame to the one that ends the clip


def test_a_seek_that_lands_too_late_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(counting(50), 25, g="10")
    seek, sought = Decoder.seek, []

    def late(video: Decoder, moment: int) -> None:
        sought.append(moment)
        seek(video, moment if len(sought) > 1 else moment * 2)

    monkeypatch.setattr(Decoder, "seek", late)
    pictures = read_at_times(io.BytesIO(data), [0.6, 0.8], "x")
    assert ([round((float(p.mean()) - 20) / 4) for p in pictures], len(sought)) == ([15, 20], 2)


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (11, 7), (64, 96)])
def test_the_size_is_reached_as_media_fit_does(folder: Path, size: tuple[int, int]) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (2, 45, 67, 3), dtype=np.uint8))
    wanted = (fit(torch.from_numpy(np.stack(noise)).float() / 255, *size) * 255).round().byte().permute(0, 3, 1, 2)
    assert (reading.fitted(noise, size).int() - wanted.int()).abs().max() <= 1
    assert ((reading.fitted(noise, size) != wanted).float().mean()) < 0.01
    assert torch.equal(reading.fitted(noise, (45, 67)), torch.from_numpy(np.stack(noise)).permute(0, 3, 1, 2))


def test_turned_videos_come_upright(folder: Path) -> None:
    shards = Shards.open(folder)
    with shards.open_video(4) as file:
        assert read_at_times(file, [0.5], "x")[0].shape == (64, 32, 3)


def test_starts_are_uniform_and_a_function_of_seed_and_position(folder: Path) -> None:
    dataset = ClipDataset(Shards.open(folder), None, fps=8, frames=8, size=(16, 16), seed=4)
    starts = np.array([dataset.start(position, 0, 10.0) for position in range(4000)])
    assert starts.min() >= 0
    assert starts.max() <= 10 - 7 / 8
    assert np.histogram(starts, 10, (0, 10 - 7 / 8))[0].min() > 330
    again = ClipDataset(Shards.open(folder), None, fps=8, frames=8, size=(16, 16), seed=4)
    assert again.start(17, 0, 10.0) == starts[17]
    assert abs(np.corrcoef(starts[:-1], starts[1:])[0, 1]) < 0.06
    other = ClipDataset(Shards.open(folder), None, fps=8, frames=8, size=(16, 16), seed=5)
    assert other.start(17, 0, 10.0) != starts[17]
    assert len({fraction(0, seed) for seed in range(100)}) == 100


def test_fixed_starts_are_so_many_for_each_clip(folder: Path) -> None:
    dataset = ClipDataset(Shards.open(folder), None, fps=8, frames=4, size=(16, 16), seed=4, fixed_starts=3)
    starts = {row: {dataset.start(position, row, 9.0) for position in range(200)} for row in range(20)}
    assert {len(found) for found in starts.values()} == {3}
    assert len(set().union(*starts.values())) == 60  # each clip has its own
    at = next(position for position in range(50) if dataset.choice(position) == 2)
    by_position, by_row = dataset[at], dataset.clip(dataset.order[at], 2)
    assert by_position.pop("position") == at
    assert torch.equal(by_position.pop("frames"), by_row.pop("frames"))
    assert by_position == by_row


def test_videos_that_are_too_short_are_left_out_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = Shards.open(folder)
    with caplog.at_level(logging.WARNING):
        dataset = ClipDataset(shards, ClipOrder(shards.counts(), 0), fps=8, frames=4, size=(16, 16), seed=0)
    assert "1 of 6 clips are left out" in caplog.text
    assert len(dataset) == 5
    assert sorted(dataset.order.rows(0, 5)) == eligible(shards, 8, 4).tolist() == [0, 1, 3, 4, 5]
    with pytest.raises(ValueError, match=r"at least 12\.38 s .*the longest of 6 lasts 2\.\d\d s"):
        ClipDataset(shards, None, fps=8, frames=100, size=(16, 16), seed=0)
    for wrong in ({"fps": 0.0}, {"frames": 0}, {"size": (0, 4)}, {"fixed_starts": 0}):
        with pytest.raises(ValueError, match="clips: expected"):
            ClipDataset(shards, None, **{"fps": 8.0, "frames": 4, "size": (16, 16), "seed": 0, **wrong})  # type: ignore[arg-type]


# -- the loader


def test_the_loader_gives_the_same_batches_whatever_the_workers(folder: Path) -> None:
    dataset = ClipDataset(Shards.open(folder), None, fps=8, frames=4, size=(16, 24), seed=0)
    positions = [[0, 1, 2], [7, 3], [100]]
    alone, helped = list(loader(dataset, positions, 0)), list(loader(dataset, iter(positions), 2))
    assert [batch["position"].tolist() for batch in helped] == positions
    for one, other, wanted in zip(alone, helped, positions, strict=True):
        assert (one["frames"].shape, one["key"], one["caption"]) == ((len(wanted), 4, 3, 16, 24), other["key"], other["caption"])
        for name in ("frames", "row", "start", "position"):
            assert torch.equal(one[name], other[name])


def test_an_endless_list_of_positions_is_read_as_needed(folder: Path) -> None:
    dataset = ClipDataset(Shards.open(folder), None, fps=8, frames=2, size=(8, 8), seed=0)
    batches = loader(dataset, ([n, n + 1] for n in iter(lambda: 3, 0)), 1)
    assert next(batches)["position"].tolist() == next(batches)["position"].tolist() == [3, 4]
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_cannot_be_decoded_is_a_sentence(folder: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    entry = np.load(folder / storage.INDEX)[0]
    with open(tmp_path / "clips-000000.tar", "r+b") as file:
        file.seek(int(entry["video"]))
        file.write(bytes(int(entry["video_size"])))
    dataset = ClipDataset(Shards.open(tmp_path), None, fps=8, frames=4, size=(16, 16), seed=0)
    bad = next(position for position in range(5) if dataset.order[position] == 0)
    with pytest.raises(ValueError, match=rf"^clip at position {bad}: even-.*decoded.*") as error:
        list(loader(dataset, [[bad]], workers))
    assert "\n" not in str(error.value)


class Deadly(ClipDataset):
    def __getitem__(self, position: int) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_worker_that_dies_is_a_sentence(folder: Path) -> None:
    dataset = Deadly(Shards.open(folder), None, fps=8, frames=4, size=(16, 16), seed=0)
    with pytest.raises(Stopped, match="use fewer workers than 1"):
        list(loader(dataset, [[0]], 1))


def test_a_broken_off_shard_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / "clips-000002.tar", 1000)
    with pytest.raises(ValueError, match=r"clips-000002\.tar: expected \d+ bytes"):
        Shards.open(tmp_path).read(5)


def test_the_measuring_and_the_reading_side_agree_on_length(folder: Path) -> None:
    for row, facts in enumerate(Shards.open(folder).facts(row) for row in range(6)):
        seen = motion_score.look(Shards.open(folder).read(row))
        assert seen.duration == pytest.approx(facts["duration"], abs=0.011), facts["key"]
        assert (seen.frames, seen.width, seen.height) == (facts["frames"], facts["width"], facts["height"])
