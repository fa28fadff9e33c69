"""Files that are damaged at random, but the same at each run: what reads them gives a result or a sentence, in time and memory.

A process of its own, so that a limit of memory holds: python -m tests.core.fuzzing SEED COUNT [KIND ...].
It prints what went otherwise.
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from emu_core.base.checks import read_json
from emu_core.checkpoint import check_motion_lora, read_config
from emu_core.data.motion_score import look
from emu_core.data.sources import check_sources, listing, read_captions
from emu_core.errors import UserError
from emu_core.evaluation.names import entries
from emu_core.evaluation.prompts import read_prompts
from emu_core.media import VideoReader, read_image
from emu_core.media.tags import unpack
from emu_core.study.exchange import read_results
from emu_core.training.folder import read_rows
from emu_core.training.recipes import read_recipe
from emu_core.weights import open_weights

from . import hostile
from .film import Film

MORE_MEMORY = 3 << 30
SECONDS = 30.0
"""For one file; most take some milliseconds."""
Case = tuple[str, bytes]
Reader = Callable[[Path], Any]
ODD = ("null", "true", "[]", "{}", '""', '"x"', "-1", "0", "1e999", "NaN", "-Infinity", "9" * 5000, "1" + "0" * 90, "0.5")
ODD += ('"\\ud800"', '"\\u0000"', "[" * 300 + "]" * 300, "[" * 90 + "]" * 90, '{"a":' * 100_000, '"' + "y" * 300_000 + '"')


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed, taken out, put in twice, or cut off."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at, size = chance.randrange(max(1, len(out))), chance.choice((1, 1, 2, 4, 8, 64))
        match chance.randrange(6):
            case 0:
                out[at : at + size] = chance.randbytes(size)
            case 1:
                out[at : at + size] = chance.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * size
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = out[at : at + size]
            case 4 if len(out) > 4:
                out[at : at + 4] = chance.choice((2**31 - 1, 2**32 - 1, 65_500, 0)).to_bytes(4, chance.choice(("big", "little")))
            case _ if chance.random() < 0.3:
                del out[at:]
    return bytes(out)


def odd_json(data: Any, chance: random.Random) -> bytes:
    """A value of JSON with one or two parts exchanged for odd ones, taken out or given twice."""
    text = json.dumps(data)
    marks = [f'"@{number}@"' for number in range(chance.choice((1, 1, 2)))]
    for mark in marks:
        content = json.loads(text)
        whole: dict[str, Any] = {"": content}
        places: list[tuple[Any, Any]] = [(whole, "")]
        for holder, key in places:  # grows on the way
            inner = holder[key]
            places += [
                (inner, name)
                for name in (inner if isinstance(inner, dict) else range(len(inner) if isinstance(inner, list) else 0))
            ]
        holder, key = chance.choice(places)
        if isinstance(holder, dict) and key and chance.random() < 0.3:
            value = holder.pop(key)
            holder |= chance.choice(({}, {key.upper(): value}, {key + " ": value}))
        holder[key] = mark.strip('"')
        text = json.dumps(whole[""])
    for mark in marks:
        text = text.replace(mark, chance.choice(ODD))
    return damaged(text.encode(), chance) if chance.random() < 0.2 else text.encode()


# -- kinds: what is damaged, and what reads it


def _picture(form: str, **options: Any) -> bytes:
    made = io.BytesIO()
    ramp = np.arange(40 * 32 * 3, dtype=np.uint8).reshape(40, 32, 3)
    first, second = Image.fromarray(ramp), Image.fromarray(ramp[::-1].copy())
    options |= {"save_all": True, "append_images": [second], "duration": 80} if options.pop("moving", False) else {}
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a", 6
    first.save(made, form, **options, **({} if form in ("GIF", "BMP") else {"exif": exif}))
    return made.getvalue()


def videos(chance: random.Random) -> Iterator[tuple[Case, Reader]]:
    """Films and animations of most containers."""
    kinds = {
        "mp4": Film(size=(32, 48)), "mkv": Film("matroska", size=(32, 48)), "webm": Film("webm", "libvpx-vp9", size=(32, 48)),
        "ts": Film("mpegts", size=(32, 48)), "avi": Film("avi", "mpeg4", size=(32, 48)), "flv": Film("flv", "flv", size=(32, 48)),
        "mov": Film("mov", "png", "rgba", size=(32, 48)), "y4m": Film("yuv4mpegpipe", "rawvideo", size=(32, 48)),
    }  # fmt: skip
    made = {kind: film.write() for kind, film in kinds.items()}
    made |= {
        "gif": _picture("GIF", moving=True),
        "webp": _picture("WEBP", moving=True),
        "apng": hostile.png(32, 32, 8, 2, frames=3),
    }

    def read(path: Path) -> None:
        with open(path, "rb") as file:
            look(file, 24.0, 64, "a file", first=True)
        reader = VideoReader(path)
        unpack(reader.facts.metadata.get("comment", ""))
        for _ in zip(reader, range(50), strict=False):
            pass

    while True:
        for kind, data in made.items():
            yield (f"a.{kind}", damaged(data, chance)), read


def pictures(chance: random.Random) -> Iterator[tuple[Case, Reader]]:
    """Stills of the usual kinds."""
    made = {
        kind: _picture(form) for kind, form in {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP"}.items()
    }
    made |= {"lzw.tif": _picture("TIFF", compression="tiff_lzw"), "zip.tif": _picture("TIFF", compression="tiff_deflate")}
    made |= {"gif": _picture("GIF"), "text.png": hostile.png(32, 32, 8, 2, hostile.chunk(b"zTXt", b"a\0\0" + hostile.zeros(999)))}
    while True:
        for kind, data in made.items():
            yield (f"a.{kind}", damaged(data, chance)), read_image


def texts(chance: random.Random) -> Iterator[tuple[Case, Reader]]:
    """JSON wherever it is read."""
    vote = {"uid": "0" * 16, "rater": "r", "shown_left": "a", "time_ms": 5}
    vote |= {key: {"choice": "a", "reasons": [], "ms": 3} for key in ("quality", "faithfulness")}
    pair = {"prompt": "0", "first": "a", "second": "b", "first_sha256": "", "second_sha256": "", "votes": [vote]}
    study = {"format": "emu-video-study", "version": 1, "uid": "0" * 16, "title": "t", "raters": 1, "systems": ["a", "b"]}
    study |= {"prompts": {"0": "x"}, "pairs": [pair]}
    recipe = {
        "name": "x",
        "steps": 3,
        "batch": 2,
        "optimisation": {"rate": 0.1},
        "every": {"save": 1},
        "given": {"text_drop": 0.1},
    }
    caption = {"caption": "a", "captions": ["a", "b"], "n": {"a": [1, 2.5, {"b": None}]}}

    def captions(path: Path) -> None:
        for item in listing([str(path.parent)]):
            read_captions(item)

    def rows(path: Path) -> None:
        path.rename(list_path := path.with_name("list.jsonl"))
        list(listing([str(list_path)]))
        for row in read_rows(list_path):
            row.get("step")

    kinds: list[tuple[str, Any, Reader]] = [
        ("p.json", {"prompts": [{"id": 1, "prompt": "a"}, "b", {"text": "c", "image": "x.png"}]}, read_prompts),
        ("p.json", {"a": "b", "c": {"prompt": "d"}}, read_prompts),
        ("p.jsonl", {"prompt": "a", "id": "x"}, read_prompts),
        ("s.json", study, read_results),
        ("r.json", recipe, read_recipe),
        ("c.json", caption, captions),
        ("l.json", {"path": "a.mp4", "caption": "x"}, rows),
        ("e.json", {"videos": [{"file": "a/b.mp4"}]}, entries),
        ("e.json", {"e/b.mp4": "x"}, entries),
        ("j.json", {"a": [1]}, read_json),
        ("t.json", {"_clip": {"frames": 3, "fps": 8.0}, "prompt": "x"}, lambda path: unpack(path.read_text("utf-8", "replace"))),
    ]
    while True:
        for name, data, read in kinds:
            if name == "c.json":
                yield (name, odd_json(data, chance)), lambda path: ((path.parent / "c.mp4").write_bytes(b"x"), captions(path))
            else:
                yield (name, odd_json(data, chance)), read


def metadata_folders(chance: random.Random) -> Iterator[tuple[Case, Reader]]:
    """Folders of frames whose metadata.json is odd."""
    frame = hostile.png(16, 16, 8, 2)

    def read(path: Path) -> None:
        (path.parent / "00000.png").write_bytes(frame)
        (path.parent / "00001.png").write_bytes(frame)
        look(str(path.parent), 24.0, 64)

    while True:
        yield ("metadata.json", odd_json({"fps": 8.0, "frames": 2, "metadata": {"prompt": "x"}}, chance)), read


def tars(chance: random.Random) -> Iterator[tuple[Case, Reader]]:
    """Tars of the three formats, with long names, links and fields that cannot be."""

    def made(form: int, fields: dict[str, str]) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name, content in (
                ("a.mp4", b"x" * 700),
                ("a.txt", b"a thing"),
                (f"{'long/' * 60}b.mp4", b"y"),
                ("b.json", b"{}"),
            ):
                member = tarfile.TarInfo(name)
                member.size, member.pax_headers = len(content), fields
                tar.addfile(member, io.BytesIO(content))
            link = tarfile.TarInfo("c.mp4")
            link.type, link.linkname = tarfile.LNKTYPE, "a.mp4"
            tar.addfile(link)
        return file.getvalue()

    def read(path: Path) -> None:
        check_sources([str(path)])
        for item in listing([str(path)]):
            if not item.problem:
                try:
                    read_captions(item)
                except UserError:
                    continue

    odd = ("-512", "x", "9" * 5000, "1e9", "", "-1,5", "0,1,2", "\ud800", "1" + "0" * 18)
    names = (
        "size",
        "mtime",
        "GNU.sparse.size",
        "GNU.sparse.map",
        "GNU.sparse.realsize",
        "GNU.sparse.numblocks",
        "path",
        "linkpath",
    )
    while True:
        fields = {name: chance.choice(odd).encode("utf-8", "replace").decode() for name in chance.sample(names, 2)}
        if chance.random() < 0.5:
            fields |= {"GNU.sparse.major": chance.choice(("1", "0")), "GNU.sparse.minor": chance.choice(("0", "1"))}
        yield ("a.tar", made(tarfile.PAX_FORMAT, fields)), read
        form = chance.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        whole = made(form, {}) if form != tarfile.USTAR_FORMAT else made(tarfile.GNU_FORMAT, {}).replace(b"long/" * 60, b"")
        yield ("a.tar", damaged(whole, chance)), read
        sized = bytearray(whole)
        sized[124:136] = chance.choice(
            (b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0", b"-0000000777\0", b"\0" * 12, b"x" * 12)
        )
        sized[148:156] = f"{sum(sized[:148]) + 256 + sum(sized[156:512]):06o}\0 ".encode()
        yield ("a.tar", bytes(sized)), read
        long_name = tarfile.TarInfo("././@LongLink")
        long_name.type, long_name.size = (
            chance.choice((tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE)),
            chance.choice((1, 0, 1 << 40)),
        )
        yield ("a.tar", long_name.tobuf(tarfile.GNU_FORMAT) * chance.choice((1, 2000)) + whole), read


def weights(chance: random.Random) -> Iterator[tuple[Case, Reader]]:
    """safetensors with headers that lie."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        save_file(
            {"up.weight": torch.zeros(2, 3), "down.weight": torch.zeros(4)},
            path,
            {"format": "emu-video-stack", "version": "1", "config": "{}"},
        )
        whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def read(path: Path) -> None:
        for reading in (lambda: open_weights(path).read(), lambda: read_config(path), lambda: check_motion_lora(path)):
            try:
                reading()
            except UserError:
                continue

    while True:
        text = odd_json(header, chance)
        size = chance.choice((len(text),) * 6 + (len(text) + 1, 2**63, 2**64 - 1, 0, 100_000_001))
        yield ("a.safetensors", size.to_bytes(8, "little") + text + body), read
        yield ("a.safetensors", damaged(whole, chance)), read


def columns(chance: random.Random) -> Iterator[tuple[Case, Reader]]:
    """Lists in parquet: other types, nested, nulls, far too large values, broken pages."""
    deep: Any = "x"
    for _ in range(60):
        deep = [deep]
    values: list[Any] = [
        ["x", "y"],
        [None, None],
        [b"\xff", b"y"],
        [1, 2],
        [1.5, float("nan")],
        [["x"], [None]],
        [{"a": 1}, {"a": None}],
    ]
    values += [[True, None], [["x"] * 5000, []], ["x" * 3_000_000, "y"], [[["x"]], [["y"]]], [deep, deep]]

    def read(path: Path) -> None:
        check_sources([str(path)])
        for item in listing([str(path)]):
            if not item.problem:
                read_captions(item)

    while True:
        table = pyarrow.table({"path": ["a.mp4", "b.mp4"], "caption": chance.choice(values), "n": [1, 2]})
        if chance.random() < 0.2:
            when = pyarrow.array([2**62, -(2**62)], pyarrow.int64()).view(pyarrow.timestamp("us"))
            table = pyarrow.table({"path": ["a.mp4", "b.mp4"], "caption": when})
        file = io.BytesIO()
        parquet.write_table(table, file, compression=chance.choice(("none", "gzip", "zstd", "snappy")), row_group_size=1)
        whole = file.getvalue()
        yield ("a.parquet", whole if chance.random() < 0.3 else damaged(whole, chance)), read
        lines = b'path,caption\na.mp4,x\n"b.mp4","y\nz"\nc.mp4;w\n'
        yield (chance.choice(("a.csv", "a.tsv")), damaged(lines, chance)), read


def bombs(chance: random.Random) -> Iterator[tuple[Case, Reader]]:
    """Files of some kilobytes that unfold to gigabytes: each is refused by the limit that it is over."""
    film = Film("matroska", size=(32, 48), base=Fraction(1, 1000))
    made: list[tuple[str, bytes, str]] = [
        ("a.gif", hostile.gif(9000, 9000, 60), "PIXELS"),
        ("b.gif", hostile.gif(8000, 8000, 60), "BYTES"),
        ("slow.gif", hostile.gif(3000, 3000, 3, 1)[:-24] + hostile.gif(3000, 3000, 1, 65_535)[19:], "BYTES"),
        ("long.gif", hostile.gif(9, 9, 200, 65_535), "SECONDS"),
        ("a.png", hostile.png(13_000, 13_000), "PIXELS"),
        ("b.png", hostile.png(9000, 9000, 8, 2), "PIXELS"),
        ("a.webp", hostile.webp(16_383, 16_383, 40), "PIXELS"),
        ("b.webp", hostile.webp(16_383, 16_383, 1), "PIXELS"),
        ("a.apng", hostile.png(13_000, 13_000, 8, 0, frames=30), "PIXELS"),
        ("b.apng", hostile.png(9000, 9000, 8, 0, frames=3), "PIXELS"),
        ("a.bmp", hostile.bmp(13_000, 13_000), "PIXELS"),
        ("a.tif", hostile.tiff(13_000, 13_000), "PIXELS"),
        ("thin.mkv", Film("matroska", "ffv1", size=(16, 60_000)).write([np.zeros((16, 60_000, 3), np.uint8)] * 2), "PIXELS"),
        ("gap.mkv", film.write([np.zeros((32, 48, 3), np.uint8)] * 3, [0, 1, 90_000_000]), "SECONDS"),
    ]
    for name, data, limit in made:
        stills = name.endswith((".png", ".bmp", ".tif")) or name == "b.webp"
        readers: list[Reader] = [read_image] if stills else [lambda path: look(path, 24.0, 256)]
        readers += (
            [] if stills or name == "thin.mkv" else [lambda path: list(VideoReader(path))]
        )  # of which it is the measurement
        for read in readers:
            yield (name, data), partial(_refused, read, limit)


def _refused(read: Reader, limit: str, path: Path) -> None:
    try:
        read(path)
    except UserError as problem:
        if f"EMU_VIDEO_MAX_{limit}" not in str(problem):
            raise AssertionError(str(problem)) from problem
    else:
        raise AssertionError("it was read")


KINDS = {kind.__name__: kind for kind in (videos, pictures, texts, metadata_folders, tars, weights, columns, bombs)}


def main(seed: int, count: int, kinds: Sequence[str]) -> int:
    """Print what went otherwise than with a result or a sentence; how many."""
    av.logging.set_level(av.logging.PANIC)
    now = (
        int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize")).split()[1])
        << 10
    )
    resource.setrlimit(resource.RLIMIT_AS, (now + MORE_MEMORY,) * 2)
    wrong: list[str] = []
    for kind in kinds or KINDS:
        wrong += _run(kind, seed, count)
    print(json.dumps(wrong))
    return len(wrong)


def _run(kind: str, seed: int, count: int) -> list[str]:
    wrong, begun, results = [], time.monotonic(), 0
    for number, ((name, data), read) in zip(
        range(max(count, 40) if kind == "bombs" else count), KINDS[kind](random.Random(seed)), strict=False
    ):
        with tempfile.TemporaryDirectory() as folder:
            path, begin = Path(folder, name), time.monotonic()
            path.write_bytes(data)
            try:
                read(path)
                results += 1
            except UserError as problem:
                if len(str(problem)) > 2000:
                    wrong.append(f"{kind} {seed} {number} {name}: a sentence of {len(str(problem))} characters")
            except BaseException as problem:
                place = traceback.extract_tb(problem.__traceback__)[-1]
                where = f"{place.filename} {place.lineno}"
                wrong.append(f"{kind} {seed} {number} {name}: {type(problem).__name__} {str(problem)[:200]} ({where})")
            if (took := time.monotonic() - begin) > SECONDS:
                wrong.append(f"{kind} {seed} {number} {name}: {took:.0f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{kind}: {count} files, {results} read, {time.monotonic() - begun:.1f} s, {peak} MB", file=sys.stderr)
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
