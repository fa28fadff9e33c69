"""Videos in and out: real files, made with PyAV and Pillow, in a temporary folder. The makers serve the pictures' tests too."""

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from emu_core.media import VIDEO_EXTENSIONS, Unreadable, files, read_image, read_video, write_video, writing
from emu_core.media.decoding import filter_chain
from emu_core.media.reading import is_animation
from emu_core.media.writing import ENCODINGS

from .test_data_motion import sound_only

EIGHTH = Fraction(1, 8)
EXACT = (".webp", "")
EVERY = (*VIDEO_EXTENSIONS, "")
METADATA = {"prompt": 'ein roter Kreis, "größer" 狐\nzweite Zeile', "seed": "7", "comment": "mine", "ключ": "wert", "title": "T"}


def smooth_clip(frames: int = 8, height: int = 48, width: int = 64) -> torch.Tensor:
    """(f, H, W, 3): a soft gradient that drifts; its frames are all different."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    steps = [torch.stack([x, y, 0.5 + 0.4 * torch.sin(3 * x + 0.6 * index)], dim=-1) for index in range(frames)]
    return (torch.stack(steps) * 255).round() / 255


def colour_clip(*colours: tuple[int, int, int], side: int = 32) -> torch.Tensor:
    return torch.stack([torch.tensor(colour, dtype=torch.float32).expand(side, side, 3) / 255 for colour in colours])


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean difference in 1/255 of the means of 4 x 4 pixels: what the eye sees of a dithered GIF.

    What is asked of formats with loss is 3 (4 of tiny pictures), which nobody sees; the encoders leave 0.6, a GIF's palette 1.3.
    """
    means = [torch.nn.functional.avg_pool2d(frames.permute(0, 3, 1, 2), 4) for frames in (one, other)]
    return float((means[0] - means[1]).abs().mean() * 255)


def one_sentence(error: pytest.ExceptionInfo[ValueError], *words: str) -> None:
    text = str(error.value)
    assert text.endswith("."), text
    assert len(text.splitlines()) == 1, text
    assert len(text) < 500, text
    for word in ("found", *words):
        assert word in text, text


def refused(function, *arguments, words: tuple[str, ...] = (), kind: type[ValueError] = ValueError, **named) -> None:
    with pytest.raises(kind, match="expected") as error:
        function(*arguments, **named)
    one_sentence(error, *words)


def encode(
    path: Path, pictures: list[np.ndarray], pts: list[int], base: Fraction = EIGHTH, rate: int | Fraction = 8, **more: Any
) -> None:
    """A film as another program writes it: untagged, times as given."""
    with av.open(str(path), "w") as container:
        container.metadata.update(more.get("metadata", {}))
        stream = container.add_stream(more.get("codec", "libx264"), rate=rate, options=more.get("options", {}))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = more.get("pixels", "yuv420p"), base
        if "aspect" in more:
            stream.codec_context.sample_aspect_ratio = more["aspect"]
        for picture, moment in zip(pictures, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = moment, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def greys(*levels: int, side: int = 32) -> list[np.ndarray]:
    return [np.full((side, side, 3), level, dtype=np.uint8) for level in levels]


def levels_of(frames: torch.Tensor) -> list[int]:
    """The mean grey of each frame, to tens."""
    return [round(float(frame.mean()) * 25.5) * 10 for frame in frames]


# --- videos, there and back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", EVERY)
def test_round_trip_keeps_pictures_rate_and_metadata(tmp_path, extension):
    clip, path = smooth_clip(), tmp_path / f"clip{extension}"
    write_video(path, clip, 12.0, METADATA)
    video = read_video(path)
    assert (video.frames.shape, video.frames.dtype, video.fps) == (clip.shape, torch.float32, 12.0)
    assert video.metadata == METADATA
    assert difference(video.frames, clip) == 0 if extension in EXACT else difference(video.frames, clip) < 3
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("extension", EVERY)
@pytest.mark.parametrize("shown", ["AAABBCDD", "AAAAAAAA", "ABBBBBBB", "A"])
def test_equal_frames_are_not_lost(tmp_path, extension, shown):
    path = tmp_path / f"clip{extension}"
    clip = colour_clip(*[{"A": (0, 0, 0), "B": (80, 80, 80), "C": (160, 160, 160), "D": (240, 240, 240)}[name] for name in shown])
    write_video(path, clip, 8.0)
    video = read_video(path)
    assert (levels_of(video.frames), len(video.frames), video.fps) == (levels_of(clip), len(shown), 8.0)
    assert video.metadata == {}


@pytest.mark.parametrize("extension", EVERY)
@pytest.mark.parametrize("fps", [7.3, 24000 / 1001, 30.0])
def test_every_rate_comes_back(tmp_path, extension, fps):
    clip = colour_clip(*[(20 * (index // 2), 0, 0) for index in range(11)])
    write_video(tmp_path / f"clip{extension}", clip, fps)
    video = read_video(tmp_path / f"clip{extension}")
    assert (len(video.frames), video.fps, levels_of(video.frames)) == (11, fps, levels_of(clip))


@pytest.mark.parametrize("extension", [".mp4", ".webm", ".mkv"])
def test_the_container_itself_has_rate_length_and_tags(tmp_path, extension):
    path = tmp_path / f"clip{extension}"
    write_video(path, smooth_clip(), 24000 / 1001, {"prompt": "a fox", "seed": "7"})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tags = {key.lower(): value for key, value in container.metadata.items()}
        assert stream.average_rate == pytest.approx(24000 / 1001, rel=1e-3)
        assert (container.duration / av.time_base, tags["prompt"]) == (pytest.approx(8 * 1001 / 24000, abs=0.002), "a fox")
        assert (json.loads(tags["comment"])["seed"], stream.codec_context.pix_fmt) == ("7", "yuv420p")
        for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
            assert int(getattr(stream.codec_context, name)) == 1


def test_mp4_starts_at_once(tmp_path):
    write_video(tmp_path / "clip.mp4", smooth_clip(), 8.0)
    data = (tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("extension", EVERY)
def test_pure_colours_come_back(tmp_path, extension):
    clip = colour_clip((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 30, 90), (255, 128, 0), side=64)
    write_video(tmp_path / f"clip{extension}", clip, 8.0)
    frames = read_video(tmp_path / f"clip{extension}").frames
    assert ((frames - clip) * 255).abs().mean(dim=(1, 2, 3)).max() < (0.5 if extension in (*EXACT, ".gif") else 1.5)


@pytest.mark.parametrize("extension", EVERY)
@pytest.mark.parametrize(("height", "width"), [(33, 47), (32, 33), (16, 16)])
def test_odd_sizes_keep_every_pixel(tmp_path, extension, height, width):
    clip = smooth_clip(3, height, width)
    write_video(tmp_path / f"clip{extension}", clip, 8.0)
    frames = read_video(tmp_path / f"clip{extension}").frames
    assert frames.shape == clip.shape
    assert difference(frames, clip) < 4


def test_gif_with_few_colours_is_exact_and_with_many_is_close(tmp_path):
    few = torch.randint(0, 2, (4, 32, 32, 3), generator=torch.Generator().manual_seed(0)).float()
    write_video(tmp_path / "few.gif", few, 10.0)
    assert torch.equal(read_video(tmp_path / "few.gif").frames, few)
    many = smooth_clip(4, 96, 96)
    write_video(tmp_path / "many.gif", many, 10.0)
    assert difference(read_video(tmp_path / "many.gif").frames, many) < 3


def test_folder_holds_plain_numbered_png(tmp_path):
    clip = smooth_clip(3)
    write_video(f"{tmp_path}/a.b/", clip, 8.0, {"seed": "7"})
    assert sorted(os.listdir(tmp_path / "a.b")) == ["00000.png", "00001.png", "00002.png", "metadata.json"]
    with Image.open(tmp_path / "a.b" / "00001.png") as picture:
        assert picture.text["seed"] == "7"
    assert torch.equal(read_image(tmp_path / "a.b" / "00001.png"), read_video(tmp_path / "a.b").frames[1])


def test_wrong_clips_are_refused_before_anything_is_written(tmp_path):
    path, clip = tmp_path / "clip.mp4", smooth_clip(2)
    refused(write_video, path, clip[0], 8.0, words=("(48, 64, 3)",))
    refused(write_video, path, clip[:0], 8.0)
    refused(write_video, path, (clip * 255).byte(), 8.0, words=("uint8",))
    refused(write_video, path, clip * float("nan"), 8.0, words=("NaN",))
    for fps in (0.0, -1.0, float("nan"), float("inf"), 1e9):
        refused(write_video, path, clip, fps, words=("fps",))
    refused(write_video, path, clip, 8.0, {"seed": 7}, words=("metadata", "seed"))
    assert os.listdir(tmp_path) == []


# --- videos of others ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".mp4", ".mov", ".mkv", ".webm"])
def test_film_of_another_program(tmp_path, extension):
    codec = "libvpx-vp9" if extension == ".webm" else "libx264"
    encode(tmp_path / f"film{extension}", greys(0, 80, 160, 240), [0, 1, 2, 3], codec=codec)
    video = read_video(tmp_path / f"film{extension}")
    assert (levels_of(video.frames), video.fps) == ([0, 80, 160, 240], 8.0)


def test_untagged_colours_follow_the_size_as_in_players(tmp_path):
    for height, matrix in ((720, "bt709"), (64, "bt601")):
        red = av.VideoFrame.from_ndarray(np.full((height, 64, 3), (255, 0, 0), dtype=np.uint8), format="rgb24")
        planes = filter_chain(red, ("scale", f"out_color_matrix={matrix}:out_range=tv"), ("format", "pix_fmts=yuv420p"))(red)
        with av.open(str(tmp_path / "red.mkv"), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"crf": "5"})
            stream.width, stream.height, stream.pix_fmt = 64, height, "yuv420p"
            planes.pts, planes.time_base, planes.colorspace = 0, Fraction(1, 8), 2
            container.mux(stream.encode(planes))
            container.mux(stream.encode())
        assert (read_video(tmp_path / "red.mkv").frames[0] * 255 - torch.tensor([255, 0, 0])).abs().max() <= 3


@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
def test_variable_rate_keeps_the_time(tmp_path, extension):
    encode(tmp_path / f"film{extension}", greys(0, 80, 160, 240), [0, 100, 500, 600], Fraction(1, 1000), rate=10)
    video = read_video(tmp_path / f"film{extension}")
    assert (levels_of(video.frames), video.fps) == ([0, 80, 80, 80, 80, 160, 240], pytest.approx(10, rel=0.01))


def test_stray_time_does_not_multiply_the_frames(tmp_path):
    times = [40 * index for index in range(30)]
    times[15] = times[14] + 1
    encode(tmp_path / "film.mkv", greys(*range(0, 240, 8)), times, Fraction(1, 1000), rate=25)
    video = read_video(tmp_path / "film.mkv")
    assert 29 <= len(video.frames) <= 31
    assert video.fps == pytest.approx(25, rel=0.05)


def test_recording_that_begins_between_key_frames(tmp_path):
    """What cannot be decoded is not there, and what follows is not shown too early."""
    options = {"g": "8", "keyint_min": "8", "sc_threshold": "0", "bf": "3"}
    encode(tmp_path / "whole.ts", greys(*range(0, 200, 2)), [*range(100)], Fraction(1, 25), rate=25, options=options)
    with av.open(str(tmp_path / "whole.ts")) as whole:
        second = [packet.pos for packet in whole.demux(video=0) if packet.is_keyframe][1]
    (tmp_path / "cut.ts").write_bytes((tmp_path / "whole.ts").read_bytes()[second // 2 // 188 * 188 :])
    whole, cut = read_video(tmp_path / "whole.ts"), read_video(tmp_path / "cut.ts")
    assert torch.equal(cut.frames, whole.frames[8:])
    assert (len(cut.frames), whole.fps, cut.fps) == (92, 25, 25)
    assert torch.equal(read_video(tmp_path / "cut.ts", max_frames=3).frames, whole.frames[8:11])


def test_picture_lost_on_the_way_does_not_shift_the_others(tmp_path):
    encode(tmp_path / "whole.mkv", greys(*range(0, 240, 10)), [*range(24)], codec="mpeg2video", options={"g": "1"})
    with av.open(str(tmp_path / "whole.mkv")) as whole, av.open(str(tmp_path / "lossy.mkv"), "w") as lossy:
        stream = lossy.add_stream_from_template(whole.streams.video[0])
        for index, packet in enumerate(packet for packet in whole.demux(video=0) if packet.size):
            kept = av.Packet(b"\0\0\1\xb2lost") if index in (10, 23) else packet  # user data without a picture
            kept.pts, kept.dts, kept.duration, kept.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
            kept.stream = stream
            lossy.mux(kept)
    video, expected = read_video(tmp_path / "lossy.mkv"), [*range(24)]
    expected[10], expected[23] = 9, 22
    assert (levels_of(video.frames), video.fps) == ([10 * level for level in expected], 8)


@pytest.mark.parametrize(("matrix", "turns"), [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotation_of_a_phone_is_applied(tmp_path, matrix, turns):
    """matrix: of the mp4 track header; (0, 1, -1, 0) is what a phone held upright writes: show it turned clockwise."""
    picture = np.zeros((32, 64, 3), dtype=np.uint8)
    picture[:16, :16] = 255
    encode(tmp_path / "film.mp4", [picture, picture], [0, 1])
    data = bytearray((tmp_path / "film.mp4").read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "film.mp4").write_bytes(bytes(data))
    frame = read_video(tmp_path / "film.mp4").frames[0]
    expected = torch.from_numpy(np.rot90(picture, turns).copy()).float() / 255
    assert frame.shape == expected.shape
    assert (frame - expected).abs().mean() < 0.02


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    encode(tmp_path / "film.mp4", greys(0, 100, 200), [0, 1, 2], aspect=Fraction(3, 2))
    assert read_video(tmp_path / "film.mp4").frames.shape == (3, 32, 48, 3)


def test_foreign_gif_is_expanded_by_its_delays(tmp_path):
    first, *others = [Image.fromarray(picture[..., 0]) for picture in greys(0, 80, 160)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=[50, 200, 50])
    video = read_video(tmp_path / "a.gif")
    assert (levels_of(video.frames), video.fps) == ([0, 80, 80, 80, 80, 160], pytest.approx(20))


def test_clip_too_long_for_memory_is_refused(tmp_path):
    first, second = Image.new("L", (512, 512), 0), Image.new("L", (512, 512), 255)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=[20, 600_000])
    refused(read_video, tmp_path / "a.gif", kind=Unreadable, words=("30,001 frames", "EMU_VIDEO_MAX_BYTES"))
    first.save(tmp_path / "b.gif", save_all=True, append_images=[second], duration=[20, 30_000])
    refused(read_video, tmp_path / "b.gif", kind=Unreadable, words=("1365 frames", "4 GiB", "found 1501"))
    assert levels_of(read_video(tmp_path / "a.gif", max_frames=3).frames) == [0, 260, 260]


@pytest.mark.parametrize("frames", [str(10**12), "Infinity", "[" * 100_000])
def test_comment_that_claims_too_much_is_not_believed(tmp_path, frames):
    exif = Image.Exif()
    exif[0x010E] = f'{{"_clip": {{"frames": {frames}, "fps": 8.0}}}}'
    Image.new("RGB", (16, 16)).save(tmp_path / "a.webp", exif=exif)
    assert len(read_video(tmp_path / "a.webp").frames) == 1


def test_slow_slides(tmp_path):
    encode(tmp_path / "slides.mp4", greys(0, 80, 160), [0, 10, 13], Fraction(1, 2), rate=2)
    video = read_video(tmp_path / "slides.mp4")
    assert (levels_of(video.frames), video.fps) == ([0] * 10 + [80] * 3 + [160], 2.0)


def test_still_gif_and_webp_are_one_frame(tmp_path):
    for name in ("a.gif", "a.webp"):
        Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / name)
        video = read_video(tmp_path / name)
        assert (video.frames.shape, video.fps) == ((1, 16, 16, 3), 10.0)


def test_cut_copy_does_not_keep_the_old_length(tmp_path):
    """A program that copies the comment while it shortens the clip must not make us repeat frames."""
    write_video(tmp_path / "whole.mp4", smooth_clip(16), 8.0, {"seed": "7"})
    with av.open(str(tmp_path / "whole.mp4")) as whole:
        comment = whole.metadata["comment"]
    encode(tmp_path / "cut.mp4", greys(0, 80, 160, 240), [0, 1, 2, 3], metadata={"comment": comment})
    video = read_video(tmp_path / "cut.mp4")
    assert (levels_of(video.frames), video.fps, video.metadata) == ([0, 80, 160, 240], 8.0, {"seed": "7"})


def test_folder_of_frames_in_natural_order(tmp_path):
    for index, level in ((10, 240), (9, 160), (1, 0)):
        Image.fromarray(greys(level)[0]).save(tmp_path / f"frame{index}.jpg")
    (tmp_path / "notes.txt").write_text("not a frame")
    refused(read_video, tmp_path, kind=Unreadable, words=("metadata.json", "fps"))
    video = read_video(tmp_path, fps=5)
    assert (levels_of(video.frames), video.fps) == ([0, 160, 240], 5)
    Image.new("RGB", (64, 32)).save(tmp_path / "frame2.png")
    refused(read_video, tmp_path, fps=5, kind=Unreadable, words=("frame2.png", "64 x 32"))


def test_folder_without_frames_or_with_broken_settings(tmp_path):
    refused(read_video, tmp_path, fps=8, kind=Unreadable, words=("none",))
    Image.new("RGB", (16, 16)).save(tmp_path / "1.png")
    for text in ("{", "[" * 100_000, "[]", '{"fps": "fast"}', '{"fps": 0}', '{"fps": 8, "metadata": 3}'):
        (tmp_path / "metadata.json").write_text(text)
        refused(read_video, tmp_path, kind=Unreadable, words=("metadata.json",))


@pytest.mark.parametrize("extension", EVERY)
def test_only_the_first_frames_and_another_rate(tmp_path, extension):
    clip = colour_clip(*[(level, level, level) for level in (0, 80, 80, 80, 160, 240, 240, 240)])
    write_video(tmp_path / f"clip{extension}", clip, 8.0)
    video = read_video(tmp_path / f"clip{extension}", fps=24, max_frames=5)
    assert (levels_of(video.frames), video.fps) == ([0, 80, 80, 80, 160], 24)


def test_sound_and_cover_pictures_are_no_video(tmp_path):
    (tmp_path / "song.mp4").write_bytes(sound_only())
    refused(read_video, tmp_path / "song.mp4", kind=Unreadable, words=("audio",))
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    (tmp_path / "letter.txt").write_text("not a film\n" * 50)
    refused(read_video, tmp_path / "picture.png", kind=Unreadable, words=("picture",))
    refused(read_video, tmp_path / "letter.txt", kind=Unreadable)


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.gif").write_bytes(b"GIF89a nothing more")
    (tmp_path / "text.webp").write_bytes(b"RIFF\0\0\0\0WEBP nothing more")
    with pytest.raises(Unreadable):
        is_animation(tmp_path)
    for name in ("text.mp4", "empty.mp4", "text.gif", "text.webp", "missing.mp4"):
        refused(read_video, tmp_path / name, kind=Unreadable, words=(name,))
    for fps in (0, -1, float("nan")):
        refused(read_video, tmp_path, fps=fps, words=("fps",))
    refused(read_video, tmp_path, max_frames=0, words=("max_frames",))


@pytest.mark.parametrize("extension", VIDEO_EXTENSIONS)
@pytest.mark.parametrize("part", [0.03, 0.5, 0.9])
def test_cut_file_is_refused(tmp_path, extension, part):
    noise = torch.rand(16, 48, 48, 3, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / f"whole{extension}", noise, 8.0)
    data = (tmp_path / f"whole{extension}").read_bytes()
    (tmp_path / f"cut{extension}").write_bytes(data[: int(len(data) * part)])
    refused(read_video, tmp_path / f"cut{extension}", kind=Unreadable, words=(f"cut{extension}",))


def test_tiny_video_is_refused_with_its_size(tmp_path):
    encode(tmp_path / "tiny.mkv", greys(0, 99, side=4), [0, 1])
    refused(read_video, tmp_path / "tiny.mkv", kind=Unreadable, words=("4 x 4", "8 px"))


# --- whole or not at all ---------------------------------------------------------------------------------------------


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond the limit: writing fails in the middle, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("extension", EVERY)
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, extension, monkeypatch):
    for encoding in ENCODINGS.values():
        monkeypatch.setitem(encoding.options, "threads", "1")  # with several, equal frames need not make files of equal length
    noise = torch.rand(8, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    path = tmp_path / f"clip{extension}"
    write_video(path, noise, 8.0)
    whole = path.stat().st_size if path.is_file() else (path / "00000.png").stat().st_size
    before = read_video(path).frames
    for limit in (0, whole // 2, whole - 1):
        with full_disk(limit):
            refused(write_video, path, noise, 8.0, words=(str(path), "free some space"))
        assert os.listdir(tmp_path) == [path.name]
        assert torch.equal(read_video(path).frames, before)


@pytest.mark.parametrize("extension", EVERY)
def test_interruption_leaves_the_old_file_and_nothing_else(tmp_path, extension, monkeypatch):
    path = tmp_path / f"clip{extension}"
    write_video(path, smooth_clip(3), 8.0)
    before = read_video(path).frames
    places = {".gif": (writing, "_few_colours", 1), ".webp": (writing, "exif_comment", 1), "": (writing, "save_picture", 3)}
    place, name, wanted = places.get(extension, (np, "ascontiguousarray", 5))
    original, calls = getattr(place, name), 0

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls == wanted:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(place, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_video(path, smooth_clip(8), 8.0)
    assert (calls, os.listdir(tmp_path)) == (wanted, [path.name])
    assert torch.equal(read_video(path).frames, before)


def test_old_folder_is_put_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    write_video(tmp_path / "frames", smooth_clip(3), 8.0)
    rename, calls = os.rename, []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    refused(write_video, tmp_path / "frames", smooth_clip(8), 8.0, words=("Permission denied",))
    assert (len(calls), os.listdir(tmp_path)) == (3, ["frames"])
    assert torch.equal(read_video(tmp_path / "frames").frames, smooth_clip(3))


@pytest.mark.parametrize("extension", EVERY)
def test_new_takes_the_place_of_old(tmp_path, extension):
    path = tmp_path / f"clip{extension}"
    write_video(path, smooth_clip(9), 8.0)
    write_video(path, colour_clip((80, 80, 80), (240, 240, 240)), 4.0)
    assert (levels_of(read_video(path).frames), os.listdir(tmp_path)) == ([80, 240], [path.name])


def test_link_stays_a_link_and_rights_are_ordinary(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real" / "clip.mp4")
    write_video(tmp_path / "link.mp4", smooth_clip(2), 8.0)
    assert (tmp_path / "link.mp4").is_symlink()
    assert os.listdir(tmp_path / "real") == ["clip.mp4"]
    (tmp_path / "plain").touch()
    assert (tmp_path / "real" / "clip.mp4").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="only there are processes asked whether they run")
def test_what_a_killed_process_left_goes_when_the_same_is_written_again(tmp_path: Path) -> None:
    """Half a file, half a folder, and a folder that was moved aside when the kill came before the new one took its place; what
    a running process writes, and what is another file's, stays."""
    killed, name = subprocess.Popen(["true"]), "clip.mp4"
    killed.wait()  # nobody has its number now
    gone, running = (tmp_path / f"{files._mark(tmp_path / name)}{number}-0" for number in (killed.pid, os.getpid()))
    other = tmp_path / f"{files._mark(tmp_path / 'other.mp4')}{killed.pid}-0.part"
    for path in (f"{gone}.part", f"{running}.part", other):
        Path(path).write_text("half")
    with files.whole_file(tmp_path / name) as part:
        part.write_text("whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"{running.name}.part", other.name, name])
    for kind, content in (("part", "half"), ("old", "earlier")):
        folder = tmp_path / f"{files._mark(tmp_path / 'frames')}{killed.pid}-0.{kind}"
        folder.mkdir()
        (folder / "1.png").write_text(content)
    with pytest.raises(KeyError), files.whole_folder(tmp_path / "frames"):
        raise KeyError
    assert (tmp_path / "frames" / "1.png").read_text() == "earlier"
    assert len(list(tmp_path.glob(".*"))) == 2
