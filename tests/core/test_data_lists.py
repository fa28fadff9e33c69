"""Lists and tars as people have them: every caption that arrives is that row's; whatever does not is named, with its line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from emu_core.data import table
from emu_core.data.clips import ClipDataset
from emu_core.data.curate import Curation, curate
from emu_core.data.select import select
from emu_core.data.shards import Shards
from emu_core.data.sources import listing, read_captions

from .test_data_motion import counting, encoded

CASES = Path(__file__).parent / "fixtures" / "cases"
LETTERS = 'ab ,;"\t\n\rö狐🦊\u2028\x85\ufeff\x1c'
TEXTS = st.text(LETTERS, max_size=12)


@pytest.fixture(scope="module")
def clip() -> bytes:
    return encoded(counting(5))


def plain(text: str) -> str:
    return " ".join(text.split())


def found(source: Path) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """(file, captions) of each item, and "source: why" of what is left out."""
    clips, problems = [], []
    for item in listing([str(source)]):
        try:
            if item.problem:
                raise ValueError(item.problem)
            clips.append((os.path.basename(item.video.path), read_captions(item)))
        except ValueError as problem:
            problems.append(f"{item.source}: {problem} ({item.row})")
    return clips, problems


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# -- damaged rows


@pytest.mark.parametrize(
    ("name", "content", "clips", "said"),
    [
        ("a.csv", 'path,caption\na.mp4,"open\nb.mp4,ok\n', {"b.mp4": ["ok"]}, ["line 2: a quote that is not closed"]),
        ("a.csv", 'path,caption\r\na.mp4,"open\r\nb.mp4,"x, y"\r\nc.mp4,z\r\n', {"b.mp4": ["x, y"], "c.mp4": ["z"]}, ["line 2"]),
        ("a.csv", 'path,caption\na.mp4,"open\nb.mp4,"\nx"\nc.mp4,z\n', {"c.mp4": ["z"]}, ["up to line 3", "line 4"]),
        ("a.csv", 'path,caption\na.mp4,"see\nb.mp4,this"\nb.mp4,z\n', {"b.mp4": ["z"]}, ["up to line 3"]),
        ("a.csv", 'path,caption\na.mp4,"see\nthis"\nb.mp4,z\n', {"a.mp4": ["see this"], "b.mp4": ["z"]}, []),
        ("a.csv", 'path,caption\na.mp4,say "x"\n', {"a.mp4": ['say "x"']}, []),
        ("a.csv", "path,caption\na.mp4,one, two\nb.mp4\nc.mp4,ok\n", {"c.mp4": ["ok"]}, ["line 2: 3 fields", "line 3: 1 field "]),
        ("a.csv", f"path,caption\na.mp4,{'w ' * 70_000}\nb.mp4,ok\n", {"b.mp4": ["ok"]}, ["line 2: a field of more than 131072"]),
        ("a.csv", f'path,caption\na.mp4,"{"w " * 70_000}\nb.mp4,ok\n', {"b.mp4": ["ok"]}, ["line 2: a"]),
        ("a.csv", f"path,caption\na.mp4,{'w ' * 700_000}\nb.mp4,ok\n", {"b.mp4": ["ok"]}, ["line 2: a field of more than"]),
        ("a.csv", "path,caption\na.mp4,x\0y\nb.mp4,ok\n", {"b.mp4": ["ok"]}, ["line 2: a NUL"]),
        (
            "a.csv",
            b"path,caption\na.mp4,gr\xfcn\nb.mp4,gr\xc3\xbcn\n",
            {"b.mp4": ["grün"]},
            ["line 2: not text in UTF-8 (byte 0xfc)"],
        ),
        ("a.csv", "path,caption\na.mp4,x\n\n  \nb.mp4,\n,y\n", {"a.mp4": ["x"]}, ["caption empty (line 5)", "no path"]),
        ("a.csv", "path,caption\ra.mp4,x\rb.mp4,y\r", {"a.mp4": ["x"], "b.mp4": ["y"]}, []),
        ("a.csv", "\n Path ; Caption\na.mp4;x, y\n", {"a.mp4": ["x, y"]}, []),
        (
            "a.tsv",
            'path\tcaption\na.mp4\t5" disc\nb.mp4\t"lone\nc.mp4\tok\n',
            {"a.mp4": ['5" disc'], "b.mp4": ['"lone'], "c.mp4": ["ok"]},
            [],
        ),
        ("a.tsv", 'path\tcaption\na.mp4\t"a ""b"""\nb.mp4\t"x\ty"\n', {"a.mp4": ['a "b"'], "b.mp4": ["x y"]}, []),
        (
            "a.tsv",
            'path\tcaption\na.mp4\t"x\nb.mp4\t"y\nc.mp4\t"Stop" he said\n',
            {"a.mp4": ['"x'], "b.mp4": ['"y'], "c.mp4": ['"Stop" he said']},
            [],
        ),
        ("a.tsv", "path\tcaption\na.mp4\tx\ty\nb.mp4\tok\n", {"b.mp4": ["ok"]}, ["line 2: 3 fields"]),
        ("a.jsonl", '{"path": "a.mp4", "caption": "x"}\n\n{"path": "b.mp4", "capt', {"a.mp4": ["x"]}, ["line 3: no JSON"]),
        (
            "a.jsonl",
            '[1]\n{"path": "a.mp4", "caption": "x", "caption": "y"}\n',
            {},
            ["line 1: no JSON object", "line 2: no JSON (the name"],
        ),
        ("a.jsonl", '\ufeff{"Video": "a.mp4", "captions": ["x", "y", "x"]}\r\n', {"a.mp4": ["x", "y"]}, []),
        (
            "a.jsonl",
            '{"path": "a.mp4", "text": 5}\n{"path": "b.mp4"}\n{"path": "c.mp4", "text": "\\ud800"}',
            {},
            ["no text", "no caption", "not text"],
        ),
        ("a.csv", "path,caption\n", {}, []),
    ],
)
def test_a_damaged_row_is_named_and_the_others_arrive(
    name: str, content: str | bytes, clips: dict[str, list[str]], said: list[str], tmp_path: Path
) -> None:
    got, problems = found(write(tmp_path / name, content))
    assert dict(got) == clips
    assert len(problems) == len(said), problems
    assert all(part in problem for part, problem in zip(said, problems, strict=True)), problems


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("mark", [True, False])
def test_the_byte_order_mark_says_the_encoding(encoding: str, mark: bool, tmp_path: Path) -> None:
    start = "\ufeff" if mark and encoding[-2:] in ("le", "be") else ""
    data = (f"{start}path,caption\na.mp4,grün 狐\nb.mp4,🦊\n").encode(encoding)
    assert found(write(tmp_path / "a.csv", data)) == ([("a.mp4", ["grün 狐"]), ("b.mp4", ["🦊"])], [])
    got, problems = found(write(tmp_path / "b.csv", data[:-1] if "16" in encoding else data + b"c.mp4,\xff\n"))
    assert (got, len(problems)) == ([("a.mp4", ["grün 狐"])] + ([] if "16" in encoding else got[1:]), 1)
    text = {"path": "a.mp4", "caption": "grün"}
    assert found(write(tmp_path / "c.jsonl", (start + json.dumps(text, ensure_ascii=False)).encode(encoding)))[0] == [
        ("a.mp4", ["grün"])
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "columns path"),
        (b"file,words\na,b\n", "found file, words"),
        (b"path,caption,Caption\na,b,c\n", "two called 'caption'"),
        (b'"path,caption\na,b\n', "heading"),
        (b"p\xe4th,caption\na,b\n", "byte 0xe4"),
        (b"\xff\xfe", "columns path"),
    ],
)
def test_a_heading_that_cannot_be_used_is_refused_before_any_work(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        curate([str(write(tmp_path / "a.csv", content))], tmp_path / "out", Curation())
    assert not (tmp_path / "out").exists()


# -- any list

FORMS: dict[str, dict[str, str]] = {".csv": {}, ".tsv": {"dialect": "excel-tab"}, ";.csv": {"delimiter": ";"}}


def rows_of(pairs: Sequence[tuple[str, str]], form: str, **how: Any) -> list[str]:
    """Each row as the csv module writes it."""
    lines = []
    for pair in pairs:
        text = io.StringIO()
        csv.writer(text, **FORMS[form], **how).writerow(pair)  # type: ignore[arg-type]
        lines.append(text.getvalue())
    return lines


PATHS = st.sampled_from(["a.mp4", "x/b c.mp4", "ü.webm"])


@given(
    st.lists(st.tuples(PATHS, TEXTS), max_size=8),
    st.sampled_from([*FORMS]),
    st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), ("\n", csv.QUOTE_ALL), ("\r", csv.QUOTE_ALL)]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(deadline=None, max_examples=200)
def test_a_well_formed_list_arrives_whole(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], form: str, how: tuple[str, int], encoding: str
) -> None:
    """The csv module writes a lone CR without quotes in some versions, so they are put where lines do not end as it thinks."""
    end, quoting = how
    folder = tmp_path_factory.mktemp("list", numbered=True)
    # A line in a caption that could be a row is told from one where paths have quotes and it does not begin with one.
    could = "[,;\t]" if quoting == csv.QUOTE_MINIMAL else '[\r\n]\\s*"'
    pairs = [(path, re.sub("[\r\n]", " ", text) if re.search(could, text) else text) for path, text in pairs]
    text = "".join(rows_of([("path", "caption"), *pairs], form, lineterminator=end, quoting=quoting))
    wanted: dict[str, dict[str, None]] = {}
    for path, caption in pairs:
        if plain(caption):
            wanted.setdefault(os.path.basename(path), {})[plain(caption)] = None
    sources = [write(folder / f"a{form}", text.encode(encoding))]
    table = pyarrow.table({"path": [p for p, _ in pairs], "caption": pyarrow.array([c for _, c in pairs], pyarrow.string())})
    parquet.write_table(
        table.cast(pyarrow.schema([("path", pyarrow.string()), ("caption", pyarrow.string())])), folder / "a.parquet"
    )
    lines = [json.dumps({"path": p, "caption": c}, ensure_ascii=False) for p, c in pairs]
    sources += [folder / "a.parquet", write(folder / "a.jsonl", end.join(lines).encode(encoding))]
    for source in sources:
        clips, problems = found(source)
        assert clips == [(path, list(captions)) for path, captions in wanted.items()]
        assert len(problems) == sum(not plain(caption) for _, caption in pairs)
    shutil.rmtree(folder)


EDITS = st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["", "", *'",\n\t;xa'])), min_size=1, max_size=4)


@example(["a", "b"], [(6, "")], ".csv", ".mp4")
@given(
    st.lists(TEXTS.filter(plain), min_size=2, max_size=7), EDITS, st.sampled_from([*FORMS]), st.sampled_from(["", ".mp4", ".asf"])
)
@settings(deadline=None, max_examples=400)
def test_whatever_is_deleted_or_inserted_no_caption_is_another_rows(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str], edits: list[tuple[int, str]], form: str, end: str
) -> None:
    """An edit deletes a letter (""), or puts one in. What arrives for a row lies in that row's part of the file, quotes aside."""
    names = [f"v{number}{end}" for number in range(len(captions))]
    rows = rows_of(list(zip(names, captions, strict=True)), form, quoting=csv.QUOTE_MINIMAL)
    touched = set()
    for place, letter in edits:
        number = place % len(rows)
        place = place // len(rows) % max(len(rows[number]) - 2, 1)  # line ends stay: without one, two rows are one line
        at = rows[number].find(
            end + FORMS[form].get("delimiter", ",\t"[form == ".tsv"])
        )  # stays: by it rows in captions are known
        place = min(at + len(end) + 1 if at <= place < at + len(end) + 1 else place, len(rows[number]) - 2)
        if not letter and place == len(rows[number]) - 2:
            continue
        rows[number] = rows[number][:place] + letter + rows[number][place + (not letter) :]
        touched.add(number)
    folder = tmp_path_factory.mktemp("list", numbered=True)
    clips, problems = found(write(folder / f"a{form}", "".join([*rows_of([("path", "caption")], form), *rows])))
    shutil.rmtree(folder)
    for name, arrived in clips:
        if name in names:
            own = plain(rows[names.index(name)].replace('"', " "))
            assert all(plain(caption.replace('"', " ")) in own for caption in arrived), (name, arrived)
            assert names.index(name) in touched or arrived == [plain(captions[names.index(name)])]
    arrived_of = dict(clips)
    ranges = [re.search(r"line (\d+): (?:.*up to line (\d+))?", problem) for problem in problems]
    for number in {*range(len(rows))} - touched:  # each row that is as it was arrives, or is named among those not taken
        line = 2 + len(io.StringIO("".join(rows[:number]), newline="").readlines())
        named = any(found and int(found[1]) <= line <= int(found[2] or found[1]) for found in ranges)
        assert named or arrived_of.get(names[number]) == [plain(captions[number])], (names[number], problems)


# -- several captions of a video


def test_the_two_small_lists(tmp_path: Path, clip: bytes) -> None:
    """An open quote; three captions of one video, its path written in two ways; a caption longer than the csv module takes."""
    shutil.copytree(CASES, tmp_path / "in", ignore=lambda _, names: [n for n in names if not n.endswith(".csv")])
    (tmp_path / "in/videos").mkdir()
    for name in "ab":
        write(tmp_path / f"in/videos/{name}.mp4", clip)
    write(tmp_path / "in/12_long.csv", f"path,caption\nvideos/a.mp4,{'w ' * 66_000}\nvideos/b.mp4,ok\n")
    wanted = {
        "13_openquote": ([["ok"]], ["a quote that is not closed, or text behind a closing one (line 2)"]),
        "9_dup": ([["first", "second", "third"]], []),
        "12_long": ([["ok"]], ["a field of more than 131072 characters (line 2)"]),
    }
    for name, (captions, reasons) in wanted.items():
        out = tmp_path / name
        curate([str(tmp_path / f"in/{name}.csv")], out, Curation(None, None))
        rows = parquet.read_table(out / "clips.parquet").to_pylist()
        assert [row.get("captions") or [row["caption"]] for row in rows] == captions
        left = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
        assert [entry["reason"] for entry in left] == reasons


def msr_vtt(folder: Path, clip: bytes, counts: Sequence[int], first: int = 0) -> Path:
    """A list of videos with several captions each, not beside each other."""
    rows = []
    for number, count in enumerate(counts, first):
        write(folder / f"v{number}.mp4", clip)
        rows += [(index, number) for index in range(count)]
    said = [json.dumps({"path": f"v{number}.mp4", "caption": f"video {number} said {index}"}) for index, number in sorted(rows)]
    return write(folder / f"from{first}.jsonl", "\n".join(said))


def test_several_captions_go_all_the_way(tmp_path: Path, clip: bytes) -> None:
    """Into shards that hold older ones too, into selections, and into training, where each comes equally often."""
    write(tmp_path / "one.mp4", clip)
    write(tmp_path / "one.csv", "path,caption\none.mp4,only one\n")
    out, how = tmp_path / "out", Curation(None, None, shard_clips=2)
    curate([str(tmp_path / "one.csv")], out, how)
    assert "captions" not in parquet.read_schema(out / "clips.parquet").names
    before = (out / "clips-000000.tar").read_bytes()
    shutil.copytree(out, tmp_path / "alone")
    source = msr_vtt(tmp_path, clip, [3, 1, 2, 20])
    assert curate([str(source)], out, how).total == 5
    again = curate([str(source)], out, how)
    assert (again.added, again.known, again.left_out) == (0, 4, 0)
    assert (out / "clips-000000.tar").read_bytes() == before

    counts = [1, 3, 1, 2, 20]
    wanted = [["only one"]] + [[f"video {row} said {index}" for index in range(n)] for row, n in enumerate(counts[1:])]
    shards = Shards.open(out)
    assert shards.caption_counts().tolist() == counts
    assert [shards.all_captions(row) for row in range(5)] == wanted
    assert [shards.caption(row) for row in range(5)] == [each[0] for each in wanted]
    assert [*shards.captions()] == [[caption for each in wanted for caption in each]]
    with tarfile.open(out / "clips-000001.tar") as tar:  # as WebDataset reads it: one object for a key
        about = json.loads(tar.extractfile(tar.getmembers()[1]).read())  # type: ignore[union-attr]
    assert (about["caption"], about["captions"]) == (wanted[1][0], wanted[1])
    assert select(out, "a", 'contains(captions, "SAID 2") or captions == "only one"').count == 3
    with pytest.raises(ValueError, match="found none of 5"):
        select(out, "b", 'contains(caption, "said 2")')
    assert select(tmp_path / "alone", "c", 'contains(captions, "only")').count == 1

    assert curate([str(out / "clips-000001.tar")], tmp_path / "again", how).added == 2  # shards are a source as well
    assert Shards.open(tmp_path / "again").all_captions(0) == wanted[1]
    changed = write(source, source.read_text() + '\n{"path": "v1.mp4", "caption": "new"}')
    curate([str(changed)], out, how)
    assert "changed since" in (out / "left_out.jsonl").read_text()

    dataset = ClipDataset(shards, None, fps=8, frames=1, size=(16, 24), seed=3)
    shown: dict[int, list[str]] = {row: [] for row in range(5)}
    for position in range(40 * 5):
        row = dataset.order[position]
        shown[row].append(wanted[row][dataset.said(position, row, counts[row])])
    for row, said in shown.items():
        n = counts[row]
        assert Counter(said[: 40 // n * n]) == dict.fromkeys(wanted[row], 40 // n)
    clips = [dataset[position] for position in range(5, 10)]
    assert [each["caption"] for each in clips] == [shown[each["row"]][1] for each in clips]
    assert clips[0]["caption"] == ClipDataset(shards, None, fps=8, frames=1, size=(16, 24), seed=3)[5]["caption"]


def test_a_run_that_was_cut_short_goes_on_with_several_captions(
    tmp_path: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, how = msr_vtt(tmp_path, clip, [1, 3, 2, 1, 4]), Curation(None, None, shard_clips=2)
    curate([str(source)], tmp_path / "whole", how)
    write_table, written = table.write_table, []

    def once(path: Path, rows: Sequence[dict[str, Any]]) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(write_table(path, rows))

    with monkeypatch.context() as patch:
        patch.setattr(table, "write_table", once)
        with pytest.raises(ValueError, match="goes on from here"):
            curate([str(source)], tmp_path / "out", how)
    assert curate([str(source)], tmp_path / "out", how).total == 5
    for name in ("clips.parquet", "index.npy", "clips-000000.tar", "clips-000001.tar", "clips-000002.tar"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_lists_of_captions_and_bad_bytes_in_parquet(tmp_path: Path) -> None:
    columns = {"Path": ["a.mp4", "b.mp4", None, "a.mp4"], "captions": [["x", "y"], [], ["z"], ["y", "w"]], "n": [1, 2, 3, 4]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    clips, problems = found(tmp_path / "a.parquet")
    assert clips == [("a.mp4", ["x", "y", "w"])]
    assert [problem.partition(": ")[2] for problem in problems] == [
        "no caption (row 2)",
        "no path in this row of the list (row 3)",
    ]
    for kind in (pyarrow.string(), pyarrow.binary()):
        bad = pyarrow.array([b"gr\xc3\xbcn", b"gr\xfcn"], pyarrow.binary()).view(kind)
        parquet.write_table(pyarrow.table({"path": ["a.mp4", "b.mp4"], "text": bad}), tmp_path / "b.parquet")
        clips, problems = found(tmp_path / "b.parquet")
        assert clips == [("a.mp4", ["grün"])]
        assert ["not text in UTF-8 (byte 0xfc)" in problem and "(row 2)" in problem for problem in problems] == [True]
    parquet.write_table(pyarrow.table({"path": ["a.mp4"], "Path": ["b.mp4"], "text": ["x"]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="every column once"):
        found(tmp_path / "c.parquet")


def test_every_row_of_a_video_that_is_left_out_is_named(tmp_path: Path, clip: bytes) -> None:
    write(tmp_path / "a.mp4", clip)
    source = write(tmp_path / "a.csv", "path,caption\ngone.mp4,x\na.mp4,y\n./gone.mp4,z\ngone.mp4,\ngone.mp4,w\n")
    curate([str(source)], tmp_path / "out", Curation(None, None))
    left = [json.loads(line)["reason"] for line in (tmp_path / "out/left_out.jsonl").read_text().splitlines()]
    assert [re.findall(r"\(lines? .*\)", reason) for reason in left] == [["(lines 2, 4, 6)"], ["(line 5)"]]


def test_a_long_list_is_read_in_one_go(tmp_path: Path) -> None:
    lines = [f"videos/{number}.mp4,caption {number}\n" for number in range(5_000)]
    source = write(tmp_path / "a.csv", "path,caption\n" + "".join(lines) + "videos/7.mp4,another\n")
    clips, problems = found(source)
    assert not problems
    assert (len(clips), clips[7], clips[-1]) == (5_000, ("7.mp4", ["caption 7", "another"]), ("4999.mp4", ["caption 4999"]))


def test_a_name_in_a_list_is_found_however_its_letters_are_composed(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é/ö.mp4") for form in ("NFC", "NFD"))
    (tmp_path / apart).parent.mkdir()
    write(tmp_path / apart, "")
    source = write(tmp_path / "a.csv", f"path,caption\n{composed},x\n{apart},y\n{apart.replace('/', chr(92))},z\n")
    (item,) = listing([str(source)])
    assert (item.video.path, read_captions(item)) == (str(tmp_path / apart), ["x", "y", "z"])
    (tmp_path / "link").symlink_to(tmp_path)
    source = write(tmp_path / "b.csv", f"path,caption\nlink/../a.mp4,x\na.mp4,y\nq/../a.mp4,z\n./a.mp4,w\n{tmp_path}/a.mp4,v\n")
    assert [read_captions(item) for item in listing([str(source)])] == [["x"], ["y", "z", "w", "v"]]
