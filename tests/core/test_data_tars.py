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
        ("a.mp4 a.seg1.mp4 a.txt", {"a.mp4": "a.txt"}, {"a.seg1.mp4": "no caption"}),
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
            if mine != stems[number]:  # then neither has another of its own name in the sample
                first = last = number
                while first and base_plus_ext(f"{stems[first - 1]}.x")[0] == base_plus_ext(f"{mine}.x")[0]:
                    first -= 1
                while last + 1 < len(names) and base_plus_ext(f"{stems[last + 1]}.x")[0] == base_plus_ext(f"{mine}.x")[0]:
                    last += 1
                sample = range(first, last + 1)
                assert not any(is_video[i] and stems[i] == stems[number] for i in sample)
                assert not any(names[i].lower().endswith(".txt") and stems[i] == mine for i in sample)
                short, long = sorted((mine, stems[number]), key=len)
                assert re.match(r"\.[^\W\d]", long.removeprefix(short))
    assert sorted(name for name in told if name.lower().endswith((".mp4", ".webm"))) == sorted(compress(names, is_video))
    shutil.rmtree(folder)
