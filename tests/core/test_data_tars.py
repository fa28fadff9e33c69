"""Captions beside videos, in folders and in tars: each is its video's, or it is named."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
import unicodedata
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu_core.data.sources import listing, read_captions

from .test_data_lists import found, write

# -- folders


def test_captions_beside_videos_in_folders(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    files = {
        "clip.01.mp4": "",
        "clip.01.txt": "one",
        "clip.02.mp4": "",
        "clip.02.txt": "two",
        "clip.txt": "nobody's",
        "twin.mp4": "",
        "twin.webm": "",
        "twin.txt": "both",
        "LOUD.MP4": "",
        "LOUD.TXT": "loud",
        "json.MP4": "",
        "json.JSON": '{"Caption": 1}',
        f"{composed}.mp4": "",
        f"{apart}.txt": "accent",
        "many.mp4": "",
        "many.json": '{"caption": ["x", "y"], "captions": ["y", "z"]}',
        "case.mp4": "",
        "case.txt": "x",
        "case.TXT": "y",
        "wide.mp4": "",
    }
    for name, text in files.items():
        write(tmp_path / name, text)
    write(tmp_path / "wide.txt", "breit ü".encode("utf-16"))
    clips, problems = found(tmp_path)
    assert {unicodedata.normalize("NFC", name): captions for name, captions in clips} == {
        "clip.01.mp4": ["one"],
        "clip.02.mp4": ["two"],
        "twin.mp4": ["both"],
        "twin.webm": ["both"],
        "LOUD.MP4": ["loud"],
        f"{composed}.mp4": ["accent"],
        "many.mp4": ["x", "y", "z"],
        "wide.mp4": ["breit ü"],
    }
    said = {os.path.basename(problem.partition(": ")[0]): problem for problem in problems}
    wanted = {"clip.txt": "without a video", "case.mp4": "two captions of one kind", "json.MP4": 'no "caption"'}
    assert said.keys() == wanted.keys()
    assert all(part in said[name] for name, part in wanted.items()), said


# -- tars


def tar_of(path: Path, members: Sequence[tuple[str, str]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, text in members:
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def in_tar(source: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    clips, problems = {}, {}
    for item in listing([str(source)]):
        name = item.source.removeprefix(f"{source}/")
        try:
            if item.problem:
                raise ValueError(item.problem)
            assert name not in clips
            clips[name] = read_captions(item)
        except ValueError as problem:
            problems[name] = str(problem)
    return clips, problems


@pytest.mark.parametrize(
    ("members", "clips", "problems"),
    [
        (
            "yt_00.05.mp4 yt_00.05.txt yt_00.10.mp4 yt_00.10.txt",
            {"yt_00.05.mp4": "yt_00.05.txt", "yt_00.10.mp4": "yt_00.10.txt"},
            {},
        ),
        ("yt_00.05.mp4 yt_00.10.mp4 yt_00.10.txt", {"yt_00.10.mp4": "yt_00.10.txt"}, {"yt_00.05.mp4": "no caption"}),
        ("yt_00.05.mp4 yt_00.10.txt", {}, {"yt_00.05.mp4": "no caption", "yt_00.10.txt": "without a video"}),
        ("clip_1.5.mp4 clip_1.txt", {}, {"clip_1.5.mp4": "no caption", "clip_1.txt": "without a video"}),
        ("a.seg1.mp4 a.txt b.mp4 b.en.txt", {"a.seg1.mp4": "a.txt", "b.mp4": "b.en.txt"}, {}),
        ("a.seg1.mp4 a.seg2.mp4 a.seg2.txt a.txt", {"a.seg1.mp4": "a.txt", "a.seg2.mp4": "a.seg2.txt"}, {}),
        ("a.mp4 a.seg1.mp4 a.txt", {"a.mp4": "a.txt", "a.seg1.mp4": "a.txt"}, {}),
        ("k.video.mp4 k.caption.txt", {"k.video.mp4": "k.caption.txt"}, {}),
        ("k.v1.mp4 k.v2.mp4 k.caption.txt", {"k.v1.mp4": "k.caption.txt", "k.v2.mp4": "k.caption.txt"}, {}),
        ("m.flip.mp4 m.mp4 m.json m.txt", {"m.flip.mp4": "m.txt", "m.mp4": "m.txt"}, {}),
        ("a.seg1.mp4 a.jpg a.txt a.cls", {"a.seg1.mp4": "a.txt"}, {}),
        ("talk.mp4 talk.part2.mp4v talk.part2.txt", {}, {"talk.mp4": "no caption", "talk.part2.txt": "without a video"}),
        ("talk.part1.mp4 talk.part2.txt", {}, {"talk.part1.mp4": "no caption", "talk.part2.txt": "without a video"}),
        ("a.mp4 a.b.mp4 a.b.c.txt", {}, {"a.mp4": "no caption", "a.b.mp4": "no caption", "a.b.c.txt": "without a video"}),
        ("s.mp4 s.e.mp4 s.e.txt", {"s.e.mp4": "s.e.txt"}, {"s.mp4": "no caption"}),
        ("yt_00.05.a.mp4 yt_00.05.txt yt_00.txt", {"yt_00.05.a.mp4": "yt_00.05.txt"}, {"yt_00.txt": "without a video"}),
        ("a.mp4 a.en.txt a.de.txt", {}, {"a.mp4": "two captions of one kind (a.en.txt and a.de.txt)"}),
        ("a.mp4 a.txt a.txt", {}, {"a.mp4": "two captions of one kind"}),
        ("a.mp4 a.txt a.mp4 a.txt", {}, {"a.mp4": "two members of this name"}),
        ("a.mp4 b.mp4 b.txt a.txt", {"b.mp4": "b.txt"}, {"a.mp4": "no caption", "a.txt": "without a video"}),
        ("a.mp4 b.mp4 x.png a.txt b.txt", {}, dict.fromkeys(("a.mp4", "b.mp4", "x.png", "a.txt", "b.txt"), "")),
        ("._a.mp4 a.mp4 ._a.txt a.txt", {"a.mp4": "a.txt"}, {}),
        (
            "v1.0/A.MP4 v1.0/A.TXT v1.0/b.mp4 v1.1/b.txt",
            {"v1.0/A.MP4": "v1.0/A.TXT"},
            {"v1.0/b.mp4": "no caption", "v1.1/b.txt": ""},
        ),
    ],
)
def test_keys_with_dots_in_tars(members: str, clips: dict[str, str], problems: dict[str, str], tmp_path: Path) -> None:
    got, said = in_tar(tar_of(tmp_path / "a.tar", [(name, name) for name in members.split()]))
    assert got == {video: [caption] for video, caption in clips.items()}
    assert said.keys() == problems.keys()
    assert all(part in said[name] for name, part in problems.items()), said


def three(path: Path) -> bytes:
    return tar_of(path, [(f"{key}.{end}", f"{key}.{end}") for key in "abc" for end in ("mp4", "txt")]).read_bytes()


@pytest.mark.parametrize(
    ("kind", "clips", "said"),
    [
        ("header", "a", "ends at byte 2048, but more lies behind it"),
        ("hole", "a", "ends at byte 2048, but more lies behind it"),
        ("joined", "abc", "ends at byte 6144, but more lies behind it"),
        ("cut header", "ab", "ends at byte 4096, but more lies behind it"),
        ("cut member", "ab", "the tar breaks off|cannot be read to its end"),
        ("whole", "abc", ""),
        ("no end", "abc", ""),
    ],
)
def test_the_rest_of_a_tar_is_not_lost_without_a_word(kind: str, clips: str, said: str, tmp_path: Path) -> None:
    data = three(tmp_path / "a.tar")
    second = data.index(b"b.mp4")
    data = {
        "header": data[: second + 110] + b"9" + data[second + 111 :],
        "hole": data[:second] + bytes(1024) + data[second:],
        "joined": data + data,
        "cut header": data[: data.index(b"c.mp4") + 300],
        "cut member": data[: data.index(b"c.mp4") + 514],
        "whole": data,
        "no end": data[:6144],
    }[kind]
    got, problems = in_tar(write(tmp_path / "b.tar", data))
    assert got == {f"{key}.mp4": [f"{key}.txt"] for key in clips}
    assert len(problems) == bool(said)
    assert all(re.search(said, problem) for problem in problems.values()), problems


def test_links_in_tars_are_their_members_or_named(tmp_path: Path) -> None:
    def link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, to
        return info

    three(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        tar.addfile(link("d.mp4", "a.mp4", tarfile.LNKTYPE))
        tar.addfile(link("d.txt", "./b.txt", tarfile.LNKTYPE))
        tar.addfile(link("e.mp4", "a.mp4", tarfile.SYMTYPE))
        tar.addfile(link("e.txt", "a.txt", tarfile.LNKTYPE))
        tar.addfile(link("f.mp4", "gone.mp4", tarfile.LNKTYPE))
        tar.addfile(link("g.mp4", "", tarfile.FIFOTYPE))
        tar.addfile(link("h.mp4", "", tarfile.DIRTYPE))
    got, problems = in_tar(tmp_path / "a.tar")
    assert got == {"a.mp4": ["a.txt"], "b.mp4": ["b.txt"], "c.mp4": ["c.txt"], "d.mp4": ["b.txt"]}
    assert {name: problem.partition(",")[0] for name, problem in problems.items()} == {
        "e.mp4": "a symbolic link",
        "e.txt": "a caption without a video beside it in the tar",
        "f.mp4": "a hard link to what is not in the tar",
        "g.mp4": "no plain file",
    }
    video = {item.source[-5:]: item.video for item in listing([str(tmp_path / "a.tar")])}
    with video["d.mp4"].open() as file:
        assert file.read() == b"a.mp4"


PARTS = ["a", "b", "é", "e\u0301", "00", "05", "10", "seg", "seg2", "v1"]
NAMES = st.lists(st.sampled_from(["a", "b", "é", "e\u0301", "00", "05", "10", "seg", "seg2", "v1"]), min_size=1, max_size=3).map(
    ".".join
)
KINDS = [".mp4", ".MP4", ".webm", ".txt", ".TXT", ".png"]
MEMBERS = st.tuples(
    st.sampled_from(["", "d/", "d.0/"]), NAMES, st.sampled_from([".mp4", ".MP4", ".webm", ".txt", ".TXT", ".png"])
)


def base_plus_ext(path: str) -> tuple[str, str]:
    """As webdataset 1.0.2 splits a member's path into key and extensions."""
    parts = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", path)
    assert parts
    return parts[1], parts[2]


@given(st.lists(MEMBERS.map("".join), max_size=9), st.booleans())
@settings(deadline=None, max_examples=200)
def test_in_any_tar_a_caption_is_its_videos_and_the_rest_is_named(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], ordered: bool
) -> None:
    folder = tmp_path_factory.mktemp("tar", numbered=True)
    names = sorted(names) if ordered else names
    root = tar_of(folder / "a.tar", [(name, f"of {number}") for number, name in enumerate(names)])
    stems = [unicodedata.normalize("NFC", os.path.splitext(name)[0]) for name in names]
    is_video = [name.lower().endswith((".mp4", ".webm")) for name in names]
    taken, told = set(), []
    for item in listing([str(root)]):
        name = item.source.removeprefix(f"{root}/")
        told.append(name)
        if not item.problem and item.caption is not None:
            (caption,) = read_captions(item)
            number, mine = int(caption.split()[1]), unicodedata.normalize("NFC", os.path.splitext(name)[0])
            taken.add(number)
            assert base_plus_ext(f"{mine}.x")[0] == base_plus_ext(f"{stems[number]}.x")[0]
            if mine != stems[number]:  # then it has none of its own name in the sample
                first = last = number
                while first and base_plus_ext(f"{stems[first - 1]}.x")[0] == base_plus_ext(f"{mine}.x")[0]:
                    first -= 1
                while last + 1 < len(names) and base_plus_ext(f"{stems[last + 1]}.x")[0] == base_plus_ext(f"{mine}.x")[0]:
                    last += 1
                sample = range(first, last + 1)
                assert not any(names[i].lower().endswith(".txt") and stems[i] == mine for i in sample)
                key = re.split(r"\.(?=[^\W\d_])", mine)[0]  # with what comes behind it in both, but for the key's own captions
                near = [i for i in sample if re.split(r"\.(?=[^\W\d_])", stems[i])[0] == key]
                assert number in near
                if stems[number] != key:
                    beside = {stems[i] for i in near if is_video[i]}
                    said = {stems[i] for i in near if names[i].lower().endswith(".txt")}
                    assert stems[number] not in beside
                    assert len(beside) == 1 or (len(said) == 1 and not any(one.startswith(stems[number]) for one in beside))
                    assert not any(re.sub(r"\d+", "", one) == re.sub(r"\d+", "", stems[number]) for one in beside)
    assert sorted(name for name in told if name.lower().endswith((".mp4", ".webm"))) == sorted(compress(names, is_video))
    shutil.rmtree(folder)
