"""When odd films begin and end, which of their frames are there, sizes that change, covers and previews."""

from __future__ import annotations

import io
import logging
import struct
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu_core.data.clips import read_at_times
from emu_core.data.motion_score import look
from emu_core.media import Unreadable, VideoReader, read_video
from emu_core.media.decoding import opened
from emu_core.media.spacing import even_out, even_rate
from emu_core.study.videos import prepare_video

from .film import (
    CASES,
    COUNT,
    HEIGHT,
    SHARP,
    VP8,
    VP9,
    WIDTH,
    Film,
    colours,
    copied_stream,
    moving,
    numbers,
    quadrants,
    video_of,
    with_sound,
    write,
)

# -- beginnings and ends


@pytest.mark.parametrize("name", ["start_offset_0.2s.mkv", "start_offset_copyts.mkv", "last_duration_short.mp4"])
def test_twelve_frames_at_twelve_a_second(name: str, tmp_path: Path) -> None:
    video, seen = VideoReader(CASES / name), look(CASES / name)
    assert (len(list(video)), video.facts.fps, seen.frames, seen.fps) == (COUNT, 12, COUNT, 12)
    copied = prepare_video(CASES / name, tmp_path / "made.mp4")
    assert (copied.frames, copied.seconds) == (COUNT, pytest.approx(1, abs=0.06))


@pytest.mark.parametrize("start", [0, 40])
@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("mp4", "libx264"),
        ("mov", "libx264"),
        ("matroska", "libx264"),
        ("webm", "libvpx-vp9"),
        ("avi", "mpeg4"),
        ("flv", "libx264"),
        ("flv", "flv"),
    ],
)
def test_what_is_cut_short_is_found_wherever_it_begins(form: str, codec: str, start: int, tmp_path: Path) -> None:
    start *= form != "avi"  # where a film begins at once
    noise = np.random.default_rng(0).integers(0, 256, (36, HEIGHT, WIDTH, 3), np.uint8)
    options = VP9 if form == "webm" else {"b:v": "9M"} if codec in ("mpeg4", "flv") else SHARP
    container = {"movflags": "+faststart"} if form in ("mp4", "mov") else {}
    (tmp_path / "whole").write_bytes(
        data := faststart(Film(form, codec, options=options, start=start, container=container), list(noise), tmp_path)
    )
    assert len(list(VideoReader(tmp_path / "whole"))) >= 36
    for part in (0.4, 0.75):
        (tmp_path / "cut").write_bytes(data[: int(len(data) * part)])
        with pytest.raises(Unreadable):
            list(VideoReader(tmp_path / "cut"))
        with pytest.raises(Unreadable):
            look(tmp_path / "cut")


def faststart(film: Film, pictures: list[np.ndarray], folder: Path) -> bytes:
    """FFmpeg moves the index of a file on disk only."""
    if "movflags" not in film.container:
        return film.write(pictures)
    (folder / "plain").write_bytes(Film(film.form, film.codec, options=film.options, start=film.start).write(pictures))
    with (
        av.open(str(folder / "plain")) as plain,
        av.open(str(folder / "fast"), "w", format=film.form, options=film.container) as fast,
    ):
        stream = copied_stream(fast, plain.streams.video[0])
        for packet in plain.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                fast.mux(packet)
    return (folder / "fast").read_bytes()


def test_a_cut_film_with_sound_is_found_by_the_length_of_its_own_track(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (36, HEIGHT, WIDTH, 3), np.uint8)
    data = with_sound(Film(options=SHARP).write(list(noise)), "matroska", "aac", seconds=2.5)
    assert len(list(video_of(data, tmp_path))) == 36
    with pytest.raises(Unreadable, match="breaks off"):
        video_of(data[: len(data) // 2], tmp_path)


@pytest.mark.parametrize("form", ["matroska", "asf", "mp4"])
def test_sound_that_goes_on_is_no_missing_picture(form: str, tmp_path: Path) -> None:
    codec, options = ("mpeg4", {"b:v": "3M"}) if form == "asf" else ("libx264", SHARP)
    data = with_sound(
        Film("mp4", codec, options=options, start=20).write(moving()), form, "mp2" if form == "asf" else "aac", seconds=5
    )
    assert len(list(video_of(data, tmp_path))) == look(data).frames == COUNT


@pytest.mark.parametrize("last", [0.01, 0.3, 0.45, 0.55, 0.9, 1.0])
def test_the_last_picture_is_never_lost(last: float) -> None:
    even, rate = even_out([1 / 12] * 11 + [last / 12], 12 / (11 + last) * 12, None, 1 / 90000)
    assert (list(even), rate) == ([*range(12)], pytest.approx(12, rel=0.01))
    uneven, rate = even_out([0.1, 0.1, 0.4, 0.1, 0.1, last / 10], None, None, 0.001)
    assert (list(uneven), rate) == ([0, 1, 2, 2, 2, 2, 3, 4, 5], pytest.approx(10))


@given(st.lists(st.floats(0.5, 6), min_size=2, max_size=30), st.floats(0.01, 3))
@settings(deadline=None, max_examples=200)
def test_the_last_picture_is_shown_whatever_the_times(steps: list[float], last: float) -> None:
    shown, rate = even_out([*steps, last], None, None, 0.001)
    assert shown[-1] == len(steps)
    assert shown[0] == 0 or steps[0] < 0.5 / rate + 1e-9
    assert list(shown) == sorted(shown)


def test_a_rate_is_what_rounded_times_allow() -> None:
    for rate in (12.0, 24000 / 1001, 30000 / 1001, 60.0, 25.0):
        times = [round(1000 * number / rate) / 1000 for number in range(40)]
        durations = [*np.diff(times), 0.001]
        assert even_rate(durations, 1000.0, 0.001) == pytest.approx(rate, rel=1e-12)
    assert even_rate([0.1, 0.4, 0.1], 10, 0.001) is None


def test_a_variable_rate_ends_with_its_last_picture(tmp_path: Path) -> None:
    times = [0, 83, 167, 250, 650, 733, 817]
    for form in ("matroska", "mp4", "mov"):
        data = Film(form, options=SHARP, base=Fraction(1, 1000), rate=60).write(moving(7), times)
        frames = np.stack(list(video_of(data, tmp_path))).astype(int)
        order = [int(np.abs(np.stack(moving(7)).astype(int) - frame).mean(axis=(1, 2, 3)).argmin()) for frame in frames]
        assert order == [0, 1, 2, 3, 3, 3, 3, 3, 4, 5, 6], form


def test_what_an_edit_list_cuts_off_is_not_there(tmp_path: Path) -> None:
    """Of an mp4 that a phone has trimmed: the pictures before are decoded, since others need them, but not shown."""
    pictures = moving()
    data = bytearray(Film(options=SHARP).write(pictures))
    place = data.index(b"elst") + 12
    length, begin, _ = struct.unpack(">IiI", data[place : place + 12])
    data[place : place + 8] = struct.pack(">Ii", length * 8 // 12, begin + 4 * 1024)
    (tmp_path / "trimmed.mp4").write_bytes(data)
    made = prepare_video(tmp_path / "trimmed.mp4", tmp_path / "made.mp4")
    seen = look(tmp_path / "trimmed.mp4")
    assert (made.frames, seen.frames, seen.duration, made.seconds) == (
        8,
        8,
        pytest.approx(8 / 12, abs=1e-3),
        pytest.approx(8 / 12, abs=1e-3),
    )
    for name in ("trimmed.mp4", "made.mp4"):
        frames = [*VideoReader(tmp_path / name), *read_at_times(tmp_path / name, [0, 7 / 12], "")]
        assert numbers(frames) == [*range(4, 12), 4, 11]


@pytest.mark.parametrize("begin", [0, 5, 100])
def test_films_behind_each_other_are_one(begin: int, tmp_path: Path) -> None:
    """Transport streams may be joined byte by byte; the times of the second begin where they like."""
    first, second = (Film("mpegts", options=SHARP, start=start).write(moving()) for start in (20, 20 + begin))
    data = first + second
    video, seen = video_of(data, tmp_path), look(data)
    if begin < 100:
        assert (numbers(list(video)), video.facts.fps) == ([*range(12), *range(12)], 12)
        assert (seen.frames, seen.fps, seen.duration) == (24, pytest.approx(12, rel=1e-3), pytest.approx(2, abs=0.01))
    else:  # a gap is a gap
        assert (seen.frames, seen.duration) == (24, pytest.approx((20 + 100 + 12 - 20) / 12, abs=0.01))


def test_avi_with_frames_that_wait_for_later_ones(tmp_path: Path) -> None:
    for codec, options in (("mpeg4", {"bf": "2", "b:v": "3M"}), ("libx264", {**SHARP, "bf": "3"})):
        data = Film("avi", codec, options=options).write(moving())
        video, seen = video_of(data, tmp_path), look(data)
        assert (numbers(list(video)), video.facts.fps) == ([*range(12)], 12)
        assert (seen.frames, seen.fps, seen.duration) == (12, 12, pytest.approx(1))


def test_a_part_of_a_fragmented_film_is_whole(tmp_path: Path) -> None:
    """As a player gets it that begins in the middle: the head, and the fragments from the second on."""
    container = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    data = Film(options={**SHARP, "g": "12"}, container=container).write(moving(36))
    places = [place for place in range(len(data)) if data[place : place + 4] == b"moof"]
    assert len(places) == 3
    part = data[: places[0] - 4] + data[places[1] - 4 :]
    assert (len(list(video_of(part, tmp_path))), look(part).frames) == (24, 24)


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts", "flv"])
def test_a_late_beginning_is_the_beginning_for_study_and_training(form: str, tmp_path: Path) -> None:
    data = Film(form, options=SHARP, start=30).write(moving())
    made = prepare_video(write(tmp_path / "late", data), tmp_path / "made.mp4")
    assert (made.frames, made.seconds) == (COUNT, pytest.approx(1, abs=0.01))
    if form == "mp4":  # the form of shards
        assert numbers(read_at_times(data, [0.001, 0.501, 0.95], "")) == [0, 6, 11]
    with opened(tmp_path / "made.mp4") as copied:
        assert copied.start == 0
        assert [float(moment * copied.base) for moment, _ in copied.timed()] == pytest.approx(
            [n / 12 for n in range(COUNT)], abs=6e-4
        )


# -- sizes that change, covers, previews


def resized(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """A WebM of VP8 whose pictures change their size, as those of a call in a browser do."""
    path = folder / "call.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=12, options=VP8)
        stream.height, stream.width = sizes[0]
        stream.pix_fmt = "yuv420p"
        number = 0
        for place, size in enumerate(sizes):
            with av.open(io.BytesIO(Film("webm", "libvpx", size=size, options=VP8).write(moving(6, *size)))) as part:
                packets = [packet for packet in part.demux(video=0) if packet.size]
            for packet in packets:
                packet.pts = packet.dts = round(number * 1000 / 12)
                packet.time_base, packet.stream = Fraction(1, 1000), stream
                container.mux(packet)
                number += 1
            assert place < len(sizes)
    return path


def test_another_shape_in_the_middle_is_refused_with_both_sizes(tmp_path: Path) -> None:
    for path in (CASES / "size_change.ts", resized(tmp_path, [(64, 96), (96, 64)])):
        for read in (list, look, partial(prepare_video, target=tmp_path / "made.mp4")):
            with pytest.raises(Unreadable, match="96 x 64 at first and 64 x 96 from frame (7|13) on"):
                read(VideoReader(path) if read is list else path)
        assert len(read_video(path, max_frames=5).frames) == 5


def test_another_size_of_the_same_shape_is_scaled_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = resized(tmp_path, [(64, 96), (128, 192), (32, 48)])
    with caplog.at_level(logging.WARNING):
        frames = list(VideoReader(path))
    assert [colours(frame) for frame in frames] == [colours(quadrants())] * 18
    assert {frame.shape for frame in frames} == {(64, 96, 3)}
    assert [record.getMessage().count("from frame") for record in caplog.records] == [1, 1]
    with pytest.raises(Unreadable, match="192 x 128 from frame 7 on; cut it there or convert"):
        look(path)
    assert prepare_video(path, tmp_path / "made.mp4").frames == 18


@pytest.mark.parametrize("name", ["only_cover.m4a", "cover.mp3", "cover.mkv"])
def test_a_cover_picture_is_no_video(name: str) -> None:
    for read in (VideoReader, look):
        with pytest.raises(Unreadable, match="found only a cover picture and audio"):
            read(CASES / name)


def test_the_main_stream_is_taken_not_a_preview_before_it(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "two.mkv"), "w") as container:
        streams = [container.add_stream(codec, rate=12) for codec in ("mjpeg", "libx264")]
        for stream, side, form in zip(streams, (16, 64), ("yuvj420p", "yuv420p"), strict=True):
            stream.height, stream.width, stream.pix_fmt = side, side * 3 // 2, form
        for number in range(4):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(quadrants(stream.height, stream.width), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    assert (VideoReader(tmp_path / "two.mkv").facts.width, look(tmp_path / "two.mkv").codec) == (96, "h264")


def test_codecs_have_the_names_of_codecs() -> None:
    assert look(CASES / "av1.mp4").codec == "av1"
    assert look(CASES / "alpha_cutout_vp9.webm").codec == "vp9"
    assert look(CASES / "display_vflip.mp4").codec == "h264"
    assert look(Film("webm", "libvpx", options=VP8).write()).codec == "vp8"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read as Linux says it")
def test_what_is_held_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Frames are let go of at once, not when the garbage collector comes: four times the pictures take no more memory."""
    held = []
    for seconds in (2, 8):
        path = tmp_path / f"{seconds}.mp4"
        path.write_bytes(Film(size=(540, 960), options={"preset": "ultrafast"}).write(moving(12 * seconds, 540, 960)))
        code = (
            "import re; from emu_core.media.reading import VideoReader\n"
            f"assert sum(1 for _ in VideoReader({str(path)!r})) == {12 * seconds}\n"
            "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
        )
        held.append(int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout))
    assert held[1] < held[0] + 20_000, held  # KiB


@pytest.mark.parametrize("parts", [[12, 4], [4, 4, 4], [24, 24], [3, 3]])
def test_parts_that_begin_before_the_first_go_on_behind_it(parts: list[int], tmp_path: Path) -> None:
    data = b"".join(Film("mpegts", options=SHARP, start=60 - 20 * place).write(moving(n)) for place, n in enumerate(parts))
    video, seen, count = video_of(data, tmp_path), look(data), sum(parts)
    assert (len(list(video)), seen.frames, seen.duration) == (count, count, pytest.approx(count / 12, abs=0.01))
    assert video.facts.fps == pytest.approx(12, rel=0.02)
    path = tmp_path / "joined.ts"
    path.write_bytes(data)
    assert prepare_video(path, tmp_path / "copy.mp4").seconds == pytest.approx(count / 12, abs=0.1)


def test_times_that_went_wrong_fill_no_hours(tmp_path: Path) -> None:
    data = Film("matroska").write(moving(), [*range(11), 12 * 4000])
    for action in (lambda: video_of(data, tmp_path), lambda: look(data)):
        with pytest.raises(Unreadable, match="expected pictures at most 3600 s apart, found two that are 3999 s apart"):
            action()


@pytest.mark.parametrize("form", ["matroska", "nut"])
def test_one_picture_lasts_a_frame(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"one.{form}"
    path.write_bytes(Film(form, options=SHARP).write(moving(1)))
    assert VideoReader(path).facts.fps == pytest.approx(12, rel=0.01)
    assert prepare_video(path, tmp_path / "copy.mp4").seconds == pytest.approx(1 / 12, abs=0.002)


def test_the_study_takes_no_film_that_breaks_off(tmp_path: Path) -> None:
    path, data = tmp_path / "cut.mkv", Film("matroska", options=SHARP).write(moving(96))
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(Unreadable, match="expected 8.00 s of video, found a file that breaks off"):
        prepare_video(path, tmp_path / "copy.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["cut.mkv"]


@pytest.mark.parametrize("number", [8, 10, 14])
def test_colours_that_cannot_be_read_are_named_by_curation_too(number: int, tmp_path: Path) -> None:
    data = Film(matrix=("bt2020", number), options=SHARP).write()
    for action in (lambda: list(video_of(data, tmp_path)), lambda: look(data)):
        with pytest.raises(Unreadable, match="expected colours in Y'CbCr of BT.601, BT.709 or BT.2020, or in RGB, found"):
            action()
