"""Films of many containers, codecs, pixel formats, orientations, beginnings, sizes, colour codings and rates, each written here
and read: as many frames as were written, at their rate, upright, in their order and colours."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emu_core.data.motion_score import look
from emu_core.media import VideoReader

from .film import COUNT, HEIGHT, ORIENTATIONS, Film, middles, moving, seen_through, shown_by

BT709, BT2020 = ("bt709", 1), ("bt2020", 9)
SHARP = {"preset": "veryfast", "crf": "4"}
ULTRA = {"preset": "ultrafast", "crf": "4"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:crf=4"}
VP9 = {"crf": "4", "b:v": "0", "deadline": "realtime", "cpu-used": "8"}
VP8 = {"b:v": "4M", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}
COARSE = {"b:v": "8M", "qscale": "2"}

Case = tuple[Film, tuple[float, ...]]


def families() -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...], dict[str, str]]]:
    """Codec, containers, pixel formats, options."""
    every = "mp4", "mov", "matroska", "mpegts", "avi", "flv", "nut"
    yield "libx264", every, ("yuv420p", "yuv444p", "yuv420p10le"), SHARP  # with B-frames
    yield "libx264", ("mp4", "matroska"), ("gray", "yuv422p", "yuvj420p", "yuv422p10le"), ULTRA
    yield "libx264rgb", ("mp4", "matroska"), ("rgb24",), {"qp": "0", "preset": "ultrafast"}
    yield "libx265", ("mp4", "matroska", "mpegts"), ("yuv420p", "yuv420p10le", "gbrp"), X265
    yield "libsvtav1", ("mp4", "webm", "matroska"), ("yuv420p", "yuv420p10le"), {"preset": "12", "crf": "4"}
    yield "libvpx", ("webm", "matroska"), ("yuv420p", "yuva420p"), VP8
    yield "libvpx-vp9", ("webm", "matroska", "mp4"), ("yuv420p", "yuv444p", "gbrp"), VP9
    yield "libvpx-vp9", ("webm", "matroska"), ("yuva420p",), VP9
    yield "mpeg4", ("mp4", "avi", "matroska", "asf"), ("yuv420p",), COARSE
    yield "mpeg2video", ("mpegts", "mpeg", "matroska"), ("yuv420p", "yuv422p"), COARSE
    yield "mjpeg", ("avi", "mov", "matroska"), ("yuvj420p", "yuvj444p"), COARSE
    yield "prores_ks", ("mov", "matroska"), ("yuv422p10le", "yuv444p10le", "yuva444p10le"), {}
    yield "ffv1", ("matroska", "avi"), ("yuv420p", "yuv444p16le", "bgra", "rgb48le", "yuva444p10le"), {}
    yield "utvideo", ("avi",), ("yuv420p", "gbrp", "gbrap"), {}
    yield "huffyuv", ("avi",), ("yuv422p", "rgb24", "bgra"), {}
    yield "ffvhuff", ("avi",), ("yuva444p", "gbrap"), {}
    yield "qtrle", ("mov",), ("rgb24", "argb"), {}
    yield "png", ("mov", "avi"), ("rgb24", "rgba", "rgb48be"), {}
    yield "apng", ("apng",), ("rgb24", "rgba"), {}
    yield "rawvideo", ("avi", "nut"), ("yuv420p", "bgr24", "bgra"), {}
    yield "jpeg2000", ("mov",), ("rgb24", "rgba"), {}
    yield "cfhd", ("mov",), ("yuv422p10le", "gbrap12le"), {}
    yield "wmv2", ("asf", "avi"), ("yuv420p",), COARSE
    yield "flv", ("flv",), ("yuv420p",), COARSE
    yield "wrapped_avframe", ("yuv4mpegpipe",), ("yuv420p",), {}
    yield "libx264", ("h264",), ("yuv420p",), SHARP
    yield "libx265", ("hevc",), ("yuv420p",), X265
    yield "mpeg4", ("m4v",), ("yuv420p",), COARSE


def cases() -> dict[str, Case]:
    """Every film by what is particular about it, and the display matrix through which it is shown."""
    upright, found = ORIENTATIONS["upright"], dict[str, Case]()

    def add(name: str, film: Film, matrix: tuple[float, ...] = upright) -> None:
        found[f"{film.form}-{film.codec}-{film.pixels}{name}"] = film, matrix

    for codec, forms, formats, options in families():
        for form, pixels in product(forms, formats):
            rate = {"rate": 25, "base": Fraction(1, 25)} if form == "mpeg" else {}  # which knows only television's rates
            add("", Film(form, codec, pixels, options=options, full=pixels.startswith(("yuvj", "gray")), **rate))
    for form, (name, matrix) in product(("mp4", "mov"), ORIENTATIONS.items()):
        add(f"-{name}", Film(form, options=SHARP), matrix)
    for name in ("mirrored", "clockwise", "transposed"):
        add(
            f"-{name}", Film("mp4", pixels="yuv444p", options=SHARP, size=(HEIGHT, 70), aspect=Fraction(3, 2)), ORIENTATIONS[name]
        )
    vp9, webm = {"codec": "libvpx-vp9", "options": VP9}, {"codec": "libvpx", "options": VP8}
    kinds: list[tuple[str, dict[str, Any]]] = [
        (form, {"options": SHARP}) for form in ("mp4", "mov", "matroska", "mpegts", "flv", "nut")
    ]
    for (form, more), start in product(
        [*kinds, ("webm", vp9), ("webm", webm), ("asf", {"codec": "mpeg4", "options": COARSE})], (3, 50)
    ):
        add(f"-from-{start}", Film(form, start=start, **more))
    for matrix, full in product((("bt601", 6), BT709, ("smpte240m", 7), BT2020), (False, True)):
        add(f"-{matrix[0]}-{'full' if full else 'tv'}", Film("mp4", pixels="yuv444p", options=SHARP, matrix=matrix, full=full))
    for size in ((33, 47), (64, 95), (720, 16), (63, 96)):
        add(f"-{size[0]}x{size[1]}", Film("matroska", pixels="yuv444p", options=SHARP, size=size, matrix=BT709))
    for rate in (Fraction(24000, 1001), Fraction(30000, 1001), 50, 7):
        for form in ("mp4", "matroska", "avi", "mpegts"):
            add(f"-{float(rate):.2f}", Film(form, options=SHARP, rate=rate, base=1 / Fraction(rate)))
    add("-fragments", Film("mp4", options=SHARP, container={"movflags": "frag_keyframe+empty_moov"}))
    add("-interlaced", Film("mpegts", codec="mpeg2video", options={**COARSE, "flags": "+ildct+ilme"}))
    return found


CASES = cases()


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 120


@pytest.mark.parametrize("name", CASES)
def test_frames_rate_size_colours_and_order(name: str, tmp_path: Any) -> None:
    film, matrix = CASES[name]
    pictures = moving(COUNT, *film.size)
    data = film.write(pictures)
    (tmp_path / "film").write_bytes(data if matrix == ORIENTATIONS["upright"] else shown_by(data, matrix))
    video = VideoReader(tmp_path / "film")
    frames = np.stack(list(video)).astype(int)
    stretched = [
        np.asarray(Image.fromarray(picture).resize((round(film.size[1] * film.aspect), film.size[0]))) for picture in pictures
    ]
    expected = np.stack([seen_through(picture, matrix) for picture in stretched]).astype(int)
    if film.pixels == "gray":
        expected = (expected @ (0.299, 0.587, 0.114)).round().astype(int)[..., None].repeat(3, axis=-1)
    assert frames.shape == expected.shape
    assert (video.facts.frames, video.facts.height, video.facts.width) == expected.shape[:3]
    assert video.facts.fps == pytest.approx(float(film.rate), rel=1e-4)
    for shown, meant in zip(frames, expected, strict=True):
        assert np.abs(middles(shown) - middles(meant)).max() <= 8
    order = [int(np.abs(expected - shown).mean(axis=(1, 2, 3)).argmin()) for shown in frames]
    assert order == [*range(COUNT)]
    seen = look(data)
    assert (seen.frames, seen.fps) == (COUNT, pytest.approx(float(film.rate), rel=1e-3))
    assert seen.duration == pytest.approx(COUNT / film.rate, abs=0.002)
