"""Pictures and videos to files: how each extension is encoded, checks before long work starts, and the one writer of videos."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from PIL import Image, PngImagePlugin

from ..errors import UserError
from .beside import beside
from .decoding import TO_BT709, USUAL_RATE, WHOLE, Decoder, Pixels, Source, check_whole, filter_chain, opened
from .files import PathLike, Unreadable, real_target, whole_file, whole_folder
from .images import check_frames, to_bytes
from .reading import NUMBERED, moving
from .scale import Scale
from .sound import Sound, sound_of
from .tags import COMMENT_KEY, EXIF_DESCRIPTION, FOLDER_SETTINGS, Timing, check_metadata, pack, plain_tags, video_tags

if TYPE_CHECKING:
    from torch import Tensor

MIN_FREE_MB = 16
MAX_JPEG_EXIF_BYTES = 65_000
MIN_FPS, MAX_FPS = 0.1, 1000.0
GIF_COLOURS = 255
GIF_FASTEST = 50
PALETTE_SAMPLES = 50_000
log = logging.getLogger(__name__)


# -- encodings


@dataclass(frozen=True)
class Encoding:
    """FFmpeg's encoder and its options; the pixel format in the file; the container, its options; threads (0: as it likes)."""

    encoder: str
    options: Mapping[str, str]
    pixels: str = "yuv420p"
    container: str = "mp4"
    container_options: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0


_X264 = {"crf": "12", "preset": "medium"}
_VP9 = {"crf": "16", "b:v": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"}
_TAGGED = {"movflags": "+faststart+use_metadata_tags"}  # the index in front: playing starts before the file is complete

_X264_THREADS = 4
"""What x264 makes of pictures of some hundred pixels depends on the number of its threads, which is not to be the machine's."""

SMALL = 128
"""Of pictures with a shorter side x264's macroblock tree reads memory that nobody wrote: the same ones made several files."""

PLAYABLE = Encoding("libx264", _X264, container_options=_TAGGED, threads=_X264_THREADS)
"""What every player shows; an odd last row or column is cut off."""
LOSSLESS = Encoding("libx264rgb", {"qp": "0", "preset": "veryfast"}, "rgb24", container_options=_TAGGED)
BARE = Encoding("libx264", _X264)
"""As PLAYABLE, but to be copied once more: no index in front, no tags."""
SAME_BYTES = Encoding("libx264", {"crf": "16", "preset": "medium", "g": "48"}, "yuv420p", "mp4", {"fflags": "+bitexact"}, 1)
"""The same pictures make the same file, whatever the machine's number of cores; a key frame every 48."""
ENCODINGS = {
    ".mp4": PLAYABLE,
    ".mkv": Encoding("libx264", _X264, container="matroska", threads=_X264_THREADS),
    ".webm": Encoding("libvpx-vp9", _VP9, container="webm"),
}
VIDEO_EXTENSIONS = (*ENCODINGS, ".gif", ".webp")
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")


# -- checks


def check_output(path: PathLike, kind: Literal["video", "image"] = "video") -> None:
    """Refuse, before any long work, an output path that could not be written afterwards.

    path: a file with a known extension, or for a video also a folder (no extension, or a "/" at the end).
    Raises ValueError: unknown extension, missing encoder, missing or unwritable parent folder, a folder where a file is
    expected or the reverse, a folder that holds other things than our frames, less than 16 MB free.
    """
    text = os.fspath(path)
    wrong = _wrong_name(text, kind) or _wrong_place(real_target(path), kind == "video" and _means_folder(path))
    if wrong:
        # A space at an end is seen in quotes only, and a line break would make two lines of the sentence.
        named = text if text == text.strip() and text.isprintable() else repr(text)
        raise UserError(f"{named if text.strip() else 'path'}: {wrong}.") from _full_disk(path)


def _full_disk(path: PathLike) -> OSError | None:
    """What makes an error one that every further file would meet, see `errors.of_one_item`."""
    with suppress(OSError, ValueError):  # the path may be none
        if shutil.disk_usage(real_target(path).parent).free < MIN_FREE_MB << 20:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _means_folder(path: PathLike) -> bool:
    """Whether a video path stands for a folder of PNG frames: it ends in a separator or has no extension."""
    return os.fspath(path).endswith(("/", os.sep)) or not Path(path).suffix


def _wrong_name(text: str, kind: str) -> str | None:
    thing, known = ("an image", IMAGE_EXTENSIONS) if kind == "image" else ("a video", VIDEO_EXTENSIONS)
    if not text.strip():
        return f"expected the name of {thing} file, found an empty one; give a name"
    if "\0" in text:
        return f"expected the name of {thing} file, found a NUL character in it; remove it"
    extension = "" if _means_folder(text) else Path(text).suffix.lower()
    if kind == "video" and not extension:
        name = Path(text).name
        return f"expected a name before the extension, found none; use for example clip{name}" if name in known else None
    if extension not in known:
        folder = ", or without one (or with / at the end) a folder of PNG frames" if kind == "video" else ""
        found = extension or "no extension"
        return f"expected {thing} file with one of the extensions {', '.join(known)}{folder}, found {found}; change the extension"
    if extension in ENCODINGS and (encoder := ENCODINGS[extension].encoder) not in av.codecs_available:
        return f"expected a PyAV that can encode with {encoder}, found one built without; install PyPI's av or write .gif"
    return None


def _wrong_place(target: Path, folder: bool) -> str | None:
    parent = target.parent
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            target.lstat()  # the name may be too long
        if not parent.is_dir():
            found = "a file in its place" if parent.exists() else "that it does not exist"
            return f"expected the folder {parent} to write into, found {found}; create it or choose another path"
        # A real file is the only sure test: permission bits say nothing about read-only mounts or a superuser.
        with TemporaryFile(dir=parent):
            free = shutil.disk_usage(parent).free
    except OSError as problem:
        return f"expected to be able to write there, found {problem.strerror}; choose another path or change its permissions"
    if free < MIN_FREE_MB << 20:
        found = f"{free / 2**20:.1f} MB; free some or choose another folder"
        return f"expected at least {MIN_FREE_MB} MB free in {parent}, found {found}"
    if not folder:
        named = "expected the name of a file, found a folder of that name; add a file name or choose another"
        return named if target.is_dir() else None
    if target.exists() and not target.is_dir():
        return "expected a folder for the frames (no extension), found a file; choose another name or add an extension"
    for name in sorted(os.listdir(target)) if target.is_dir() else ():
        if name != FOLDER_SETTINGS and not NUMBERED.fullmatch(name):
            return f"expected a new folder, an empty one or one of earlier frames, found {name} in it; choose another"
    return None


# -- pictures


def write_image(path: PathLike, image: Tensor, metadata: Mapping[str, str] | None = None) -> None:
    """Write (H, W, 3) float 0..1 as PNG, JPEG (quality 95, full colour) or WebP (lossless), whole or not at all.

    metadata: goes into the file, as one JSON comment (PNG: text "comment", others: EXIF ImageDescription), in a PNG also
    entry by entry. Raises ValueError as check_output does, and for a wrong shape or a failure on the way.
    """
    check_output(path, "image")
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape or not image.is_floating_point():
        found = f"{tuple(image.shape)} of {image.dtype}"
        raise UserError(f"image: expected a float tensor (height, width, 3), found {found}; convert it.")
    with whole_file(path) as part:
        save_picture(part, Path(path).suffix.lower(), to_bytes(image), check_metadata(metadata))


def save_picture(file: Path, extension: str, pixels: np.ndarray, metadata: Mapping[str, str]) -> None:
    """Save (H, W, 3) uint8 under a name that need not end in the extension."""
    picture = Image.fromarray(pixels)
    if extension == ".png":
        text = PngImagePlugin.PngInfo()
        for key, value in {**({COMMENT_KEY: pack(metadata)} if metadata else {}), **plain_tags(metadata)}.items():
            text.add_text(key, value)
        picture.save(file, "PNG", pnginfo=text)
        return
    exif = exif_comment(pack(metadata))
    if extension == ".webp":
        picture.save(file, "WEBP", lossless=True, exif=exif)
    elif len(exif) <= MAX_JPEG_EXIF_BYTES:
        picture.save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    else:
        found = f"{len(exif)}; write PNG or WebP instead"
        raise UserError(f"metadata: expected at most {MAX_JPEG_EXIF_BYTES} bytes for a JPEG file, found {found}.")


def exif_comment(comment: str) -> bytes:
    """EXIF data with the comment as ImageDescription."""
    exif = Image.Exif()
    exif[EXIF_DESCRIPTION] = comment
    return exif.tobytes()


# -- videos


def write_frames(
    target: PathLike | BinaryIO,
    pictures: Iterable[tuple[int, Pixels | av.VideoFrame]],
    rate: float | Fraction | None,
    encoding: Encoding = PLAYABLE,
    tags: Mapping[str, str] | None = None,
    base: Fraction | None = None,
    sound: Sound | None = None,
) -> int:
    """Write a video of one stream, picture by picture, all as large as the first; returns how many there were.

    target: a path or an open file. pictures: each with its time in ticks of `base` seconds (None: 1 / rate), as (H, W, 3) uint8
    RGB, of which H.264 in 4:2:0 loses an odd last row or column, or as a frame in the encoding's pixel format. rate: frames a
    second (None: 25). YUV is written as BT.709 in limited range. sound: put beside the pictures.
    """
    # 1001 is the denominator of the television rates (24000/1001, 30000/1001).
    exact = rate if isinstance(rate, Fraction) else Fraction(rate or USUAL_RATE).limit_denominator(1001)
    file: Any = os.fspath(target) if isinstance(target, str | os.PathLike) else target
    stream: Any = None
    through, count = None, 0
    with av.open(file, "w", format=encoding.container, options=dict(encoding.container_options)) as container:
        container.metadata.update(tags or {})
        for moment, frame in pictures:
            if isinstance(frame, np.ndarray):
                frame = _as_frame(frame, even=encoding.encoder == "libx264" and encoding.pixels == "yuv420p")
            if stream is None:
                stream = _stream(container, encoding, frame, exact, base)
                if sound:
                    sound.join(container, encoding.container)
                if frame.format.name != encoding.pixels:
                    through = filter_chain(frame, ("scale", TO_BT709), ("format", f"pix_fmts={encoding.pixels}"))
            frame = frame if through is None else through(frame)
            frame.pts, frame.time_base = moment, base or 1 / exact
            container.mux(_lasting(stream.encode(frame), exact))
            count += 1
            if sound:
                sound.write(moment * frame.time_base)
        if stream is not None:
            container.mux(_lasting(stream.encode(None), exact))
        if sound:
            sound.write(None)
    return count


def _stream(container: Any, encoding: Encoding, frame: av.VideoFrame, rate: Fraction, base: Fraction | None) -> Any:
    """The container's stream of pictures, all as large as `frame`."""
    small = encoding.encoder == "libx264" and min(frame.width, frame.height) < SMALL
    options = {**encoding.options, **({"x264-params": "mbtree=0"} if small else {})}
    stream = container.add_stream(encoding.encoder, rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, encoding.pixels
    context = stream.codec_context
    if encoding.pixels != "rgb24":  # BT.709, limited range
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    if base is not None:
        context.time_base = base
    if encoding.threads:
        context.thread_count = encoding.threads
    return stream


def _as_frame(pixels: Pixels, even: bool) -> av.VideoFrame:
    """even: without an odd last row or column."""
    if even:
        pixels = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")


def _lasting(packets: list[Any], rate: Fraction) -> list[Any]:
    """Packets that all have a duration: an mp4 whose last has none ends before it, and PyAV before 16 gives it none."""
    for packet in packets:
        packet.duration = packet.duration or round(1 / rate / packet.time_base)
    return packets


def write_video(
    path: PathLike,
    frames: Tensor,
    fps: float,
    metadata: Mapping[str, str] | None = None,
    sound: PathLike | None = None,
    late: float = 0.0,
    scale: Scale = Scale(),
) -> None:
    """Write frames (f, H, W, 3), float 0..1, at fps frames per second; the path is whole or untouched afterwards.

    By extension: .mp4 and .mkv (H.264, crf 12), .webm (VP9), .gif, .webp (lossless); without an extension, or with a "/"
    at the end, a folder of PNG frames with metadata.json. Videos are BT.709, 4:2:0; H.264 with an odd side is written as
    4:4:4 instead, which keeps every pixel, though some players (Safari, phones) show only 4:2:0.
    metadata: strings that read_video gives back; in mp4, mkv and webm also as tags of their own.
    sound: a video whose sound is put beside the pictures, where its first picture comes `late` seconds after the beginning;
    a warning says where it cannot be kept. scale: how much larger the frames are in the file, which says so (metadata `scale`),
    and from which VideoReader and read_video give them as they were.
    Raises ValueError as check_output does, and for a wrong shape or rate, or a failure on the way (disk full).
    """
    check_frames(frames)
    write_parts(path, [frames], len(frames), fps, metadata, sound, late, scale)


def write_parts(
    path: PathLike,
    parts: Iterable[Tensor],
    count: int,
    fps: float,
    metadata: Mapping[str, str] | None = None,
    sound: PathLike | None = None,
    late: float = 0.0,
    scale: Scale = Scale(),
) -> None:
    """As `write_video`, of frames that come in parts (k, H, W, 3), `count` of them in all. A part is let go of once it is
    written; only GIF and WebP need all frames at once. Parts are encoded in a thread of its own while this one makes the next."""
    check_output(path)
    if not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(f"fps: expected {MIN_FPS} to {MAX_FPS:.0f} frames per second, found {fps}; give another rate.")
    tags, timing = check_metadata(metadata), Timing(count, float(fps))
    whole, write = (whole_folder, _write_folder) if _means_folder(path) else (whole_file, _write_file)
    with whole(path) as part, sound_of(sound, late) as heard:
        beside(lambda coming: write(part, path, _each(coming, scale, tags), timing, tags, heard), parts)


def _write_folder(
    folder: Path, path: PathLike, pixels: Iterator[Pixels], timing: Timing, tags: Mapping[str, str], heard: Sound | None
) -> None:
    """A folder of pictures, which is going to be `path`."""
    _say_unheard(path, heard)
    for index, frame in enumerate(pixels):
        save_picture(folder / f"{index:05d}.png", ".png", frame, tags)
    settings = {"fps": timing.fps, "frames": timing.frames, "metadata": tags}
    (folder / FOLDER_SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_file(
    file: Path, path: PathLike, pixels: Iterator[Pixels], timing: Timing, tags: Mapping[str, str], heard: Sound | None
) -> None:
    """A file that is going to be `path`, whose extension says of which kind it is."""
    extension = Path(path).suffix.lower()
    encoding = ENCODINGS.get(extension)
    if encoding is None:
        _say_unheard(path, heard)
        _write_animation(file, np.stack([*pixels]), timing, tags, extension == ".gif")
        return
    first = next(pixels)
    if encoding.encoder == "libx264" and (first.shape[0] % 2 or first.shape[1] % 2):
        log.warning("%d x %d has an odd side: written as H.264 4:4:4, which some players cannot show.", *first.shape[1::-1])
        encoding = replace(encoding, pixels="yuv444p")
    frames = enumerate(itertools.chain([first], pixels))
    write_frames(file, frames, timing.fps, encoding, video_tags(tags, timing), sound=heard)


def _each(parts: Iterable[Tensor], scale: Scale, tags: dict[str, str]) -> Iterator[Pixels]:
    """The frames (H, W, 3) uint8 of parts (k, H, W, 3) float 0..1, enlarged, which is noted in `tags` before the first comes.
    ValueError for what is none."""
    for frames in parts:
        check_frames(frames)
        if not frames.is_floating_point() or not bool(frames.isfinite().all()):
            found = "NaN or infinity" if frames.is_floating_point() else frames.dtype
            raise UserError(
                f"frames: expected finite floats in 0..1, found {found}; convert them or check the model's precision."
            )
        scale.check(*frames.shape[1:3])
        own = scale.of(*frames.shape[1:3])
        tags.update(own.told(*frames.shape[1:3]))
        yield from (own.enlarged(pixels) for pixels in to_bytes(frames))


def _say_unheard(path: PathLike, heard: Sound | None) -> None:
    if heard:
        log.warning("%s: GIF, WebP and folders of frames have no sound; that of %s is left out.", path, heard.path)


def _write_animation(file: Path, pixels: Pixels, timing: Timing, tags: Mapping[str, str], gif: bool) -> None:
    """GIF or WebP. The frames' durations are rounded so that the errors do not add up."""
    options: dict[str, Any]
    if gif:
        if timing.fps > GIF_FASTEST:
            log.warning("GIF shows at most %d frames per second; the clip of %g will look slower.", GIF_FASTEST, timing.fps)
        first, *others = _few_colours(pixels)
        unit, shortest, options = 10, 2, {"format": "GIF", "comment": pack(tags, timing).encode()}
    else:
        first, *others = (Image.fromarray(frame) for frame in pixels)
        unit, shortest, options = 1, 1, {"format": "WEBP", "lossless": True, "exif": exif_comment(pack(tags, timing))}
    edges = [round(index / timing.fps / (unit / 1000)) for index in range(timing.frames + 1)]  # in units of milliseconds
    delays = [unit * max(shortest, after - before) for before, after in itertools.pairwise(edges)]
    first.save(file, save_all=True, append_images=others, duration=delays, loop=0, **options)


def _few_colours(pixels: Pixels) -> list[Image.Image]:
    """Palette pictures with one palette for all frames: with one each, still parts would flicker."""
    colours = Image.fromarray(pixels.reshape(-1, *pixels.shape[2:])).getcolors(GIF_COLOURS)
    if colours is not None:
        palette, code = np.array(sorted(colour for _, colour in colours), dtype=np.uint8), np.array([1 << 16, 1 << 8, 1])
        pictures = [Image.fromarray(np.searchsorted(palette @ code, frame @ code).astype(np.uint8)) for frame in pixels]
        for picture in pictures:
            picture.putpalette(palette.tobytes())
        return pictures
    # Drawn at random: with a fixed step, whole columns would never be seen.
    flat = pixels.reshape(-1, 3)
    drawn = np.random.default_rng(0).integers(0, len(flat), min(len(flat), PALETTE_SAMPLES))
    shared = Image.fromarray(flat[None, drawn]).quantize(GIF_COLOURS, Image.Quantize.MAXCOVERAGE)
    return [Image.fromarray(frame).quantize(palette=shared, dither=Image.Dither.FLOYDSTEINBERG) for frame in pixels]


# -- videos of videos, one picture in memory


def copy_pictures(video: Decoder, target: PathLike) -> None:
    """Write a video's coded pictures into an mp4 as they are, without sound, tags or the encoder's notes, the first
    at 0; they must be H.264."""
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as output:
        copied = output.add_stream_from_template(video.stream)
        copied.metadata.clear()
        # As PyAV since 15 does by itself; in 14, x264 put its own headers in the place of the film's, and all came out green.
        copied.codec_context.flags = video.stream.codec_context.flags
        # SEI units: x264 writes its name and settings there
        strip = BitStreamFilterContext("filter_units=remove_types=6", video.stream, copied)
        packets = (packet for packet in video.container.demux(video.stream) if packet.dts is not None)
        for packet in itertools.chain(packets, [None]):
            for cleaned in strip.filter(packet):
                cleaned.stream, cleaned.time_base = copied, video.base
                cleaned.pts, cleaned.dts = (None if at is None else at - video.start for at in (cleaned.pts, cleaned.dts))
                output.mux(_lasting([cleaned], video.rate or USUAL_RATE))


def encode_playable(source: Path, target: Path) -> None:
    """Encode a video once more, as H.264 that every player shows, its frames at their times from 0 on. Raises Unreadable."""
    base = Fraction(1, 90_000)
    with opened(source) as video:
        frames = ((moment, video.converted(frame, playable=True)) for moment, frame in video.timed(base))
        count, claimed = write_frames(target, frames, video.rate, BARE, base=base), video.length
    if not count:
        raise Unreadable(f"{source}: expected a video with at least one frame, found none in it; check the file.")
    if claimed:
        with opened(target) as made:
            check_whole(source, made.length or claimed, claimed, WHOLE * claimed)


def transcode(source: Source, target: BinaryIO, name: str = "") -> None:
    """Write any video as H.264 mp4 (crf 16, BT.709, 4:2:0), its frames at their times from 0 on, without sound.

    Frames come upright, with square pixels; odd sides lose a line, as 4:2:0 needs. The same input gives the same bytes.
    A folder of frames, GIF and WebP are taken too. Raises Unreadable as `opened` does.
    """
    with moving(source, name, "NONE") as video:
        frames = ((moment, video.pixels(frame)) for moment, frame in video.timed())
        write_frames(target, frames, video.rate, SAME_BYTES, base=video.base)
