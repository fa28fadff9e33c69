"""Selections: the paper's rule and any expression, on tables with known answers."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu_core.cli import select as command
from emu_core.data import table as storage
from emu_core.data.select import HQ, parse, select
from emu_core.data.shards import Shards


def fill(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A curated folder with these values in its table, without shards."""
    empty: dict[str, Any] = {"string": "", "list": [], "bool": False}
    usual = {name: empty.get(kind, 0) for name, kind in storage.COLUMNS.items()}
    (folder / storage.PARTS).mkdir(parents=True)
    full = [{**usual, "key": f"k{index}", **row} for index, row in enumerate(rows)]
    storage.write_table(storage.part_path(folder, 0), full)
    storage.merge(folder)
    return folder


def chosen(folder: Path, where: str, **options: Any) -> list[int]:
    return np.load(select(folder, "s", where, **options).path).tolist()


def test_the_hq_rule_on_a_fixture_with_known_answers(tmp_path: Path) -> None:
    values = [
        (0.26, 5.8, 0.6),  # good
        (0.25, 5.8, 0.6),  # each of the limits is itself too little
        (0.26, 5.7, 0.6),
        (0.26, 5.8, 0.5),
        (0.9, 9.0, 0.0),
        (0.2, 9.0, 9.0),
        (0.9, 1.0, 9.0),
        (0.251, 5.71, 0.51),  # good
        (0.9, 9.0, None),  # no motion could be measured
    ]
    fill(tmp_path, [dict(zip(("clip_score", "aesthetic", "motion_min"), row, strict=True)) for row in values])
    result = select(tmp_path, "hq", HQ)
    rows = np.load(tmp_path / "selections" / "hq.npy")
    assert (rows.tolist(), rows.dtype, result.count, result.of, result.without_value) == ([0, 7], np.uint32, 2, 9, 1)
    about = json.loads((tmp_path / "selections" / "hq.json").read_text())
    assert about == {"expression": HQ, "top": None, "by": None, "count": 2, "of": 9}
    assert Shards.open(tmp_path, "hq").rows.tolist() == [0, 7]


@pytest.mark.parametrize(("column", "option"), [("clip_score", "--clip"), ("aesthetic", "--aesthetic")])
def test_a_column_never_filled_is_refused_with_the_option_that_fills_it(tmp_path: Path, column: str, option: str) -> None:
    filled = {"clip_score": 1.0, "aesthetic": 9.0, "motion_min": 1.0}
    fill(tmp_path, [{**filled, column: None}] * 3)
    with pytest.raises(ValueError, match=f"column {column}, found none in any of 3 clips.*{option}"):
        select(tmp_path, "hq", HQ)
    assert not (tmp_path / "selections").exists()


CLIPS: list[dict[str, Any]] = [
    {"width": 640, "height": 480, "caption": "A Cat sleeps", "codec": "h264", "duration": 5.0, "frames": 3, "transcoded": True},
    {"width": 320, "height": 480, "caption": "a dog", "codec": "vp9", "duration": 2.5, "frames": 2, "transcoded": False},
    {"width": 512, "height": 512, "caption": "cat and dog", "codec": "hevc", "duration": 9.0, "frames": 3, "transcoded": False},
]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("width >= 512", [0, 2]),
        ("320 < width < 640", [2]),
        ("width == height or not duration < 5", [0, 2]),
        ("width > height and duration > 4", [0]),
        ("width / height < 0.7", [1]),
        ("frames / 2 == 1.5", [0, 2]),
        ("-width + 2 * height - 1 > 319", [1, 2]),
        ('codec in ("h264", "hevc")', [0, 2]),
        ('codec not in ["h264"]', [1, 2]),
        ('contains(caption, "cat")', [0, 2]),
        ('not contains(caption, "CAT")', [1]),
        ('"cat" in caption', [2]),
        ('"cat" not in caption', [0, 1]),
        ("transcoded", [0]),
        ("not transcoded and codec != 'vp9'", [2]),
        ("(width, )[0] > 1", None),
        ("clip_score is None", None),
        ("scene_cuts is not None", [0, 1, 2]),
        ("True", [0, 1, 2]),
    ],
)
def test_expressions_choose_what_they_say(tmp_path: Path, where: str, rows: list[int] | None) -> None:
    fill(tmp_path, [{**clip, "clip_score": None} for clip in CLIPS])
    if rows is None:
        with pytest.raises(ValueError, match=r"expected .*found"):
            chosen(tmp_path, where)
    else:
        assert chosen(tmp_path, where) == rows


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("widht > 3", "one of the columns key, shard, caption.*found 'widht'"),
        ("__import__('os').system('true')", "found"),
        ("width.real > 3", "found 'width.real'"),
        ("width if True else height", "found"),
        ("[x for x in width]", "found"),
        ("lambda: 1", "found"),
        ("width ** 2 > 3", r"found 'width \*\* 2'"),
        ("contains(caption, width)", "found"),
        ("contains(caption)", "found"),
        ("width >", "cannot be read"),
        ("", "cannot be read"),
        ("(" * 2000, "cannot be read"),
        ("width = 3", "cannot be read"),
        ("width + 1", "fits its columns"),
        ("caption > 3", "fits its columns"),
        ("width > 'a'", "fits its columns"),
        ("duration > 1000", "found none of 3"),
        ("b'x' in caption", "found"),
    ],
)
def test_expressions_that_are_not_understood_are_refused_with_a_sentence(tmp_path: Path, where: str, said: str) -> None:
    fill(tmp_path, CLIPS)
    with pytest.raises(ValueError, match=said) as error:
        select(tmp_path, "s", where)
    assert not (tmp_path / "selections").exists()
    assert len(str(error.value)) < 2700


NUMBERS = st.recursive(
    st.one_of(st.sampled_from(["width", "height", "duration"]), st.integers(0, 700).map(str), st.sampled_from(["0.5", "2.25"])),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=4,
)
CONDITIONS = st.recursive(
    st.tuples(NUMBERS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMBERS).map(" ".join),
    lambda inner: st.one_of(
        inner.map(lambda c: f"not ({c})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({' '.join(t)})"),
    ),
    max_leaves=4,
)


@given(CONDITIONS)
@settings(deadline=None, max_examples=80)
def test_an_expression_means_what_it_means_in_python(where: str) -> None:
    table = pyarrow.Table.from_pylist([{k: clip[k] for k in ("width", "height", "duration")} for clip in CLIPS])
    kept = table.append_column("row", pyarrow.array(range(3))).filter(parse(where)[0]).column("row").to_pylist()
    names = [{name: clip[name] for name in ("width", "height", "duration")} for clip in CLIPS]
    assert kept == [row for row, values in enumerate(names) if eval(where, {}, values)]  # noqa: S307 - made here


def test_the_top_by_a_column_over_many_row_groups(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).permutation(10_000) // 3  # with ties
    fill(tmp_path, [{"motion_score": float(score) if score else None, "width": index % 2} for index, score in enumerate(scores)])
    found = chosen(tmp_path, "width == 1", top=100, by="motion_score")
    odd = [row for row in range(1, 10_000, 2) if scores[row]]
    best = sorted(odd, key=lambda row: (-scores[row], row))[:100]
    assert (found, chosen(tmp_path, "width == 1", top=10**6, by="motion_score")) == (sorted(best), odd)


def test_names_and_options_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "x", CLIPS)
    for name in ("../out", "a/b", "", ".x", "a.npy"):
        with pytest.raises(ValueError, match="NAME"):
            select(tmp_path / "x", name, "width > 1")
    for top, by in ((3, None), (None, "width"), (0, "width"), (3, "caption"), (3, "other")):
        with pytest.raises(ValueError, match="--by"):
            select(tmp_path / "x", "s", "width > 1", top, by)
    with pytest.raises(ValueError, match="curate made"):
        select(tmp_path / "none", "s", "width > 1")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "x", CLIPS)
    parser = ArgumentParser()
    command.add(parser.add_subparsers())
    command.select(parser.parse_args(["select", str(tmp_path / "x"), "big", "--where", "width > 400"]))
    assert "2 of 3 clips" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parser.parse_args(["select", str(tmp_path / "x"), "big"])
