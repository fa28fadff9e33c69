"""The sound of a video: kept by interpolation, left out with a word where it has no room, ignored with a word elsewhere."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from emu_core.cli.main import main
from emu_core.evaluation.prompts import Prompt
from emu_core.evaluation.sets import measure_set
from emu_core.evaluation.videos import open_set
from emu_core.media import VideoReader, read_video, write_video
from emu_core.study.create import create_study

from .film import SHARP, Film, moving, with_sound

SECONDS = 1.0
CONTAINERS = {".mp4": ("mp4", "aac"), ".mkv": ("matroska", "aac"), ".webm": ("webm", "opus")}


def film(codec: str = "aac", form: str = "mp4", start: int = 0, begin: float = 0.0) -> bytes:
    """Twelve frames, and a tone of 440 Hz for a second from `begin` on."""
    return with_sound(Film(options=SHARP, start=start).write(moving()), form, codec, SECONDS, begin)


def frames() -> torch.Tensor:
    return torch.from_numpy(np.stack(moving(24))).float() / 255


def heard(path: Path) -> tuple[str, float, float, float]:
    """Codec, where the sound begins and ends in seconds, and its pitch in Hz."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        pieces = list(container.decode(stream))
        planar = [piece.to_ndarray()[0] for piece in pieces if piece.format.is_planar]
        waves = np.concatenate(planar or [np.zeros(1)])
        rate, first, last = pieces[0].rate, pieces[0], pieces[-1]
        pitch = float(np.abs(np.fft.rfft(waves)).argmax() * rate / len(waves))
        return stream.codec_context.codec.canonical_name, float(first.time), float(last.time + last.samples / rate), pitch


@pytest.mark.parametrize("extension", CONTAINERS)
@pytest.mark.parametrize(
    ("form", "codec"),
    [("mp4", "aac"), ("matroska", "flac"), ("matroska", "ac3"), ("mov", "pcm_s16le"), ("mpegts", "mp2")],
)
def test_sound_stays_beside_new_pictures(extension: str, form: str, codec: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(film(codec, form))
    out = tmp_path / f"out{extension}"
    write_video(out, frames(), 24.0, {"prompt": "p"}, sound=tmp_path / "source")
    kept, begin, end, pitch = heard(out)
    video = read_video(out)
    assert (len(video.frames), video.fps, video.metadata, video.sound) == (24, 24, {"prompt": "p"}, True)
    assert (begin, end) == (pytest.approx(0, abs=0.05), pytest.approx(SECONDS, abs=0.1))
    assert pitch == pytest.approx(440, abs=3) or pitch == 0  # of interleaved samples nothing is asked
    taken = {".mp4": ("aac", "flac", "ac3"), ".mkv": ("aac", "flac", "ac3", "pcm_s16le", "mp2"), ".webm": ()}[extension]
    assert kept == (codec if codec in taken else CONTAINERS[extension][1])


@pytest.mark.parametrize(("start", "begin", "expected"), [(6, 0.5, 0.0), (0, 0.5, 0.5), (6, 0.25, 0.0)])
def test_sound_and_pictures_stay_in_step(start: int, begin: float, expected: float, tmp_path: Path) -> None:
    """start: frames before the first picture, begin: seconds before the sound; the new pictures begin at 0."""
    (tmp_path / "source.mkv").write_bytes(film("aac", "matroska", start, begin))
    write_video(tmp_path / "out.mkv", frames(), 24.0, sound=tmp_path / "source.mkv")
    assert heard(tmp_path / "out.mkv")[1] == pytest.approx(expected, abs=0.03)
    assert VideoReader(tmp_path / "out.mkv").facts.frames == 24
    write_video(tmp_path / "late.mp4", frames(), 24.0, sound=tmp_path / "source.mkv", late=0.25)
    assert heard(tmp_path / "late.mp4")[1] == pytest.approx(expected + 0.25 - max(0, start / 12 - begin), abs=0.03)


@pytest.mark.parametrize("name", ["out.gif", "out.webp", "out"])
def test_what_has_no_room_for_sound_says_so_once(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "source.mp4").write_bytes(film())
    with caplog.at_level(logging.WARNING):
        write_video(tmp_path / name, frames()[:2], 24.0, sound=tmp_path / "source.mp4")
        write_video(tmp_path / f"again-{name}", frames()[:2], 24.0, sound=tmp_path / name)  # which has none
    assert [name in record.getMessage() and "have no sound" in record.getMessage() for record in caplog.records] == [True]


def test_sound_that_cannot_be_read_is_a_warning_and_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    data = film("flac", "matroska")
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    for name, said in (("text.mp4", 1), ("cut.mkv", 0), ("missing.mp4", 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            write_video(tmp_path / "out.mp4", frames(), 24.0, sound=tmp_path / name)
        assert ["its sound is not kept" in record.getMessage() for record in caplog.records] == [True] * said
        assert len(read_video(tmp_path / "out.mp4").frames) == 24


@pytest.mark.usefixtures("narrow_by_default")
def test_interpolate_keeps_the_sound_or_says_that_it_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(tmp_path / "silent.mp4", torch.rand(3, 64, 64, 3), 5.0)
    (tmp_path / "in.mp4").write_bytes(with_sound((tmp_path / "silent.mp4").read_bytes(), "mp4", "aac", 0.6))
    command = ["interpolate", str(tmp_path / "in.mp4"), "a circle", "--steps", "1"]
    assert main([*command, "--out", str(tmp_path / "out.mp4")]) == 0
    # the frames before the first given one last as long as one of these, 0.2 s
    assert heard(tmp_path / "out.mp4")[1:3] == (pytest.approx(0.2, abs=0.03), pytest.approx(0.8, abs=0.05))
    assert not caplog.records
    assert main([*command, "--out", str(tmp_path / "slow.mp4"), "--fps", "2"]) == 0
    assert not VideoReader(tmp_path / "slow.mp4").facts.sound
    assert ["its sound is left out, since --fps" in record.getMessage() for record in caplog.records] == [True]
    caplog.clear()
    write_video(tmp_path / "long.mp4", torch.rand(9, 64, 64, 3), 5.0)
    (tmp_path / "in.mp4").write_bytes(with_sound((tmp_path / "long.mp4").read_bytes(), "mp4", "aac", 0.6))
    assert main([*command, "--out", str(tmp_path / "jump.mp4"), "--stitch", "paper"]) == 0
    assert ["its sound is left out, since --stitch paper" in record.getMessage() for record in caplog.records] == [True]


def test_study_and_evaluation_say_that_they_ignore_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for system in ("a", "b"):
        (tmp_path / system).mkdir()
        (tmp_path / system / "000.mp4").write_bytes(film())
    write_video(tmp_path / "b" / "000.mp4", frames(), 24.0)
    (tmp_path / "prompts.txt").write_text("a square moves\n")
    made = create_study(tmp_path / "study", {name: tmp_path / name for name in "ab"}, tmp_path / "prompts.txt")
    assert (made["silenced"], made["reencoded"]) == (1, 0)
    for file in (tmp_path / "study" / "videos").iterdir():
        assert not VideoReader(file).facts.sound
    folders = [str(tmp_path / name) for name in ("again", "a", "b")]
    assert main(["study", "create", *folders, "--prompts", str(tmp_path / "prompts.txt")]) == 0
    assert "1 videos have sound, which was left out" in capsys.readouterr().out
    lacks = [measure_set(open_set("", tmp_path / name), [Prompt("000", "a square moves")]).lacks for name in "ab"]
    assert lacks == [{"have sound, which no figure listens to": 1}, {}]


def test_a_gap_in_the_sound_stays_a_gap(tmp_path: Path) -> None:
    """Encoded anew for WebM: what comes behind a second of nothing comes as late as before."""
    source = tmp_path / "gap.mkv"
    with av.open(str(source), "w", format="matroska") as container:
        made = container.add_stream("libx264", rate=12, options=SHARP)
        made.width, made.height, made.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream("ac3", rate=48_000, layout="mono")
        for number, picture in enumerate(moving(36)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 12)
            container.mux(made.encode(frame))
        container.mux(made.encode(None))
        for start in (0, 96_000):
            wave = np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000).astype(np.float32)
            for at in range(0, 48_000 - 1536, 1536):
                piece = av.AudioFrame.from_ndarray(wave[None, at : at + 1536], format="fltp", layout="mono")
                piece.rate, piece.pts, piece.time_base = 48_000, start + at, Fraction(1, 48_000)
                container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    write_video(tmp_path / "out.webm", torch.from_numpy(np.stack(moving(36))).float() / 255, 12.0, sound=source)
    with av.open(str(tmp_path / "out.webm")) as container:
        pieces = list(container.decode(container.streams.audio[0]))
    loud = [float(piece.time) for piece in pieces if np.abs(piece.to_ndarray()).max() > 0.1]
    assert min(loud) < 0.1
    assert max(loud) == pytest.approx(2.95, abs=0.1)
    assert not [moment for moment in loud if 1.1 < moment < 1.9]
    assert len(loud) == pytest.approx(2 * 47, abs=8)  # of 20 ms: two seconds of tone
