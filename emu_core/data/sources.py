"""Where clips come from: folders, lists and tars, listed one item at a time and always in the same order.

Listing opens no video. What cannot be a clip is listed too, with the reason in `problem`: nothing is dropped in silence.
"""

from __future__ import annotations

import os
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import UserError
from ..limits import NotJson, json_of
from ..media.reading import is_frame_folder
from .columns import parquet_rows
from .files import Place, members_of
from .rows import Object, Row, decoded, not_text, read_json_lines, read_table
from .table import hashed

VIDEO_NAMES = (
    *(".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv"),
    *(".ts", ".m2ts", ".mts", ".3gp", ".3g2", ".gif", ".webp", ".apng", ".vob", ".mxf", ".y4m"),
)
CAPTION_NAMES = (".txt", ".json")
"""In the order in which they are looked for."""
PATH_COLUMNS, TEXT_COLUMNS = ("path", "video"), ("caption", "captions", "text")
LISTS = (".csv", ".tsv", ".jsonl", ".parquet")
SLUG_LENGTH = 60
MAX_CAPTION_BYTES = 1 << 20
MOST_MEMBERS = 1000
"""Of a sample in a tar."""


@dataclass(frozen=True)
class Item:
    """One clip to be, or what could not be one (`problem`). `root` is the source as the user gave it, `source` the place to name
    in messages. The captions are given (in a list), or lie in a file of text or, with `caption_is_json`, of an object.
    row: where in a list it stands, for messages."""

    key: str
    source: str
    root: str
    video: Place = Place("")
    caption: tuple[str, ...] | Place | None = None
    caption_is_json: bool = False
    problem: str = ""
    row: str = ""


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
        raise UserError("SOURCE: expected at least one folder, list or tar, found none; name one.")
    for source in sources:
        path, suffix = Path(source), Path(source).suffix.lower()
        if not path.exists():
            raise UserError(f"{source}: expected a folder, a list or a tar, found nothing of that name; check the path.")
        if not path.is_dir() and suffix not in (*LISTS, ".tar"):
            kinds = f"a folder of videos, a list ({', '.join(LISTS)}) or an uncompressed .tar"
            raise UserError(f"{source}: expected {kinds}, found {suffix or 'no extension'}; unpack or convert it.")
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
    framed = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and is_frame_folder(entry.path)}
    # The name of a folder of frames has no extension, even where it has a dot.
    stems = {_stem(name) for name in files if _extension(name) in VIDEO_NAMES} | {_stem(f"{name}.") for name in framed}
    captions = _captions_by_stem(files)
    for entry in entries:
        inner, suffix = inside + entry.name, _extension(entry.name)
        if entry.is_dir(follow_symlinks=False) and entry.name not in framed:
            yield from _folder(root, Path(entry.path), inner + "/")
        elif entry.name not in files and entry.name not in framed:
            yield _item(root, inner, problem="a link to a folder, which is not followed, or to nothing")
        elif suffix in VIDEO_NAMES or entry.name in framed:
            name = entry.name + "." * (entry.name in framed)
            beside = captions.get(os.path.splitext(name)[0]) or captions.get(f"\0{_stem(name)}", [])
            mine = _caption([(name, Place(os.path.join(folder, name))) for name in beside])
            yield _item(root, inner, video=Place(entry.path), **mine)
        elif suffix == ".tar":
            yield from _tar(root, Path(entry.path), inner)
        elif suffix not in CAPTION_NAMES or _stem(entry.name) not in stems:
            what = "a caption without a video beside it" if suffix in CAPTION_NAMES else "not a video by its name"
            yield _item(root, inner, problem=what)


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _stem(path: str) -> str:
    """A file's name up to its last dot, the letters in one form (NFC), whichever the disk or a tar has."""
    return unicodedata.normalize("NFC", os.path.splitext(PurePosixPath(path).name)[0])


def _captions_by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """Caption files by their stems as they are, and, behind a NUL, in one form."""
    found: dict[str, list[str]] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in CAPTION_NAMES:
            for form in (stem, f"\0{_stem(name)}"):
                found.setdefault(form, []).append(name)
    return found


def _caption(places: Sequence[tuple[str, Place]]) -> dict[str, Any]:
    """The parts of an item that say where its caption is, of the names and places of those that are its."""
    for kind in CAPTION_NAMES:
        mine = [(name, place) for name, place in places if _extension(name) == kind]
        if len(mine) > 1:
            names = " and ".join(PurePosixPath(name).name for name, _ in mine)
            return {"problem": f"two captions of one kind ({names}); keep one"}
        if mine:
            return {"caption": mine[0][1], "caption_is_json": kind == ".json"}
    return {}


# -- lists


def _list(root: str, path: Path) -> Iterator[Item]:
    """As `_listed`, and the list itself where it cannot be read to its end. ValueError for one without its columns."""
    next(_rows(path), None)  # a list whose heading is wrong is none
    try:
        yield from _listed(root, path)
    except (ValueError, OSError) as problem:
        yield _item(root, "", problem=f"the list cannot be read to its end ({problem})")


def _listed(root: str, path: Path) -> Iterator[Item]:
    """The videos of a list, each where it first stands, with all captions that it has there, and the rows that cannot be used."""
    several, told, folder = _repeated(path), set(), str(path.parent)
    for row, inner, captions, same in _clips(path):
        if row.problem:
            yield _item(root, inner or row.place, problem=row.problem, row=row.place)
        elif same not in told:
            places, found = several.get(same, ([row.place], captions))
            told |= {same} & several.keys()
            where = (
                places[0] if len(places) == 1 else places[0].replace(" ", "s ") + "".join(f", {p.split()[1]}" for p in places[1:])
            )
            yield _item(root, inner, video=Place(_on_disk(folder, inner)), caption=tuple(found), row=where)


def _repeated(path: Path) -> dict[int, tuple[list[str], list[str]]]:
    """Rows and captions of each video that a list names more than once; the videos as `_clips` tells them apart."""
    hashes = np.fromiter((same for row, _, _, same in _clips(path) if not row.problem), np.uint64)
    known, counts = np.unique(hashes, return_counts=True)
    found: dict[int, tuple[list[str], list[str]]] = {each: ([], []) for each in known[counts > 1].tolist()}
    for row, _, captions, same in _clips(path) if found else ():
        if not row.problem and same in found:
            found[same][0].append(row.place)
            found[same][1].extend(captions)
    return found


def _clips(path: Path) -> Iterator[tuple[Row, str, list[str], int]]:
    """Each row of a list, the path in it, its captions, and 64 bits that are the same for the same file."""
    base = os.path.realpath(path.parent)
    for row in _rows(path):
        inner = ""
        try:
            if row.problem:
                raise UserError(row.problem)
            inner = _path_in(row.cells)
            captions = _captions_in(row.cells)
        except ValueError as problem:
            yield Row(row.place, problem=str(problem)), inner, [], 0
            continue
        place = _on_disk(base, inner)
        place = os.path.realpath(place) if ".." in place.split("/") else os.path.normpath(place)
        yield row, inner, captions, hashed(place)


def _path_in(cells: Mapping[str, Any]) -> str:
    given = next((cells[name] for name in PATH_COLUMNS if cells.get(name) is not None), "")
    if not isinstance(given, str) or not given.strip():
        raise UserError("no path in this row of the list")
    if wrong := not_text(given):
        raise UserError(wrong)
    return given.strip()


def _on_disk(folder: str, inner: str) -> str:
    """The file that a row means: of that name or, where there is none, with its letters composed or taken apart as on the disk,
    or with / for the \\ of Windows."""
    place = os.path.join(folder, inner)
    if (inner.isascii() and "\\" not in inner) or os.path.lexists(place):
        return place
    plain = inner.replace("\\", "/")
    forms = (os.path.join(folder, form) for form in (plain, *(unicodedata.normalize(how, plain) for how in ("NFC", "NFD"))))
    return next(filter(os.path.lexists, forms), place)


def _rows(path: Path) -> Iterator[Row]:
    """Rows of a list with their cells by name, and those that cannot be read."""
    kind, known = path.suffix.lower(), (*PATH_COLUMNS, *TEXT_COLUMNS)
    if kind == ".jsonl":
        yield from read_json_lines(path, known)
        return
    if kind == ".parquet":
        rows = parquet_rows(path, known)
    else:
        rows = read_table(path, known, one_line=PATH_COLUMNS, like=lambda *rows: _alike(path.parent, *rows))
    names = next(rows).cells
    if not all(any(name in names for name in wanted) for wanted in (PATH_COLUMNS, TEXT_COLUMNS)):
        wanted = "expected the columns path (or video) and caption (or text)"
        raise UserError(f"{path}: {wanted}, found {', '.join(names) or 'none'}; rename them.")
    yield from rows


def _alike(folder: Path, one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether what may be a second row begins as one: its path is a file, or has a video's extension or the first one's."""
    path, first = (
        next((cells[name] for name in PATH_COLUMNS if cells.get(name)), "").strip(' "\r\n') for cells in (one, other)[::-1]
    )
    return _extension(path) in {*VIDEO_NAMES, _extension(first)} - {""} or (path != "" and os.path.lexists(folder / path))


# -- tars


def _tar(root: str, path: Path, inside: str) -> Iterator[Item]:
    """Samples of a WebDataset tar: members in a row that share the path up to the first dot of the file's name."""
    prefix = inside + "/" if inside else ""
    targets: dict[str, Place] = {}
    wrong, cut = list[str](), False
    try:
        whole = path.stat().st_size
        shown = (m for m in members_of(path, wrong) if not m.isdir() and not PurePosixPath(m.name).name.startswith("."))
        for _, sample in groupby(shown, lambda member: _sample(member.name)):
            members, parts = list(islice(sample, MOST_MEMBERS + 1)), []
            if len(members) > MOST_MEMBERS:
                problem = f"more than {MOST_MEMBERS} members of one sample in the tar"
                yield _item(root, prefix + members[0].name, problem=problem)
                continue
            if not targets and any(member.islnk() for member in members):
                targets = _plain_files(path)
            for member in members:
                try:
                    parts.append((member.name, _in_tar(path, member, targets)))
                except ValueError as problem:
                    yield _item(root, prefix + member.name, problem=str(problem))
            for name, given in _paired(parts):
                places = [each for each in (given.get("video"), given.get("caption")) if each is not None]
                if any(place.offset + (place.size or 0) > whole for place in places):
                    given, cut = {"problem": "the tar breaks off inside it"}, True
                yield _item(root, prefix + name, **given)
    except OSError as problem:
        wrong.append(f"the tar cannot be read to its end ({problem})")
    yield from (_item(root, inside, problem=problem) for problem in wrong if not cut)


def _in_tar(path: Path, member: tarfile.TarInfo, targets: Mapping[str, Place]) -> Place:
    """Where a member's bytes lie, a hard link's where those of the member are that it means. ValueError, a short reason."""
    if member.islnk():
        if (place := targets.get(os.path.normpath(member.linkname))) is None:
            raise UserError("a hard link to what is not in the tar")
        return place
    if not member.isreg() or member.sparse is not None:
        kinds = "a symbolic link, which is not followed" if member.issym() else "no plain file, as which it is read"
        raise UserError(f"{kinds} (in the tar)")
    return Place(str(path), member.offset_data, member.size)


def _plain_files(path: Path) -> dict[str, Place]:
    """Every plain file of a tar, for hard links."""
    plain = (member for member in members_of(path, []) if member.isreg() and member.sparse is None)
    return {os.path.normpath(member.name): Place(str(path), member.offset_data, member.size) for member in plain}


def _sample(name: str) -> tuple[str, str]:
    """The folder and the key of a member, which WebDataset ends at the first dot."""
    folder, _, file = unicodedata.normalize("NFC", name).rpartition("/")
    return folder, file.partition(".")[0]


def _paired(parts: Sequence[tuple[str, Place]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and parts of the items in a sample of a tar. Keys may hold dots, which WebDataset takes for extensions: here a dot
    before a letter ends a key, any other does not."""
    names, taken = Counter(name for name, _ in parts), set()
    captions = [part for part in parts if _extension(part[0]) in CAPTION_NAMES]
    videos = [part for part in parts if _extension(part[0]) in VIDEO_NAMES]
    stems = {_stem(name) for name in names.keys() - {name for name, _ in captions}}
    lacking = {_key(name) for name, _ in captions} - {_key(name) for name, _ in videos}
    for name, place in videos:
        key = _key(name)
        near = [part for part in captions if _key(part[0]) == key]
        beside = {_stem(other) for other, _ in videos if _key(other) == key}
        mine = _nearest(near, _stem(name), key) or _free([part for part in near if _stem(part[0]) not in stems], near, beside)
        taken |= {caption for caption, _ in mine}
        lacking |= set() if mine else {key}
        yield name, {"problem": "two members of this name in the tar"} if names[name] > 1 else {"video": place, **_caption(mine)}
    alone = [name for name, _ in captions if name not in taken and _key(name) in lacking]
    for name in alone:
        yield name, {"problem": "a caption without a video beside it in the tar"}
    if parts and not videos and not alone:
        yield parts[0][0], {"problem": "no video in this sample of the tar"}


def _nearest(captions: Sequence[tuple[str, Place]], *stems: str) -> list[tuple[str, Place]]:
    """The captions of the first of these stems that has any."""
    found = ([part for part in captions if _stem(part[0]) == stem] for stem in stems)
    return next(filter(None, found), [])


def _free(
    free: Sequence[tuple[str, Place]], near: Sequence[tuple[str, Place]], videos: Collection[str]
) -> list[tuple[str, Place]]:
    """Which of the captions that are no other member's by their names are those of the videos of a key: all where it has one
    video; the only one where it has several and that goes on from none of their names. part1 and part2 are two clips."""
    said = {_stem(name) for name, _ in near}
    if len(videos) > 1 and (len(said) > 1 or any(one.startswith(f"{video}.") for one in said for video in videos)):
        return []
    return [part for part in free if not any(_numbered(_stem(part[0]), video) for video in videos)]


def _numbered(one: str, other: str) -> bool:
    """Whether two stems differ by a number only, as `a.part1` and `a.part2` or `a.b` and `a.b.1` do."""
    short, long = sorted((one, other), key=len)
    behind = long.startswith(f"{short}.") and not long[len(short) + 1 :][:1].isalpha()
    return behind or re.sub(r"\d+", "0", one) == re.sub(r"\d+", "0", other)


def _key(name: str) -> str:
    """A file's name up to the first dot before a letter: `a` of `a.seg1.mp4`, but `clip_1.5` of `clip_1.5.mp4`."""
    return re.match(r"[^.]*(?:\.(?![^\W\d_])[^.]*)*", _stem(name))[0]  # type: ignore[index]


# -- captions


def _captions_in(cells: Mapping[str, Any]) -> list[str]:
    """The captions of a row or an object, each once, white space made single. ValueError, a short reason, where there is none."""
    given = [cells[name] for name in ("caption", "captions") if cells.get(name) is not None] or [cells.get("text")]
    if len(given) == 2 and isinstance(given[0], str) and not _are_texts(given[1]):
        given.pop()  # other tools' subtitles, say
    texts = [text for each in given for text in (each if isinstance(each, list) else [each]) if text is not None]
    if not texts:
        raise UserError("no caption")
    if not all(isinstance(text, str) for text in texts):
        raise UserError("a caption that is no text")
    found = dict.fromkeys(" ".join(text.replace("\0", " ").split()) for text in texts)
    if wrong := not_text(" ".join(found)):
        raise UserError(wrong)
    found.pop("", None)
    if not found:
        raise UserError("caption empty")
    return list(found)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(text is None or isinstance(text, str) for text in value)


def read_captions(item: Item) -> list[str]:
    """The item's captions, one or more, white space made single. ValueError, a short reason, where there is none."""
    if not isinstance(item.caption, Place):
        return _captions_in({"captions": [*(item.caption or [None])]})
    with item.caption.open() as file:
        data = file.read(MAX_CAPTION_BYTES + 1)
    if len(data) > MAX_CAPTION_BYTES:
        raise UserError(f"caption of more than {MAX_CAPTION_BYTES >> 20} MB")
    try:
        text = decoded(data)
        content = json_of(text, Object) if item.caption_is_json else {"text": text}
    except UnicodeDecodeError as problem:
        raise UserError("caption is not UTF-8 text") from problem
    except NotJson as problem:
        raise UserError(f"caption file is not JSON ({problem})") from problem
    if isinstance(content, Object) and (twice := {*content.twice} & {*TEXT_COLUMNS}):
        raise UserError(f"the name {min(twice)!r} twice in the JSON file")
    if not isinstance(content, dict) or not content.keys() & {*TEXT_COLUMNS}:
        raise UserError('no "caption" or "text" in the JSON file')
    return _captions_in(content)
