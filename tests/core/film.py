"""Films of four coloured quadrants in any container, codec and pixel format, written with PyAV for the tests of reading."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from emu_core.media import VideoReader

QUADRANTS = ((200, 40, 40), (40, 180, 40)), ((40, 60, 200), (220, 200, 40))
"""Red and green above, blue and yellow below."""
COUNT, RATE, HEIGHT, WIDTH = 12, 12, 64, 96


def quadrants(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width, 3) uint8."""
    picture = np.empty((height, width, 3), np.uint8)
    for row, colours in enumerate(QUADRANTS):
        for column, colour in enumerate(colours):
            picture[row * height // 2 : (row + 1) * height // 2, column * width // 2 : (column + 1) * width // 2] = colour
    return picture


def middles(picture: np.ndarray) -> np.ndarray:
    """(2, 2, 3): the colour in the middle of each quadrant."""
    height, width = picture.shape[:2]
    return picture[height // 4 :: height // 2][:2, width // 4 :: width // 2][:, :2].astype(int)


@dataclass(frozen=True)
class Film:
    """What is written. matrix: FFmpeg's name of the coefficients, number their tag (ITU-T H.273); start: ticks of the base before
    the first frame; container: its options; colour: range, primaries and transfer, by their numbers."""

    form: str = "mp4"
    codec: str = "libx264"
    pixels: str = "yuv420p"
    size: tuple[int, int] = (HEIGHT, WIDTH)
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    matrix: tuple[str, int] = ("bt601", 6)
    full: bool = False
    start: int = 0
    base: Fraction = Fraction(1, RATE)
    rate: Fraction | int = RATE
    aspect: Fraction = Fraction(1)
    primaries: int = 1
    transfer: int = 1

    def write(self, pictures: Sequence[np.ndarray] | None = None, times: Sequence[int] | None = None) -> bytes:
        """The file. pictures: (H, W, 3 or 4) uint8 or (H, W, 3) uint16; times: in ticks of the base."""
        pictures = [quadrants(*self.size)] * COUNT if pictures is None else pictures
        target, (height, width) = io.BytesIO(), pictures[0].shape[:2]
        with av.open(target, "w", format=self.form, options=self.container) as container:
            stream: Any = container.add_stream(self.codec, rate=self.rate, options={"threads": "1", **self.options})
            stream.width, stream.height, stream.pix_fmt = width, height, self.pixels
            context = stream.codec_context
            if self.base != 1 / Fraction(self.rate):
                context.time_base = self.base
            context.sample_aspect_ratio = self.aspect
            if not self.pixels.startswith(("rgb", "bgr", "gbr", "argb", "rgba", "pal8")):
                context.colorspace, context.color_range = self.matrix[1], 2 if self.full else 1
            context.color_primaries, context.color_trc = self.primaries, self.transfer
            convert = self._converter(pictures[0])
            for number, picture in enumerate(pictures):
                frame = convert(picture)
                for part, value in (
                    ("color_primaries", self.primaries),
                    ("color_trc", self.transfer),
                    ("colorspace", self.matrix[1]),
                ):
                    if hasattr(frame, part) and not frame.format.is_rgb:  # of newer PyAV; some encoders go by the frame
                        setattr(frame, part, value)
                frame.pts, frame.time_base = self.start + (number if times is None else times[number]), self.base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return target.getvalue()

    def _converter(self, picture: np.ndarray) -> Any:
        form = {(np.uint8, 3): "rgb24", (np.uint8, 4): "rgba", (np.uint16, 3): "rgb48le"}[picture.dtype.type, picture.shape[2]]
        graph = av.filter.Graph()
        last = graph.add_buffer(width=picture.shape[1], height=picture.shape[0], format=av.VideoFormat(form), time_base=self.base)
        flags = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
        scale = f"out_color_matrix={self.matrix[0]}:out_range={'pc' if self.full else 'tv'}:{flags}"
        for name, options in (("scale", scale), ("format", f"pix_fmts={self.pixels}"), ("buffersink", None)):
            step = graph.add(name, options)
            last.link_to(step)
            last = step
        graph.configure()

        def convert(picture: np.ndarray) -> Any:
            graph.push(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=form))
            return graph.pull()

        return convert


def shown_by(data: bytes, matrix: Sequence[float]) -> bytes:
    """An mp4 or mov whose track is to be shown through a matrix (a, b, c, d): x' = a x + c y, y' = b x + d y."""
    place = data.index(b"tkhd") + 44
    a, b, c, d = (round(value * 65536) for value in matrix)
    return data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :]


def moving(count: int = COUNT, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Quadrants, and a white square that moves right along the upper edge: which frame is seen can be told."""
    pictures = [quadrants(height, width) for _ in range(count)]
    side = min(height, width) // 8 * 2
    for number, picture in enumerate(pictures):
        left = number * (width - side) // max(1, count - 1)
        picture[: side // 2, left : left + side] = 255
    return pictures


def seen_through(picture: np.ndarray, matrix: Sequence[float]) -> np.ndarray:
    """What a display matrix (a, b, c, d) makes of a picture, pixel by pixel by its definition; of right angles only."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    a, b, c, d = (int(np.sign(value)) for value in matrix)
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    made = np.empty((down.max() + 1, across.max() + 1, *picture.shape[2:]), picture.dtype)
    made[down, across] = picture
    return made


ORIENTATIONS = {
    "upright": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside-down": (-1, 0, 0, -1),
    "flipped": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "clockwise": (0, 1, -1, 0),
    "transversed": (0, -1, -1, 0),
    "counter-clockwise": (0, -1, 1, 0),
}


CASES = Path(__file__).parent / "fixtures" / "cases"
SHARP = {"preset": "veryfast", "crf": "4"}
VP9 = {"crf": "4", "b:v": "0", "deadline": "realtime", "cpu-used": "8"}
VP8 = {"b:v": "4M", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}


def video_of(data: bytes, folder: Path, name: str = "film.bin") -> VideoReader:
    (folder / name).write_bytes(data)
    return VideoReader(folder / name)


def colours(frame: np.ndarray) -> list[list[list[int]]]:
    """Of the quadrants, to the nearest of those that were painted."""
    known = np.array(QUADRANTS).reshape(-1, 3)
    near = np.abs(middles(frame)[:, :, None] - known).max(axis=-1)
    assert near.min(axis=-1).max() <= 8, middles(frame)
    return known[near.argmin(axis=-1)].tolist()


def copied_stream(container: Any, stream: Any) -> Any:
    """A stream for a container that takes another's packets as they are."""
    made = container.add_stream_from_template(stream)
    made.codec_context.flags = stream.codec_context.flags  # as PyAV since 15 does by itself
    return made


def with_sound(data: bytes, form: str, codec: str, seconds: float, start: float = 0.0) -> bytes:
    """The same pictures with a tone of 440 Hz beside them."""
    target = io.BytesIO()
    with av.open(io.BytesIO(data)) as pictures, av.open(target, "w", format=form) as container:
        stream = copied_stream(container, pictures.streams.video[0])
        sound = container.add_stream(codec, rate=48000)
        sound.codec_context.layout = "mono"
        packets = [packet for packet in pictures.demux(video=0) if packet.size]
        size, number = sound.codec_context.frame_size or 1024, 0
        sound.codec_context.open()
        size = sound.codec_context.frame_size or 1024
        for number in range(math.ceil(seconds * 48000 / size)):
            wave = 0.5 * np.sin(2 * np.pi * 440 * (np.arange(size) + number * size) / 48000)
            frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            if sound.codec_context.format.name != "fltp":
                frame = av.AudioFrame.from_ndarray((wave[None] * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, number * size + round(start * 48000), Fraction(1, 48000)
            packets += sound.encode(frame)
        packets += sound.encode(None)
        for packet in sorted(packets, key=lambda one: (one.pts if one.dts is None else one.dts) * one.time_base):
            if packet.stream is not sound:
                packet.stream = stream
            container.mux(packet)
    return target.getvalue()


def numbers(frames: list[np.ndarray]) -> list[int]:
    """Which of `moving` each frame is."""
    known = np.stack(moving()).astype(int)
    return [int(np.abs(known - frame).mean(axis=(1, 2, 3)).argmin()) for frame in frames]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
