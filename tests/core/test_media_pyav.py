"""What versions of PyAV differ in: films with tags that are no text, and numbers of kinds of its own."""

from __future__ import annotations

import gc
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from emu_core.data.motion_score import look
from emu_core.media import VideoReader, read_video
from emu_core.media.decoding import opened
from emu_core.media.writing import write_frames

from .test_media import encode


@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".avi", ".flv", ".nut"])
def test_tags_that_are_no_utf8_stop_nothing(tmp_path: Path, extension: str) -> None:
    """As an old program on Windows writes "grün", and worse. What cannot be read is U+FFFD, as in Python's own `replace`."""
    source, copy = tmp_path / f"a{extension}", tmp_path / "copy.mp4"
    encode(source, [np.zeros((32, 32, 3), np.uint8)] * 4, [0, 1, 2, 3], metadata={"title": "gr@n @@@"})
    data = source.read_bytes()
    assert b"gr@n @@@" in data
    source.write_bytes(data.replace(b"gr@n @@@", b"gr\xfcn \xed\xa0\xff"))
    tags = {key.lower(): value for key, value in read_video(source).metadata.items()}
    assert tags["title"] == b"gr\xfcn \xed\xa0\xff".decode(errors="replace")
    with opened(source) as video:
        write_frames(
            copy, ((moment, video.converted(frame, True)) for moment, frame in video.timed()), video.rate, tags=video.tags
        )
    assert VideoReader(copy).facts.metadata["title"] == tags["title"]


def test_times_and_rates_are_fractions(tmp_path: Path) -> None:
    """PyAV 19 has rational numbers of its own, of which `write_frames` would take a rate for a float."""
    rate = Fraction(30_000, 1003)
    encode(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)] * 4, [0, 1, 2, 3], base=1 / rate, rate=rate)
    with opened(tmp_path / "a.mp4") as video:
        assert [type(each) for each in (video.base, video.aspect, video.rate)] == [Fraction] * 3
        write_frames(tmp_path / "b.mp4", ((at, video.pixels(frame)) for at, frame in video.timed(1 / rate)), video.rate)
    with opened(tmp_path / "b.mp4") as video:
        assert video.rate == rate


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counted by Linux")
def test_no_threads_stay_behind(tmp_path: Path) -> None:
    """A process that is forked later would wait for them forever."""
    path = tmp_path / "a.mp4"
    encode(path, [np.zeros((256, 384, 3), np.uint8)] * 4, [0, 1, 2, 3])
    gc.collect()
    gc.disable()
    alone = threads()
    try:
        for _ in range(3):
            assert (len(list(VideoReader(path))), look(path).frames) == (4, 4)
        assert threads() <= alone
    finally:
        gc.enable()


def threads() -> int:
    """Threads of this process, those of libraries too."""
    return len(os.listdir("/proc/self/task"))
