"""Where clips come from: folders, lists and tars, listed one item at a time and always in the same order.

Listing opens no video. What cannot be a clip is listed too, with the reason in `problem`: nothing is dropped in silence.
"""

from __future__ import annotations

import csv
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from .arrow import pa, parquet
from .files import Place

VIDEO_NAMES = (
    *(".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv"),
    *(".ts", ".m2ts", ".mts", ".3gp", ".3g2", ".gif", ".vob", ".mxf", ".y4m"),
)
CAPTION_NAMES = (".txt", ".json")
"""In the order in which they are looked for."""
PATH_COLUMNS, TEXT_COLUMNS = ("path", "video"), ("caption", "text")
LISTS = (".csv", ".tsv", ".parquet")
SLUG_LENGTH = 60
MAX_CAPTION_BYTES = 1 << 20


@dataclass(frozen=True)
class Item:
    """One clip to be, or what could not be one (`problem`). `root` is the source as the user gave it, `source` the place to name
    in messages. The caption is given (in a list), or lies in a file of text or, with `caption_is_json`, of an object."""

    key: str
    source: str
    root: str
    video: Place = Place("")
    caption: str | Place | None = None
    caption_is_json: bool = False
    problem: str = ""


def _item(root: str, inner: str, **parts: Any) -> Item:
    """The item that lies at `inner` in the source `root`."""
    name = f"{root.rstrip('/')}/{inner}" if inner else root
    return Item(key_of(root, inner), name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), root, **parts)


def key_of(root: str, path: str) -> str:
    """Readable letters of a path inside its source, and 8 hexadecimal digits of a hash of the source's name and the path.

    The folder that a source lies in does not count, so that moved data keep their keys.
    """
    name = str(PurePosixPath(Path(root).absolute().name) / path)
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", os.path.splitext(path)[0]).strip("-")[-SLUG_LENGTH:].strip("-")
    return f"{slug or 'clip'}-{blake2b(name.encode('utf-8', 'surrogateescape'), digest_size=4).hexdigest()}"


def check_sources(sources: Sequence[str]) -> None:
    """ValueError before any work: a source that is missing or of no known kind, a list without its columns."""
    if not sources:
        raise ValueError("SOURCE: expected at least one folder, list or tar, found none; name one.")
    for source in sources:
        path, suffix = Path(source), Path(source).suffix.lower()
        if not path.exists():
            raise ValueError(f"{source}: expected a folder, a list or a tar, found nothing of that name; check the path.")
        if not path.is_dir() and suffix not in (*LISTS, ".tar"):
            kinds = f"a folder of videos, a list ({', '.join(LISTS)}) or an uncompressed .tar"
            raise ValueError(f"{source}: expected {kinds}, found {suffix or 'no extension'}; unpack or convert it.")
        if suffix in LISTS and path.is_file():
            next(_rows(path), None)


def listing(sources: Sequence[str]) -> Iterator[Item]:
    """Every item of the sources, in their order; inside a folder by name. Reads names only."""
    for source in sources:
        path = Path(source)
        if path.is_dir():
            yield from _folder(source, path, "")
        elif path.suffix.lower() == ".tar":
            yield from _tar(source, path, "")
        else:
            yield from _list(source, path)


def _folder(root: str, folder: Path, inside: str) -> Iterator[Item]:
    try:
        entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as problem:
        yield _item(root, inside, problem=f"the folder cannot be listed ({problem.strerror})")
        return
    files = {entry.name for entry in entries if entry.is_file()}
    stems = {os.path.splitext(name)[0] for name in files if _extension(name) in VIDEO_NAMES}
    for entry in entries:
        inner, stem, suffix = inside + entry.name, os.path.splitext(entry.name)[0], _extension(entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from _folder(root, Path(entry.path), inner + "/")
        elif entry.name not in files:
            yield _item(root, inner, problem="a link to a folder, which is not followed, or to nothing")
        elif suffix in VIDEO_NAMES:
            captions = {kind: Place(os.path.join(folder, stem + kind)) for kind in CAPTION_NAMES if stem + kind in files}
            yield _item(root, inner, video=Place(entry.path), **_caption(captions))
        elif suffix == ".tar":
            yield from _tar(root, Path(entry.path), inner)
        elif suffix not in CAPTION_NAMES or stem not in stems:
            what = "a caption without a video beside it" if suffix in CAPTION_NAMES else "not a video by its name"
            yield _item(root, inner, problem=what)


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _caption(places: dict[str, Place]) -> dict[str, Any]:
    """The parts of an item that say where its caption is, of what lies beside it, by extension."""
    kind = next((kind for kind in CAPTION_NAMES if kind in places), "")
    return {"caption": places.get(kind), "caption_is_json": kind == ".json"}


def _list(root: str, path: Path) -> Iterator[Item]:
    for number, (where, words) in enumerate(_rows(path), 1):
        inner = str(where or "").strip()
        if inner:
            yield _item(root, inner, video=Place(os.path.join(path.parent, inner)), caption=str(words or ""))
        else:
            yield _item(root, f"row {number}", problem="no path in this row of the list")


def _rows(path: Path) -> Iterator[tuple[str | None, str | None]]:
    """(path, caption) of each row of a list."""

    def columns(names: Sequence[str]) -> list[str]:
        found = [next((name for name in known if name in names), "") for known in (PATH_COLUMNS, TEXT_COLUMNS)]
        if not all(found):
            wanted = "expected the columns path (or video) and caption (or text)"
            raise ValueError(f"{path}: {wanted}, found {', '.join(names) or 'none'}; rename them.")
        return found

    try:
        if path.suffix.lower() == ".parquet":
            with parquet.ParquetFile(path) as file:
                names = columns(file.schema_arrow.names)
                for batch in file.iter_batches(4096, columns=names):
                    yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
            return
        with open(path, encoding="utf-8-sig", newline="") as text:
            lines = (line.replace("\0", "\ufffd") for line in text)  # for one, csv before Python 3.11 refuses all of the list
            rows = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            where, words = columns(list(rows.fieldnames or []))
            for row in rows:
                yield row[where], row[words]
    except pa.ArrowException as problem:
        raise ValueError(f"{path}: expected a parquet file, found one that cannot be read ({problem}).") from problem
    except (UnicodeDecodeError, csv.Error) as problem:
        raise ValueError(f"{path}: expected a list in UTF-8, found one that cannot be read ({problem}); convert it.") from problem


def _tar(root: str, path: Path, inside: str) -> Iterator[Item]:
    """Samples of a WebDataset tar: members in a row that share the path up to the first dot of the file's name."""
    prefix, whole = inside + "/" if inside else "", path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            members = filter(tarfile.TarInfo.isfile, iter(tar.next, None))
            for _, sample in groupby(members, lambda m: (m.name.rpartition("/")[0], m.name.rpartition("/")[2].partition(".")[0])):
                parts = [(m.name, _extension(m.name), Place(str(path), m.offset_data, m.size)) for m in sample]
                tar.members = []  # type: ignore[attr-defined]  # or a tar of a million members would stay in memory
                caption = _caption({kind: place for _, kind, place in parts})
                videos = [(name, place) for name, kind, place in parts if kind in VIDEO_NAMES]
                for name, place in videos:
                    broken = place.offset + (place.size or 0) > whole
                    given = {"problem": "the tar breaks off inside it"} if broken else {"video": place, **caption}
                    yield _item(root, prefix + name, **given)
                if not videos:
                    yield _item(root, prefix + parts[0][0], problem="no video in this sample of the tar")
    except (tarfile.TarError, OSError) as problem:
        yield _item(root, inside, problem=f"the tar cannot be read to its end ({problem})")


def read_caption(item: Item) -> str:
    """The item's caption, white space made single. ValueError, a short reason, where there is none."""
    text = item.caption
    if text is None:
        raise ValueError("no caption")
    if isinstance(text, Place):
        with text.open() as file:
            data = file.read(MAX_CAPTION_BYTES + 1)
        if len(data) > MAX_CAPTION_BYTES:
            raise ValueError(f"caption of more than {MAX_CAPTION_BYTES >> 20} MB")
        try:
            text = data.decode("utf-8-sig")
            content = json.loads(text) if item.caption_is_json else {"text": text}
        except UnicodeDecodeError as problem:
            raise ValueError("caption is not UTF-8 text") from problem
        except ValueError as problem:
            raise ValueError("caption file is not JSON") from problem
        text = next((content[name] for name in TEXT_COLUMNS if isinstance(content, dict) and name in content), None)
        if not isinstance(text, str):
            raise ValueError('no "caption" or "text" in the JSON file')
    text = " ".join(text.replace("\0", " ").split())
    if not text:
        raise ValueError("caption empty")
    return text
