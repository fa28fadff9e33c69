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
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

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
    """One clip to be, or what could not be one (`problem`). `root` is the source as the user gave it, `source` the place to
    name in messages. The caption is here (from a list) or at `caption_at`, a .txt or .json."""

    key: str
    source: str
    root: str
    video: Place | None = None
    caption: str | None = None
    caption_at: Place | None = None
    caption_kind: str = ""
    problem: str = ""


def key_of(root: str, path: str) -> str:
    """Readable letters of a path inside its source, and 8 hexadecimal digits of a hash of the source's name and the path.

    The folder that a source lies in does not count, so that moved data keep their keys.
    """
    name = PurePosixPath(Path(root).absolute().name) / path
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", os.path.splitext(path)[0]).strip("-")
    slug = slug[-SLUG_LENGTH:].strip("-") or "clip"
    return f"{slug}-{blake2b(str(name).encode('utf-8', 'surrogateescape'), digest_size=4).hexdigest()}"


# -- listing


def check_sources(sources: Sequence[str]) -> None:
    """ValueError before any work: a source that is missing or of no known kind, a list without its columns."""
    if not sources:
        raise ValueError("SOURCE: expected at least one folder, list or tar, found none; name one.")
    for source in sources:
        path = Path(source)
        suffix = path.suffix.lower()
        if not path.exists():
            raise ValueError(f"{source}: expected a folder, a list or a tar, found nothing of that name; check the path.")
        if not path.is_dir() and suffix not in (*LISTS, ".tar"):
            raise ValueError(
                f"{source}: expected a folder of videos, a list ({', '.join(LISTS)}) or an uncompressed .tar, "
                f"found {suffix or 'no extension'}; unpack or convert it."
            )
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


def count(sources: Sequence[str]) -> int:
    """How many items there will be."""
    return sum(1 for _ in listing(sources))


def _trouble(root: str, inner: str, problem: str) -> Item:
    return Item(key_of(root, inner), _named(root, inner), root, problem=problem)


def _named(root: str, inner: str) -> str:
    name = f"{root.rstrip('/')}/{inner}" if inner else root
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _folder(root: str, folder: Path, inside: str) -> Iterator[Item]:
    try:
        entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as problem:
        yield _trouble(root, inside, f"the folder cannot be listed ({problem.strerror})")
        return
    files = {entry.name for entry in entries if entry.is_file()}
    stems = {os.path.splitext(name)[0] for name in files if os.path.splitext(name)[1].lower() in VIDEO_NAMES}
    for entry in entries:
        inner, (stem, suffix) = inside + entry.name, os.path.splitext(entry.name)
        suffix = suffix.lower()
        if entry.is_dir(follow_symlinks=False):
            yield from _folder(root, Path(entry.path), inner + "/")
        elif entry.name not in files:
            yield _trouble(root, inner, "a link to a folder, which is not followed, or to nothing")
        elif suffix in VIDEO_NAMES:
            found = next((stem + kind for kind in CAPTION_NAMES if stem + kind in files), None)
            place = Place(os.path.join(folder, found)) if found else None
            item = Item(key_of(root, inner), _named(root, inner), root, Place(entry.path), caption_at=place)
            yield replace(item, caption_kind=os.path.splitext(found or "")[1])
        elif suffix == ".tar":
            yield from _tar(root, Path(entry.path), inner)
        elif suffix not in CAPTION_NAMES:
            yield _trouble(root, inner, "not a video by its name")
        elif stem not in stems:
            yield _trouble(root, inner, "a caption without a video beside it")


def _rows(path: Path) -> Iterator[tuple[str, str | None]]:
    """(path, caption) of each row of a list."""
    if path.suffix.lower() == ".parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(path) as file:
                names = _columns(path, file.schema_arrow.names)
                for batch in file.iter_batches(4096, columns=list(names)):
                    yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        except pyarrow.ArrowException as problem:
            raise ValueError(f"{path}: expected a parquet file, found one that cannot be read ({problem}).") from problem
        return
    try:
        with open(path, encoding="utf-8-sig", newline="") as text:
            lines = (line.replace("\0", "\ufffd") for line in text)  # for one, csv before Python 3.11 refuses all of the list
            rows = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            where, words = _columns(path, list(rows.fieldnames or []))
            for row in rows:
                yield row[where], row[words]
    except (UnicodeDecodeError, csv.Error) as problem:
        raise ValueError(f"{path}: expected a list in UTF-8, found one that cannot be read ({problem}); convert it.") from problem


def _columns(path: Path, names: Sequence[str]) -> tuple[str, str]:
    where = next((name for name in PATH_COLUMNS if name in names), None)
    words = next((name for name in TEXT_COLUMNS if name in names), None)
    if where is None or words is None:
        raise ValueError(
            f"{path}: expected the columns path (or video) and caption (or text), "
            f"found {', '.join(names) or 'none'}; rename them."
        )
    return where, words


def _list(root: str, path: Path) -> Iterator[Item]:
    for number, (where, words) in enumerate(_rows(path), 1):
        if not where or not str(where).strip():
            yield _trouble(root, f"row {number}", "no path in this row of the list")
            continue
        inner = str(where).strip()
        key = key_of(root, inner)
        yield Item(key, _named(root, inner), root, Place(os.path.join(path.parent, inner)), caption=str(words or ""))


def _tar(root: str, path: Path, inside: str) -> Iterator[Item]:
    """Samples of a WebDataset tar: members in a row that share the path up to the first dot of the file's name."""
    prefix = inside + "/" if inside else ""
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            group: list[tarfile.TarInfo] = []
            for member in _members(tar):
                if not member.isfile():
                    continue
                if group and _stem(member.name) != _stem(group[0].name):
                    yield from _sample(root, path, prefix, group, size)
                    group = []
                group.append(member)
            yield from _sample(root, path, prefix, group, size)
    except (tarfile.TarError, OSError) as problem:
        yield _trouble(root, inside, f"the tar cannot be read to its end ({problem})")


def _members(tar: Any) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        yield member
        tar.members = []  # or a tar of a million members would stay in memory


def _stem(name: str) -> str:
    head, _, tail = name.rpartition("/")
    return f"{head}/{tail.partition('.')[0]}"


def _sample(root: str, path: Path, prefix: str, group: list[tarfile.TarInfo], size: int) -> Iterator[Item]:
    if not group:
        return
    captions = {os.path.splitext(m.name)[1].lower(): m for m in group}
    kind = next((kind for kind in CAPTION_NAMES if kind in captions), "")
    videos = [m for m in group if os.path.splitext(m.name)[1].lower() in VIDEO_NAMES]
    for member in videos:
        inner = prefix + member.name
        if member.offset_data + member.size > size:
            yield _trouble(root, inner, "the tar breaks off inside it")
            continue
        place = Place(str(path), captions[kind].offset_data, captions[kind].size) if kind else None
        video = Place(str(path), member.offset_data, member.size)
        yield Item(key_of(root, inner), _named(root, inner), root, video, caption_at=place, caption_kind=kind)
    if not videos:
        yield _trouble(root, prefix + group[0].name, "no video in this sample of the tar")


# -- captions


def read_caption(item: Item) -> str:
    """The item's caption, white space made single. ValueError, a short reason, where there is none."""
    if item.caption is None and item.caption_at is None:
        raise ValueError("no caption")
    text = item.caption
    if text is None:
        assert item.caption_at is not None
        with item.caption_at.open() as file:
            data = file.read(MAX_CAPTION_BYTES + 1)
        if len(data) > MAX_CAPTION_BYTES:
            raise ValueError(f"caption of more than {MAX_CAPTION_BYTES >> 20} MB")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as problem:
            raise ValueError("caption is not UTF-8 text") from problem
        text = _from_json(text) if item.caption_kind == ".json" else text
    text = " ".join(text.replace("\0", " ").split())
    if not text:
        raise ValueError("caption empty")
    return text


def _from_json(text: str) -> str:
    try:
        content = json.loads(text)
    except ValueError as problem:
        raise ValueError("caption file is not JSON") from problem
    found = next((content[name] for name in TEXT_COLUMNS if isinstance(content, dict) and name in content), None)
    if not isinstance(found, str):
        raise ValueError('no "caption" or "text" in the JSON file')
    return found
