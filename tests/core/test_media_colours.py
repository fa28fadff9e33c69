"""How frames are shown: turned and mirrored, transparent on white, high dynamic range and wide gamut in BT.709."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emu_core.data.clips import read_at_times
from emu_core.data.motion_score import look, motion_summary
from emu_core.media import Unreadable, VideoReader, read_image
from emu_core.media.colours import to_bt709
from emu_core.media.decoding import opened
from emu_core.media.reading import moving as opened_any
from emu_core.study.videos import prepare_video

from .film import (
    CASES,
    COUNT,
    HEIGHT,
    ORIENTATIONS,
    QUADRANTS,
    SHARP,
    VP8,
    VP9,
    WIDTH,
    Film,
    colours,
    middles,
    moving,
    quadrants,
    seen_through,
    shown_by,
    video_of,
    write,
)

# -- orientations


def test_the_file_that_stands_on_its_head(tmp_path: Path) -> None:
    expected = [list(map(list, row)) for row in QUADRANTS[::-1]]
    assert colours(next(iter(VideoReader(CASES / "display_vflip.mp4")))) == expected
    made = prepare_video(CASES / "display_vflip.mp4", tmp_path / "made.mp4")
    assert made.reencoded
    assert colours(next(iter(VideoReader(tmp_path / "made.mp4")))) == expected
    assert colours(read_at_times(CASES / "display_vflip.mp4", [0.5], "")[0]) == expected


@given(
    st.sampled_from([*ORIENTATIONS.values()]),
    st.integers(4, 24),
    st.integers(4, 24),
    st.floats(0.5, 2),
    st.floats(-0.3, 0.3),
    st.integers(0, 1 << 30),
)
@settings(deadline=None, max_examples=60)
def test_every_orientation_is_what_its_matrix_says(
    matrix: tuple[int, ...], height: int, width: int, scale: float, slant: float, seed: int
) -> None:
    """Of noise, without loss. A matrix may also enlarge, or be a little off the right angle."""
    picture = np.random.default_rng(seed).integers(0, 256, (2 * height, 2 * width, 3), np.uint8)
    film = Film("mp4", "libx264rgb", "rgb24", options={"qp": "0", "preset": "ultrafast"})
    data = shown_by(film.write([picture] * 2), [scale * (value or slant) for value in matrix])
    expected = seen_through(picture, matrix)
    with opened(data) as video:
        frames = [(video.shape(frame), video.pixels(frame)) for frame in video.frames()]
    for shape, pixels in frames:
        assert shape == expected.shape[:2]
        assert np.array_equal(pixels, expected)


EXIF = ["upright", "mirrored", "upside-down", "flipped", "transposed", "clockwise", "transversed", "counter-clockwise"]
"""In the order of EXIF's numbers, from 1."""


@given(st.integers(1, 8), st.integers(8, 30), st.integers(8, 30), st.sampled_from(["PNG", "WEBP", "TIFF"]))
@settings(deadline=None, max_examples=60)
def test_pictures_have_the_same_orientations(number: int, height: int, width: int, form: str) -> None:
    picture = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else ".") / f"oriented-{number}.{form.lower()}"
    exif = Image.Exif()
    exif[0x0112] = number
    try:
        Image.fromarray(picture).save(path, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
        expected = seen_through(picture, ORIENTATIONS[EXIF[number - 1]])
        assert np.array_equal(np.rint(read_image(path).numpy() * 255), expected)
        if form == "WEBP":
            video = VideoReader(path)
            assert (video.facts.height, video.facts.width) == expected.shape[:2]
            assert np.array_equal(next(iter(video)), expected)
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["mirrored", "transposed", "clockwise"])
def test_study_and_motion_see_it_upright(name: str, tmp_path: Path) -> None:
    data = shown_by(Film(options=SHARP).write(moving()), ORIENTATIONS[name])
    (tmp_path / "film.mp4").write_bytes(data)
    made = prepare_video(tmp_path / "film.mp4", tmp_path / "made.mp4")
    expected = seen_through(quadrants(), ORIENTATIONS[name])
    seen = look(data, height=64, first=True)
    assert (made.height, made.width) == (seen.height, seen.width) == expected.shape[:2]
    assert seen.first is not None
    for frame in (seen.first, next(iter(VideoReader(tmp_path / "made.mp4")))):
        assert colours(frame) == colours(expected)
    with opened(tmp_path / "made.mp4") as copied:
        assert not next(copied.frames()).side_data.get("DISPLAYMATRIX")


@pytest.mark.skipif(not hasattr(av.video.stream.VideoStream, "set_display_rotation"), reason="newer PyAV writes it")
def test_a_turned_film_that_can_be_seen_through(tmp_path: Path) -> None:
    """The orientation is the container's, the transparency another decoder's."""
    picture = cutout()
    picture[:24] = (40, 60, 200, 255)  # a blue bar above
    source = io.BytesIO(Film("webm", "libvpx-vp9", "yuva420p", options=VP9).write([picture] * 3))
    with av.open(source) as plain, av.open(str(tmp_path / "turned.webm"), "w") as turned:
        stream = turned.add_stream_from_template(plain.streams.video[0])
        stream.set_display_rotation(90)
        stream.metadata.update(plain.streams.video[0].metadata)
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = stream
                turned.mux(packet)
    frames = list(VideoReader(tmp_path / "turned.webm"))
    for frame in frames:
        assert frame.shape == (WIDTH, HEIGHT, 3)
        assert np.abs(frame - np.rot90(whitened(picture))).mean() < 2
    assert len(frames) == 3


# -- transparency


def cutout(hidden: int = 0) -> np.ndarray:
    """(H, W, 4): a red disc with a soft rim, on nothing, whose hidden colour is this grey."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(y - HEIGHT / 2 + 0.5, x - WIDTH / 2 + 0.5)
    alpha = np.clip((26 - distance) / 8, 0, 1)
    picture = np.full((HEIGHT, WIDTH, 4), hidden, np.uint8)
    picture[alpha > 0, :3] = (200, 40, 40)
    picture[..., 3] = np.rint(255 * alpha)
    return picture


def whitened(picture: np.ndarray) -> np.ndarray:
    """What it looks like on white, by the definition."""
    alpha = picture[..., 3:].astype(float) / 255
    return picture[..., :3] * alpha + 255 * (1 - alpha)


TRANSPARENT = [
    ("apng", "apng", "rgba", {}, 1),
    ("mov", "png", "rgba", {}, 1),
    ("mov", "png", "rgba64be", {}, 2),
    ("mov", "qtrle", "argb", {}, 1),
    ("mov", "prores_ks", "yuva444p10le", {}, 6),
    ("matroska", "prores_ks", "yuva444p10le", {}, 6),
    ("matroska", "ffv1", "bgra", {}, 1),
    ("matroska", "ffv1", "yuva444p10le", {}, 2),
    ("matroska", "ffv1", "yuva420p", {}, 40),
    ("avi", "utvideo", "gbrap", {}, 2),
    ("avi", "huffyuv", "bgra", {}, 1),
    ("avi", "ffvhuff", "yuva444p", {}, 3),
    ("avi", "magicyuv", "gbrap", {}, 2),
    ("mov", "jpeg2000", "rgba", {"pred": "1"}, 12),
    ("mov", "cfhd", "gbrap12le", {}, 8),
    ("avi", "rawvideo", "bgra", {}, 1),
    ("webm", "libvpx", "yuva420p", VP8, 40),
    ("webm", "libvpx-vp9", "yuva420p", VP9, 40),
    ("matroska", "libvpx-vp9", "yuva420p", VP9, 40),
]
"""The greatest error: of 4:2:0 at the rim, where the hidden black is part of the chroma."""


@pytest.mark.parametrize(("form", "codec", "pixels", "options", "most"), TRANSPARENT)
def test_what_can_be_seen_through_is_on_white(
    form: str, codec: str, pixels: str, options: dict, most: int, tmp_path: Path
) -> None:
    data = Film(form, codec, pixels, options=options).write([cutout()] * 3)
    expected = whitened(cutout())
    seen = look(data, first=True)
    copied = prepare_video(write(tmp_path / "film.mov", data), tmp_path / "made.mp4")
    assert (seen.codec, copied.reencoded) == (
        codec.removeprefix("lib").removesuffix("_ks").split("-")[-1].replace("vpx", "vp8"),
        True,
    )
    assert seen.first is not None
    for frame in (*VideoReader(tmp_path / "film.mov"), seen.first, *read_at_times(data, [0.1], "")):
        assert np.abs(frame - expected).max() <= most
        assert np.abs(frame - expected).mean() < 1.5
        assert (np.abs(frame[:8, :8] - 255.0) <= 2).all()
    assert np.abs(next(iter(VideoReader(tmp_path / "made.mp4"))) - expected).mean() < 2


@pytest.mark.parametrize("name", ["alpha_cutout_argb.mov", "alpha_cutout_vp9.webm"])
def test_the_disc_stands_on_white(name: str) -> None:
    seen = look(CASES / name, first=True)
    assert seen.first is not None
    for frame in (*VideoReader(CASES / name), seen.first):
        assert frame[:6, :6].min() >= 252
        assert frame.min(axis=(0, 1)).max() < 128  # and the disc is there


def test_transparent_gif_webp_and_palette_are_the_same(tmp_path: Path) -> None:
    hard = cutout()
    hard[..., 3] = np.where(hard[..., 3] > 127, 255, 0)
    picture = Image.fromarray(hard)
    picture.save(
        tmp_path / "a.gif", save_all=True, append_images=[picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)], duration=100
    )
    picture.save(tmp_path / "a.webp", save_all=True, append_images=[picture], duration=100, lossless=True)
    picture.save(tmp_path / "a.png")
    still = np.rint(read_image(tmp_path / "a.png").numpy() * 255)
    for name in ("a.gif", "a.webp"):
        assert np.abs(next(iter(VideoReader(tmp_path / name))) - still).max() <= 1
        with opened_any(tmp_path / name) as video:
            assert np.abs(video.pixels(next(video.timed())[1]) - still).max() <= 1
    # a GIF's codec in QuickTime: a palette with one entry that can be seen through, or pictures of it
    with av.open(str(tmp_path / "a.gif")) as gif, av.open(str(tmp_path / "a.mov"), "w") as mov:
        stream = mov.add_stream("png", rate=12)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgba"
        for frame in gif.decode(video=0):
            mov.mux(stream.encode(frame.reformat(format="rgba")))
        mov.mux(stream.encode(None))
    assert np.abs(next(iter(VideoReader(tmp_path / "a.mov"))) - still).max() <= 1


def test_motion_is_that_of_what_is_seen_on_white() -> None:
    """A disc that slides; what is hidden around it flickers and counts for nothing."""
    pictures = []
    for number in range(12):
        picture = np.roll(cutout(hidden=0), 2 * number - 12, axis=1)
        hidden = picture[..., 3] == 0
        picture[hidden, :3] = np.random.default_rng(number).integers(0, 256, (hidden.sum(), 3))
        pictures.append(picture)
    shown = [np.rint(whitened(picture)).astype(np.uint8) for picture in pictures]
    through = motion_summary(look(Film("mov", "png", "rgba").write(pictures)).scores)
    solid = motion_summary(look(Film("mov", "png", "rgb24").write(shown)).scores)
    assert through == pytest.approx(solid)


# -- high dynamic range and wide gamut

CODES = [[0.58] * 3, [0.75] * 3, [1, 1, 1], [0.5, 0.3, 0.2], [0.6, 0.2, 0.1], [0.2, 0.7, 0.3], [0.3, 0.35, 0.8], [0.4, 0.4, 0.1]]
BY_FFMPEG = {
    (16, 9): [[213] * 3, [246] * 3, [255] * 3, [201, 0, 6], [232, 0, 0], [0, 242, 0], [0, 25, 250], [122, 119, 0]],
    (18, 9): [[168] * 3, [217] * 3, [255] * 3, [157, 80, 57], [188, 0, 7], [0, 206, 61], [17, 85, 219], [117, 114, 0]],
    (14, 9): [[148] * 3, [191] * 3, [255] * 3, [150, 66, 44], [187, 0, 0], [0, 188, 49], [21, 89, 213], [105, 102, 0]],
    (13, 12): [[148] * 3, [191] * 3, [255] * 3, [136, 73, 45], [166, 40, 7], [0, 182, 60], [73, 90, 211], [102, 102, 0]],
    (1, 11): [[148] * 3, [191] * 3, [255] * 3, [133, 73, 45], [162, 37, 0], [0, 182, 57], [73, 89, 211], [102, 102, 0]],
}
"""Of CODES, by transfer and primaries: PQ, HLG, BT.2020, Display P3, P3 of cinemas. FFmpeg 5.1, in linear light by
zscale=t=linear:npl=203:agamma=0, zscale=p=bt709, for the first two tonemap=mobius:peak=10000/203 (1000/203):desat=0, and zscale
back to t=bt709 (the others: to their own transfer)."""


@pytest.mark.parametrize("kind", BY_FFMPEG)
def test_colours_are_those_of_ffmpeg(kind: tuple[int, int]) -> None:
    convert = to_bt709(*kind)
    assert convert is not None
    found = convert(np.rint(np.array([CODES]) * 65535).astype(np.uint16))[0].astype(int)
    assert np.abs(found - BY_FFMPEG[kind]).max() <= 1


def test_ordinary_colours_are_left_alone() -> None:
    for transfer, primaries in ((1, 1), (2, 2), (6, 6), (13, 1), (1, 5), (14, 1), (0, 0)):
        assert to_bt709(transfer, primaries) is None


def test_white_and_black_are_where_the_standards_put_them() -> None:
    """BT.2100: PQ's code of 203 cd/m2 is 0.5807, HLG's 0.75, and both are the same grey; 10,000 cd/m2 are white."""
    pq, hlg = to_bt709(16, 9), to_bt709(18, 9)
    assert pq is not None
    assert hlg is not None
    codes = np.rint(np.array([[[0.5807] * 3, [1] * 3, [0] * 3]]) * 65535).astype(np.uint16)
    white, most, least = pq(codes)[0, :, 0]
    # the curve at 1: from its formula
    peak, knee = 10_000 / 203, 0.3
    a, b = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak), (knee**2 - 2 * knee * peak + peak) / (peak - 1)
    bent = (b * b + 2 * b * knee + knee * knee) / (b - a) * (1 + a) / (1 + b)
    assert (int(white), most, least) == (pytest.approx(255 * bent ** (1 / 2.4), abs=1), 255, 0)
    assert int(hlg(np.full((1, 1, 3), round(0.75 * 65535), np.uint16))[0, 0, 0]) == pytest.approx(int(white), abs=5)


def test_the_pq_film(tmp_path: Path) -> None:
    made = prepare_video(CASES / "hdr_pq.mp4", tmp_path / "made.mp4")
    seen = look(CASES / "hdr_pq.mp4", first=True)
    assert (made.frames, made.reencoded, seen.codec) == (COUNT, True, "hevc")
    assert seen.first is not None
    for frame in (next(iter(VideoReader(CASES / "hdr_pq.mp4"))), next(iter(VideoReader(tmp_path / "made.mp4"))), seen.first):
        assert np.abs(middles(frame)[0, 0] - (150, 31, 31)).max() <= 4


@pytest.mark.parametrize("kind", BY_FFMPEG)
@pytest.mark.parametrize(
    ("form", "codec", "pixels"),
    [("matroska", "ffv1", "yuv444p16le"), ("mov", "prores_ks", "yuv444p10le"), ("mp4", "libx264", "yuv444p10le")],
)
def test_films_of_these_colours(form: str, codec: str, pixels: str, kind: tuple[int, int], tmp_path: Path) -> None:
    transfer, primaries = kind
    options = {"qp": "1", "preset": "ultrafast"} if codec == "libx264" else {}
    patches = [3, 6, 7, 0]  # without clipped negatives' great slopes
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint16)
    for number, patch in enumerate(patches):
        rows, columns = slice(number // 2 * 32, number // 2 * 32 + 32), slice(number % 2 * 48, number % 2 * 48 + 48)
        picture[rows, columns] = np.rint(np.array(CODES[patch]) * 65535)
    matrix = ("bt2020", 9) if primaries == 9 else ("bt709", 1)
    film = Film(form, codec, pixels, options=options, matrix=matrix, primaries=primaries, transfer=transfer)
    for frame in video_of(film.write([picture] * 2), tmp_path):
        found = middles(frame).reshape(-1, 3)
        assert np.abs(found - np.array(BY_FFMPEG[kind])[patches]).max() <= 12
        assert np.abs(found - np.array(BY_FFMPEG[kind])[patches]).mean() <= 2.5


def test_transparent_and_wide_at_once(tmp_path: Path) -> None:
    picture = cutout()
    film = Film("mov", "prores_ks", "yuva444p10le", primaries=12, matrix=("bt709", 1))
    frame = next(iter(video_of(film.write([picture] * 2), tmp_path)))
    convert = to_bt709(1, 12)
    assert convert is not None
    red = convert(np.full((1, 1, 3), (200, 40, 40), np.uint16) * np.uint16(257))[0, 0]
    assert np.abs(frame[HEIGHT // 2, WIDTH // 2].astype(int) - red).max() <= 5
    assert frame[:6, :6].min() >= 252


@pytest.mark.parametrize("number", [8, 14])
def test_colours_that_ffmpeg_cannot_decode_are_refused(number: int, tmp_path: Path) -> None:
    film = Film("matroska", "ffv1", "yuv444p", matrix=("bt709", number))
    with pytest.raises(Unreadable, match="expected colours in"):
        list(video_of(film.write(), tmp_path))
