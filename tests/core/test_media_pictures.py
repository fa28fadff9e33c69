"""Pictures in and out, sizes, contact sheets, and what is refused as an output."""

import json
import os
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emu_core.media import check_output, contact_sheet, fit, read_image, write_image

from .test_media import METADATA, full_disk, refused, smooth_clip


def deep_png(values: np.ndarray, colour_type: int) -> bytes:
    """A 16-bit PNG of (H, W, C), which Pillow itself cannot write in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# --- pictures in -----------------------------------------------------------------------------------------------------


def test_ordinary_picture_is_exact(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image.shape, image.dtype) == ((12, 20, 3), torch.float32)
    assert torch.equal((image * 255).round().byte(), torch.from_numpy(pixels))


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("1", 1, "a.png", (255, 255, 255)),
        ("L", 100, "a.png", (100, 100, 100)),
        ("LA", (100, 0), "a.png", (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), "a.png", (200, 0, 0)),
        ("RGBA", (255, 0, 0, 128), "a.png", (255, 127, 127)),
        ("RGBA", (0, 0, 0, 0), "a.webp", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "a.jpg", (254, 0, 0)),
        ("I;16", 32768, "a.png", (128, 128, 128)),
        ("I;16", 32768, "a.tif", (128, 128, 128)),
        ("I", 32768, "a.tif", (128, 128, 128)),
        ("F", 0.5, "a.tif", (128, 128, 128)),
        ("F", 100.0, "a.tif", (100, 100, 100)),
        ("YCbCr", (255, 128, 128), "a.jpg", (255, 255, 255)),
    ],
)
def test_every_mode_simply_works(tmp_path, mode, colour, name, expected):
    Image.new(mode, (16, 12), colour).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert (image.shape, image.dtype) == ((12, 16, 3), torch.float32)
    assert (image[3, 3] * 255 - torch.tensor(expected)).abs().max() <= 1.01


def test_palette_with_and_without_a_transparent_colour(tmp_path):
    picture = Image.fromarray(np.eye(16, dtype=np.uint8))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.save(tmp_path / "solid.png")
    picture.save(tmp_path / "holes.png", transparency=0)
    solid, holes = read_image(tmp_path / "solid.png") * 255, read_image(tmp_path / "holes.png") * 255
    assert (solid[0, 1].tolist(), holes[0, 1].tolist()) == ([10, 20, 30], [255, 255, 255])
    assert solid[5, 5].tolist() == holes[5, 5].tolist() == [200, 100, 50]


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_deep_colour_is_scaled_not_clipped(tmp_path, colour_type, channels):
    ramp = np.repeat(np.linspace(0, 65535, 16).astype(np.uint16)[None, :, None], 16, axis=0).repeat(channels, axis=2)
    (tmp_path / "deep.png").write_bytes(deep_png(ramp, colour_type))
    image = read_image(tmp_path / "deep.png")
    assert (image[0, :, 0] - torch.linspace(0, 1, 16)).abs().max() < 0.005


def test_dark_deep_picture_stays_dark(tmp_path):
    (tmp_path / "dark.png").write_bytes(deep_png(np.full((16, 16, 1), 200, dtype=np.uint16), 0))
    assert read_image(tmp_path / "dark.png").max() < 0.01


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_camera_rotation_is_applied(tmp_path, orientation, corner):
    pixels = np.zeros((16, 24, 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == ((16, 24, 3) if orientation in (1, 3) else (24, 16, 3))
    corners = {place: image[place].mean() for place in [(0, 0), (0, -1), (-1, 0), (-1, -1)]}
    assert max(corners, key=lambda place: corners[place]) == corner


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    for name in ("whole.png", "whole.jpg"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut-{name}").write_bytes(data[: len(data) // 2])
    for name in ("text.png", "empty.png", "missing.png", "cut-whole.png", "cut-whole.jpg"):
        refused(read_image, tmp_path / name, words=(name,))
    refused(read_image, tmp_path, words=("folder",))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 100), (100, 7)])
def test_tiny_picture_is_refused_with_its_size(tmp_path, width, height):
    Image.new("RGB", (width, height)).save(tmp_path / "tiny.png")
    refused(read_image, tmp_path / "tiny.png", words=("tiny.png", "8 px", f"{width} x {height}"))


# --- fit -------------------------------------------------------------------------------------------------------------


def test_fit_to_the_same_size_changes_nothing():
    clip = smooth_clip()
    assert torch.equal(fit(clip, 48, 64), clip)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (8, 8), (17, 33), (200, 100), (100, 300), (1, 1)])
@pytest.mark.parametrize("source", [(48, 64), (8, 200), (333, 77)])
def test_fit_gives_the_size_and_keeps_a_flat_colour(source, height, width):
    flat = torch.tensor([0.1, 0.6, 1.0]).expand(2, *source, 3)
    out = fit(flat, height, width)
    assert out.shape == (2, height, width, 3)
    # along either side a sum of at most four times as many terms, each rounded to float32
    assert (out - flat[:, :1, :1]).abs().max() <= 4 * sum(source) * 2**-23


def test_fit_cuts_the_same_from_both_sides():
    wide = torch.zeros(1, 10, 30, 3)
    wide[:, :, 10:20] = 1
    assert torch.equal(fit(wide, 10, 10), torch.ones(1, 10, 10, 3))
    assert torch.equal(fit(wide.transpose(1, 2), 10, 10), torch.ones(1, 10, 10, 3))


def test_fit_shrinks_by_whole_factors_with_the_mean_of_each_box():
    clip = torch.rand(2, 24, 36, 3, generator=torch.Generator().manual_seed(0))
    boxes = clip.reshape(2, 8, 3, 12, 3, 3).mean(dim=(2, 4))
    assert torch.allclose(fit(clip, 8, 12), boxes, atol=1e-6)


def test_fit_stays_in_range_where_bicubic_overshoots():
    board = (torch.arange(16)[:, None] // 4 + torch.arange(16) // 4) % 2
    out = fit(board[None, :, :, None].expand(1, 16, 16, 3).float(), 37, 37)
    assert (out.min(), out.max()) == (0, 1)


def test_fit_does_not_alias():
    stripes = (torch.arange(99) % 2).float()[None, None, :, None].expand(1, 99, 99, 3)
    assert (fit(stripes, 66, 66)[:, 4:-4, 4:-4] - 0.5).abs().max() < 0.35
    assert (fit(stripes, 33, 33)[:, 4:-4, 4:-4] - 0.5).abs().max() < 0.2


def test_fit_refuses_wrong_shapes():
    refused(fit, torch.rand(16, 16, 3), 8, 8, words=("(16, 16, 3)",))
    refused(fit, torch.rand(1, 16, 16, 3), 0, 8, words=("0 x 8",))


# --- pictures out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "error"), [("a.png", 0), ("a.webp", 0), ("a.jpg", 2), ("a.JPEG", 2)])
def test_image_round_trip(tmp_path, name, error):
    image = smooth_clip(1)[0]
    write_image(tmp_path / name, image, METADATA)
    assert (read_image(tmp_path / name) - image).abs().mean() * 255 <= error
    with Image.open(tmp_path / name) as picture:
        comment = picture.text["comment"] if name == "a.png" else picture.getexif()[0x010E]
        assert json.loads(comment) == METADATA
        assert name != "a.png" or picture.text["seed"] == "7"
    assert os.listdir(tmp_path) == [name]


def test_image_is_refused_before_or_leaves_nothing(tmp_path):
    image = smooth_clip(1)[0]
    refused(write_image, tmp_path / "a.bmp", image, words=(".bmp", ".png"))
    refused(write_image, tmp_path / "a", image, words=("no extension", ".png"))
    refused(write_image, tmp_path / "a.png", image[None], words=("(1, 48, 64, 3)",))
    refused(write_image, tmp_path / "a.jpg", image, {"workflow": "x" * 70_000}, words=("65000", "PNG"))
    with full_disk(100):
        refused(write_image, tmp_path / "a.png", image, words=("a.png",))
    assert os.listdir(tmp_path) == []


# --- check_output ----------------------------------------------------------------------------------------------------


def test_good_outputs_pass_and_leave_nothing(tmp_path, monkeypatch):
    (tmp_path / "old.mp4").touch()
    (tmp_path / "empty").mkdir()
    before = sorted(os.listdir(tmp_path))
    names = ("new.mp4", "old.mp4", "NEW.MP4", "a.webm", "a.gif", "a.webp", "a.mkv", "frames", "frames.v2/", "empty", "empty/")
    for name in names:
        check_output(f"{tmp_path}/{name}")
    for name in ("a.png", "a.jpg", "a.jpeg", "a.webp"):
        check_output(tmp_path / name, "image")
    monkeypatch.chdir(tmp_path)
    check_output("here.mp4")
    assert sorted(os.listdir(tmp_path)) == before


def test_bad_outputs_are_refused(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.jpg").touch()
    before = sorted(os.listdir(tmp_path))
    wrong = {"clip.avi": (".avi", ".mp4", ".webm", ".gif", ".webp"), "clip.png": (".png", ".mp4"), ".mp4": ("name",)}
    wrong |= {"missing/clip.mp4": ("missing", "does not exist"), "file/clip.mp4": ("file",), "folder.mp4": ("folder",)}
    wrong |= {"file": ("found a file",), "file/": ("found a file",), "mine": ("holiday.jpg",), "mine/": ("holiday.jpg",)}
    wrong |= {"x" * 300 + ".mp4": ("choose another path",), "nul\0.mp4": ()}
    for name, words in wrong.items():
        refused(check_output, f"{tmp_path}/{name}", words=words)
    refused(check_output, "", words=("path: ", "empty"))
    refused(check_output, f"{tmp_path}/clip.avi ", words=(f"'{tmp_path}/clip.avi '",))
    refused(check_output, f"{tmp_path}/two\nlines.avi", words=(f"'{tmp_path}/two\\nlines.avi'",))
    refused(check_output, tmp_path / "clip.mp4", "image", words=(".png", ".jpg"))
    refused(check_output, tmp_path / "folder/", "image", words=("no extension",))
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can write")
def test_folder_without_the_right_to_write(tmp_path):
    refused(check_output, "/proc/self/clip.mp4", words=("/proc/self", "write"))
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        tmp_path.chmod(0o500)
        refused(check_output, tmp_path / "clip.mp4", words=("write", "permission"))


def test_almost_full_disk(tmp_path):
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs the superuser")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], check=False, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        refused(check_output, tmp_path / "clip.mp4", words=("16 MB", "1.0 MB", str(tmp_path)))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# --- contact sheet ---------------------------------------------------------------------------------------------------


def test_sheet_enlarges_by_whole_factors_and_keeps_the_order():
    frames = torch.rand(5, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    sheet = contact_sheet(frames, columns=3)
    assert (sheet.shape, sheet.dtype) == ((2 * 132 + 4, 3 * 132 + 4, 3), torch.float32)
    for index, frame in enumerate(frames):
        top, left = 4 + index // 3 * 132, 4 + index % 3 * 132
        shown = sheet[top : top + 128, left : left + 128]
        assert (shown - frame.repeat_interleave(2, 0).repeat_interleave(2, 1)).abs().max() <= 0.5 / 255 + 1e-6


def test_sheet_scale_columns_and_large_frames():
    assert contact_sheet(torch.rand(3, 200, 130, 3)).shape == (208, 3 * 134 + 4, 3)
    assert contact_sheet(torch.rand(10, 16, 16, 3), scale=1).shape == (2 * 20 + 4, 8 * 20 + 4, 3)
    assert contact_sheet(torch.rand(2, 50, 80, 3), columns=9).shape == (150 + 8, 2 * 244 + 4, 3)


def test_labels_are_drawn_below_their_frame_and_stay_there():
    frames = torch.zeros(2, 64, 64, 3)
    plain = contact_sheet(frames, labels=["", ""])
    labelled = contact_sheet(frames, labels=["a label far too long for its frame\nand with a second line", ""])
    where = ((plain - labelled).abs().sum(dim=-1) > 0).nonzero()
    assert len(where) > 50
    assert where[:, 0].min() >= 4 + 128
    assert where[:, 1].min() >= 4
    assert where[:, 1].max() < 4 + 128
    assert where[:, 0].max() < plain.shape[0]


def test_sheet_refuses_what_does_not_fit():
    frames = torch.zeros(2, 64, 64, 3)
    refused(contact_sheet, frames[0], words=("(64, 64, 3)",))
    refused(contact_sheet, frames, labels=["one"], words=("2", "1"))
    refused(contact_sheet, frames, columns=0)
    refused(contact_sheet, frames, scale=0)
