"""What ordinary lists and other tools' objects hold is taken; rows inside captions and values that are no text are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from .test_data_lists import found, write

H = "path,caption\n"
NOTES = "path,caption,note,other\n"
MERGED = "up to line"


@pytest.mark.parametrize(
    ("name", "content", "clips", "said"),
    [
        # what lies behind the columns that matter
        ("a.csv", H + "a.mp4,x,,\nb.mp4,y,,\n", {"a.mp4": ["x"], "b.mp4": ["y"]}, []),
        ("a.csv", "path,caption,,\na.mp4,x,,\nb.mp4,y\n", {"a.mp4": ["x"], "b.mp4": ["y"]}, []),
        ("a.csv", "path,caption,,\na.mp4,one, two,\nb.mp4,y\n", {"b.mp4": ["y"]}, ["line 2: 4 fields"]),
        ("a.csv", NOTES + "a.mp4,x,1,2\nb.mp4,y\nc.mp4,z,,\n", {"a.mp4": ["x"], "b.mp4": ["y"], "c.mp4": ["z"]}, []),
        ("a.csv", NOTES + "a.mp4,x, and y\nb.mp4,one, two,n,2,\n", {}, ["line 2: 3 fields", "line 3: 6 fields"]),
        (
            "a.csv",
            "path;caption;n\na.mp4;x; y;1\nb.mp4\n",
            {},
            ["4 fields where the heading has 3; a field with semicolons", "1 f"],
        ),
        ("a.csv", H + "a.mp4,x\n,\n,,\nb.mp4,y\n", {"a.mp4": ["x"], "b.mp4": ["y"]}, []),
        # lone quotes
        ("a.csv", H + 'a.mp4,a 5" disc\nb.mp4,x" y\n', {"a.mp4": ['a 5" disc'], "b.mp4": ['x" y']}, []),
        ("a.csv", NOTES + 'a.mp4,x,5" disc,\n', {"a.mp4": ["x"]}, []),
        (
            "a.csv",
            H + 'a.mp4,it ends"\nb.mp4,a 5"" disc" x\nc.mp4,z\n',
            {"c.mp4": ["z"]},
            ["line 2: a quote that closes", "line 3: "],
        ),
        ("a.csv", NOTES + 'a.mp4,one, two",n\n', {}, ["line 2: a quote that closes"]),
        ("a.csv", H + '"a.mp4","x"  \n"b.mp4" ,"p ""q"" , r" \n', {"a.mp4": ["x"], "b.mp4": ['p "q" , r']}, []),
        # Excel's first line, marks of lists that were joined
        ("a.csv", "sep=;\npath;caption\na.mp4;x, y\n", {"a.mp4": ["x, y"]}, []),
        ("a.csv", "\ufeffSEP=|\r\npath|caption\r\na.mp4|x, y\r\n", {"a.mp4": ["x, y"]}, []),
        ("a.csv", "\ufeff\ufeffpath,caption\na.mp4,x\n\ufeffPath,caption\nb.mp4,y\n", {"a.mp4": ["x"], "b.mp4": ["y"]}, []),
        ("a.jsonl", '{"path": "a.mp4", "text": "x"}\n\ufeff{"path": "b.mp4", "text": "y"}', {"a.mp4": ["x"], "b.mp4": ["y"]}, []),
        # rows in a caption, whatever their paths look like; captions with lines that only look like paths
        (
            "a.csv",
            H + 'noext,"open\nx.m2v,two"\nx.asf,"third\nx.f4v,fourth\na.mp4,ok',
            {"x.f4v": ["fourth"], "a.mp4": ["ok"]},
            [MERGED, "line 4"],
        ),
        ("a.csv", H + 'frames/a,"open\nframes/b,two"\nframes/c,ok\n', {"c": ["ok"]}, [MERGED]),
        ("a.csv", H + 'a.webp,"open\nb.webp,one, two"\nc.webp,ok\n', {"c.webp": ["ok"]}, [MERGED]),
        ("a.csv", 'id,path,caption\n1,a,"open\n2,b,y\n3,c,"\nz"\n', {}, ["up to line 4", "line 5"]),
        ("a.csv", H + 'a.mp4,"as in\nb.mp4,this one\n"\nb.mp4,real\n', {"b.mp4": ["real"]}, ["up to line 4"]),
        ("a.csv", H + 'a.mp4,"as in\nb.mp4,this\nc.mp4,"\nb.mp4,real\n', {"b.mp4": ["real"]}, ["up to line 4"]),
        ("a.csv", H + '"""\nb.mp4,",x\nc.mp4,y\n', {"c.mp4": ["y"]}, ["line 2: a line end", "line 3"]),
        ("a.csv", 'caption,path\n"as in\nthis one,b\n",a\nreal,b\n', {"a": ["as in this one,b"], "b": ["real"]}, []),
        ("a.csv", 'caption,path\n"as, in\nthis one",a\nreal,b\n', {"b": ["real"]}, [MERGED]),
        ("a.csv", H + 'a.mp4,"first\nsee c.mp4\nc.mp4"\nb.mp4,y\n', {"a.mp4": ["first see c.mp4 c.mp4"], "b.mp4": ["y"]}, []),
        ("a.csv", NOTES + 'a.mp4,"l1\nl2",n,o\nb.mp4,y,,\n', {"a.mp4": ["l1 l2"], "b.mp4": ["y"]}, []),
        ("a.csv", 'caption,path,n\n"l1\nl2",a,1\n', {"a": ["l1 l2"]}, []),
        ("a.csv", 'path,caption,n\na,"l1\nl2",n\nb,y,\n', {"a": ["l1 l2"], "b": ["y"]}, []),
        ("a.csv", '"path","caption"\n"a","l1\nl2, x\nl3"\n', {"a": ["l1 l2, x l3"]}, []),
        ("a.tsv", 'path\tcaption\na\t"as in\nb\tthis one\n"\nb\treal\n', {"b": ["real"]}, [MERGED]),
    ],
)
def test_ordinary_lists_are_taken_and_rows_in_captions_are_not(
    name: str, content: str, clips: dict[str, list[str]], said: list[str], tmp_path: Path
) -> None:
    got, problems = found(write(tmp_path / name, content))
    assert dict(got) == clips
    assert len(problems) == len(said), problems
    assert all(part in problem for part, problem in zip(said, problems, strict=True)), problems


def test_a_row_in_a_caption_is_known_by_its_file_too(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    content = 'path,caption,note\nq,"open,n\nthere,a,b,c\nr,two"\nlast,ok,\n'
    assert found(write(tmp_path / "a.csv", content.replace("there", "other")))[0] == [("last", ["ok"])]
    got, problems = found(write(tmp_path / "a.csv", content))
    assert (got, len(problems)) == ([("last", ["ok"])], 1)


def test_what_is_no_text_is_no_caption(tmp_path: Path) -> None:
    """Structs, numbers and NaN are named; bytes in lists are text; a null in a list is none of the captions."""
    columns = {
        "caption": [[{"en": "x"}], [float("nan")], [1.5], [b"x"], [True]],
        "captions": [[[b"x", b"gr\xc3\xbcn"]], [["x", None, "y"]], [[None]], [[{"t": 1}]], [[b"gr\xfcn"]]],
    }
    got: dict[str, list[list[str]]] = {}
    for name, values in columns.items():
        for value in values:
            parquet.write_table(pyarrow.table({"path": ["a.mp4"], name: value}), tmp_path / "a.parquet")
            clips, problems = found(tmp_path / "a.parquet")
            got.setdefault(name, []).append(clips[0][1] if clips else problems[0].partition(": ")[2].split(" (")[:1])
    wrong = ["a caption that is no text"]
    assert got["caption"] == [wrong, wrong, wrong, ["x"], wrong]
    assert got["captions"] == [["x", "grün"], ["x", "y"], ["no caption"], wrong, ["not text in UTF-8"]]
    bad = pyarrow.ListArray.from_arrays([0, 1, 2], pyarrow.array([b"gr\xfcn", b"ok"], pyarrow.binary()).view(pyarrow.string()))
    parquet.write_table(pyarrow.table({"path": ["a.mp4", "b.mp4"], "captions": bad}), tmp_path / "b.parquet")
    clips, problems = found(tmp_path / "b.parquet")
    assert clips == [("b.mp4", ["ok"])]
    assert "byte 0xfc" in problems[0]


@pytest.mark.parametrize(
    ("about", "captions"),
    [
        ({"caption": "x", "captions": [{"t": 1}]}, ["x"]),
        ({"caption": "x", "captions": "other"}, ["x"]),
        ({"caption": "x", "captions": {"en": "y"}}, ["x"]),
        ({"caption": "x", "captions": ["y", None]}, ["x", "y"]),
        ({"captions": "y"}, ["y"]),
        ({"caption": ["x", None]}, ["x"]),
        ({"caption": ["x", 5]}, "a caption that is no text"),
        ({"captions": [{"t": 1}]}, "a caption that is no text"),
        ({"caption": [None]}, "no caption"),
        ('{"caption": "x", "meta": {"k": 1, "k": 2}, "k": 1, "k": 2}', ["x"]),
        ('{"caption": "x", "meta": [{"caption": 1, "caption": 2}]}', ["x"]),
        ('{"caption": "x", "caption": "y"}', "the name 'caption' twice"),
    ],
)
def test_objects_of_other_tools(about: Any, captions: Any, tmp_path: Path) -> None:
    text = about if isinstance(about, str) else json.dumps(about)
    write(tmp_path / "a.jsonl", text.replace("{", '{"path": "a.mp4", ', 1))
    (tmp_path / "d").mkdir()
    write(tmp_path / "d/a.mp4", "")
    write(tmp_path / "d/a.json", text)
    for source in ("a.jsonl", "d"):
        clips, problems = found(tmp_path / source)
        assert [texts for _, texts in clips] == ([captions] if isinstance(captions, list) else [])
        assert isinstance(captions, list) or captions in problems[0]
    write(tmp_path / "b.jsonl", '{"path": "a.mp4", "Path": "b.mp4", "caption": "x"}')
    assert "the name 'path' twice" in found(tmp_path / "b.jsonl")[1][0]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-8", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("said", ["a", "é x", "\ufeffa fox"])
def test_captions_beside_videos_are_decoded_as_lists_are(encoding: str, said: str, tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", "")
    write(tmp_path / "a.txt", said.encode(encoding))
    assert found(tmp_path) == ([("a.mp4", [said.strip("\ufeff")])], [])
