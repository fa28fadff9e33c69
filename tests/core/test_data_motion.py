"""Motion scores, cuts and lengths of real files, encoded here; also the makers of files for the other tests of the data part."""

from __future__ import annotations

import io
import math
import struct
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emu_core.data.motion_score import look, mean_length, motion_summary
from emu_core.media.writing import transcode

# -- makers


def texture(height: int = 320, width: int = 960, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: blotches without a repeat."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def sliding(shift: tuple[float, float], count: int = 20, height: int = 96, width: int = 144, seed: int = 0) -> list[np.ndarray]:
    """A window that moves `shift` (x, y) px a frame over a texture."""
    big = texture(height + 40 + int(abs(shift[1]) * count), width + 40 + int(abs(shift[0]) * count), seed)
    places = [(16 + round(abs(shift[1]) * i), 16 + round(abs(shift[0]) * i)) for i in range(count)]
    return [np.ascontiguousarray(big[top : top + height, left : left + width]) for top, left in places]


def counting(count: int, height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Frame i is one grey, 4 i + 20: which frame was read can be told from it. The red part is brighter by 8."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (20 + 4 * np.arange(count) % 220)[:, None, None, None]
    return list(frames)


def encoded(
    frames: Sequence[np.ndarray],
    rate: Fraction | int = 24,
    form: str = "mp4",
    codec: str = "libx264",
    moments: Sequence[int] | None = None,
    **options: str,
) -> bytes:
    """A file of frames (H, W, 3) uint8. moments: times in milliseconds, for a rate that varies."""
    target = io.BytesIO()
    with av.open(target, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, options={"threads": "1", **options})
        stream.width, stream.height = frames[0].shape[1], frames[0].shape[0]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv444p" if frames[0].shape[0] % 2 else "yuv420p"
        if moments is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if moments is not None:
                frame.pts, frame.time_base = moments[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def sound_only() -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def webm(frames: Sequence[np.ndarray], rate: Fraction | int = 24) -> bytes:
    return encoded(frames, rate, "webm", "libvpx-vp9", deadline="realtime", **{"cpu-used": "8"})


def lying(data: bytes) -> bytes:
    """The same mp4, marked as filmed with the camera turned: a quarter turn in the track's matrix."""
    place = data.index(b"tkhd") + 44
    matrix = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    return data[:place] + matrix + data[place + 36 :]


# -- the score


@pytest.mark.parametrize("shift", [0, 2, 4, 8])
@pytest.mark.parametrize("across", [True, False])
def test_known_shifts_are_measured_within_five_per_cent(shift: int, across: bool) -> None:
    scores = look(encoded(sliding((shift, 0) if across else (0, shift)))).scores
    assert len(scores) == 19
    score, least = motion_summary(scores)
    assert score is not None
    assert least is not None
    if shift == 0:
        assert 0 <= least <= score < 0.05
    else:
        assert (score, least) == (pytest.approx(shift, rel=0.05), pytest.approx(shift, rel=0.05))


def test_vectors_count_by_their_blocks_areas_and_too_few_are_none() -> None:
    kind = np.dtype([(name, "i4") for name in ("w", "h", "motion_x", "motion_y", "motion_scale")])
    vectors = np.array([(16, 16, 12, 16, 4), (8, 8, 0, 4, 4), (16, 8, 0, 0, 4)], kind)  # lengths 5, 1 and 0
    data, other = SimpleNamespace(to_ndarray=lambda: vectors), SimpleNamespace()
    both = {"SEI_UNREGISTERED": other, "MOTION_VECTORS": data}
    frame = SimpleNamespace(side_data=both, width=32, height=32)
    assert mean_length(frame) == pytest.approx((5 * 256 + 1 * 64) / (256 + 64 + 128))
    assert math.isnan(mean_length(SimpleNamespace(side_data=both, width=64, height=32)))
    assert math.isnan(mean_length(SimpleNamespace(side_data={"SEI_UNREGISTERED": other}, width=32, height=32)))


def test_a_file_with_b_frames_and_one_without_vectors_get_the_same_score() -> None:
    frames = sliding((3, 0))
    scores = [motion_summary(look(data).scores)[0] for data in (encoded(frames, bf="3", refs="4"), webm(frames))]
    assert scores == pytest.approx([3, 3], rel=0.05)


def test_the_score_is_in_pixels_of_the_given_height_and_frames_of_the_given_rate() -> None:
    data = encoded(sliding((2, 0)))
    for fps, height, expected in ((None, 192, 4), (12, None, 4), (12, 192, 8), (48, None, 1)):
        score, _ = motion_summary(look(data, fps, height).scores)
        assert score == pytest.approx(expected, rel=0.05), (fps, height)


def test_the_least_window_finds_the_pause_that_the_mean_hides() -> None:
    moving = sliding((4, 0), 24)
    frames = moving[:8] + [moving[7]] * 8 + moving[8:]
    score, least = motion_summary(look(encoded(frames)).scores)
    assert score == pytest.approx(4 * 23 / 31, rel=0.1)
    assert least is not None
    assert least < 0.1


def test_a_cut_is_found_and_is_no_motion() -> None:
    frames = sliding((1, 0), 12) + sliding((1, 0), 12, seed=5)
    seen = look(encoded(frames))
    assert (seen.cuts, [index for index, score in enumerate(seen.scores) if math.isnan(score)]) == ([0.5], [11])
    assert (motion_summary(seen.scores)[0], look(encoded(sliding((1, 0), 12))).cuts) == (pytest.approx(1, rel=0.05), [])


@given(st.lists(st.one_of(st.just(math.nan), st.floats(0, 100)), max_size=30))
@settings(deadline=None, max_examples=60)
def test_the_summary_is_what_the_definition_says(scores: list[float]) -> None:
    known = [value for value in scores if not math.isnan(value)]
    windows = [scores[i : i + 6] for i in range(max(1, len(scores) - 5))]
    means = [np.mean([v for v in window if not math.isnan(v)]) for window in windows if any(not math.isnan(v) for v in window)]
    score, least = motion_summary(scores)
    if not known:
        assert (score, least) == (None, None)
    else:
        assert (score, least) == (pytest.approx(np.mean(known), abs=1e-9), pytest.approx(min(means), abs=1e-9))


# -- what else one pass sees


def test_size_length_rate_and_first_frame() -> None:
    rate = Fraction(24000, 1001)
    seen = look(encoded(counting(30, 33, 47), rate), first=True)
    assert (seen.width, seen.height, seen.frames, seen.codec, seen.is_mp4) == (47, 33, 30, "h264", True)
    assert (seen.fps, seen.duration) == (pytest.approx(float(rate), rel=1e-3), pytest.approx(30 / rate, abs=2e-3))
    assert seen.first is not None
    assert seen.first.shape == (33, 47, 3)
    assert abs(int(seen.first.mean()) - 20) <= 3


def test_a_rate_that_varies_keeps_its_times() -> None:
    moments = [0, 100, 140, 600, 640, 1000, 1900]
    seen = look(encoded(counting(7), moments=moments))
    assert seen.frames == 7
    assert seen.duration == pytest.approx(1.9 + 0.9, abs=0.95)  # how long the last frame stays is the file's guess
    assert seen.duration > 1.9
    assert seen.fps == pytest.approx(seen.frames / seen.duration, rel=0.02)


def test_a_turned_video_is_measured_as_it_is_seen() -> None:
    plain = encoded(sliding((2, 0)))
    straight, turned = look(plain, first=True), look(lying(plain), None, 288, first=True)
    assert (turned.width, turned.height) == (straight.height, straight.width) == (96, 144)
    assert straight.first is not None
    assert turned.first is not None
    assert any(np.array_equal(turned.first, np.rot90(straight.first, k)) for k in (1, 3))
    assert motion_summary(turned.scores)[0] == pytest.approx(4, rel=0.05)  # seen 144 px high, measured at 288


def test_what_is_no_mp4_is_told_apart() -> None:
    files = webm(counting(4)), encoded(counting(4), form="mov"), encoded(counting(4))
    assert [look(data).is_mp4 for data in files] == [False, False, True]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "decoded"),
        (b"\0" * 500, "decoded"),
        (b"#EXTM3U\n#EXTINF:1,\nother.mp4\n", "decoded"),
        (encoded(counting(24))[:900], "decoded"),
        (sound_only(), "only audio"),
        (encoded(counting(1)), "at least 2 frames"),
        ((whole := encoded(sliding((1, 0), 48), form="matroska"))[: len(whole) * 2 // 3], "breaks off"),
    ],
    ids=["empty", "zeros", "playlist", "cut", "sound", "one", "cut-mkv"],
)
def test_what_cannot_be_used_is_a_sentence(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        look(data)
    assert "\n" not in str(error.value)


def test_a_playlist_by_the_name_of_a_video_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real.mp4").write_bytes(encoded(counting(24)))
    look(tmp_path / "real.mp4")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'real.mp4'}'\n")
    with pytest.raises(ValueError, match="list.mp4"):
        look(tmp_path / "list.mp4")


def test_impossible_settings_are_refused() -> None:
    for fps, height in ((0, None), (-1, None), (None, 15), (None, 17)):
        with pytest.raises(ValueError, match="even height"):
            look(encoded(counting(3)), fps, height)


def test_memory_does_not_grow_with_length_and_torch_is_not_needed(tmp_path: Path) -> None:
    frames = sliding((1, 0), 60, 128, 128)
    (tmp_path / "short.mp4").write_bytes(encoded(frames, preset="ultrafast"))
    (tmp_path / "long.mp4").write_bytes(encoded(frames * 20, preset="ultrafast"))
    code = (
        "import resource, sys; from emu_core.data.motion_score import look\n"
        "def peak(name): look(name); return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(peak(sys.argv[1]), peak(sys.argv[2]), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, tmp_path / "short.mp4", tmp_path / "long.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    short, long, torch_there = done.stdout.split()
    assert torch_there == "False"
    assert int(long) - int(short) < 8 * 1024  # KiB; the frames alone would be 29 MiB


def test_transcoding_keeps_times_and_is_the_same_every_time() -> None:
    data = webm(counting(12, 34, 50), 10)
    made = [io.BytesIO(), io.BytesIO()]
    for target in made:
        transcode(data, target)
    assert made[0].getvalue() == made[1].getvalue()
    before, after = look(data, first=True), look(made[0].getvalue(), first=True)
    assert after.is_mp4
    assert (after.frames, after.width, after.height) == (before.frames, 50, 34)
    assert after.duration == pytest.approx(before.duration, abs=0.01)
    assert before.first is not None
    assert after.first is not None
    assert abs(before.first.astype(int) - after.first).mean() < 2
