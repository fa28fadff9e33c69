"""Names made from prompts: each its own, none too long, none another file's, and as many files as there should be."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emu_core import media
from emu_core.cli import evaluate as command
from emu_core.evaluation import equalise, export, retrieval
from emu_core.evaluation.export import evalcrafter_layout, export_evalcrafter, export_vbench, vbench_layout
from emu_core.evaluation.names import OWN, check_written, distinct
from emu_core.evaluation.prompts import Prompt, file_stems, read_prompts, with_images
from emu_core.evaluation.sets import SetResult
from emu_core.evaluation.videos import Matching, VideoSet, match, open_sets

RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))}
LONG = "a very long prompt " * 14
ODD = [
    "",
    ".",
    "..",
    "CON",
    "nul.mp4",
    " a ",
    "a.",
    "A cat",
    "a cat",
    "a/cat",
    "a cat-0",
    "é",
    "e\u0301",
    "狐" * 90,
    "狐" * 91,
    "🦊" * 70,
]
PROMPTS = st.lists(
    st.one_of(st.sampled_from([*ODD, LONG, f"{LONG}x", "a" * 247, "a" * 248, "x" * 300]), st.text(max_size=5)), max_size=12
)


def results(texts: list[str], samples: int = 1, name: str = "s") -> SetResult:
    """A set of `samples` videos of each prompt; the files need not be there."""
    prompts = [Prompt(f"p{number}", text) for number, text in enumerate(texts)]
    found = [(prompt, [Path(f"{name}/{prompt.id}-{k}.mp4") for k in range(samples)]) for prompt in prompts]
    files = tuple(file for _, files in found for file in files)
    return SetResult(VideoSet(name, Path(name), files), Matching(found, [], [], [], prompts), {}, {})


def one_place(name: str) -> str:
    """What the strictest of file systems would take for the same name."""
    return unicodedata.normalize("NFKC", name).casefold().rstrip(" .")


@example(["A cat", "a cat", "a cat", LONG, LONG, f"{LONG}x"], 2)
@given(PROMPTS, st.integers(1, 12))
@settings(deadline=None, max_examples=150)
def test_any_prompts_give_names_of_their_own_that_fit(texts: list[str], samples: int) -> None:
    matching = results(texts, samples).matching
    for copies, each in ((vbench_layout(matching), samples), (evalcrafter_layout(matching), 1)):
        names = [copy.name for copy in copies]
        assert len({name.casefold() for name in names}) == len(names) == len(texts) * each
        for copy in copies:
            assert 0 < len(copy.name.encode()) <= 255
            assert not re.search(r'[/\\:*?"<>|\x00-\x1f]', copy.name)
            assert copy.name.partition(".")[0].strip().lower() not in RESERVED
        assert sorted(copy.prompt for copy in copies) == sorted(texts * each)
    for copy in vbench_layout(matching):
        beginning = copy.name.rpartition("-")[0]
        assert (beginning == copy.prompt) == copy.whole
    stems = file_stems(matching.prompts)
    assert len(set(map(one_place, stems))) == len(stems)
    assert all(len(stem.encode()) <= 80 and stem.isascii() for stem in stems)


def test_what_can_be_a_name_is_vbenchs_and_comes_first() -> None:
    """VBench looks for f"{prompt}-{index}{suffix}"; prompts of the same text are further samples."""
    texts = ["a/cat", "a cat", "A cat", "two dogs", "two dogs", "x" * 249, "x" * 250]
    copies = vbench_layout(results(texts).matching)
    names = {copy.source.name: copy.name for copy in copies}
    assert names["p1-0.mp4"] == "a cat-0.mp4"
    assert [names[f"p{n}-0.mp4"] for n in (3, 4, 5)] == ["two dogs-0.mp4", "two dogs-1.mp4", f"{'x' * 249}-0.mp4"]
    assert all(re.fullmatch(r"[aA] cat [0-9a-f]{8}-0\.mp4", names[f"p{n}-0.mp4"]) for n in (0, 2))
    assert re.fullmatch(r"x{240} [0-9a-f]{8}-0\.mp4", names["p6-0.mp4"])
    assert vbench_layout(results(texts[::-1]).matching)[0].name == names["p6-0.mp4"]  # whatever the others are


def test_evalcrafter_numbers_are_of_all_prompts() -> None:
    whole = results(["a", "b", "c"]).matching
    lacks = Matching([whole.found[0], whole.found[2]], [whole.prompts[1]], [], [], whole.prompts)
    assert [copy.name for copy in evalcrafter_layout(lacks)] == ["0000.mp4", "0002.mp4"]
    assert [copy.name for copy in evalcrafter_layout(whole, {whole.found[0][1][0]})] == ["0001.mp4", "0002.mp4"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    media.write_video(path, torch.rand(3, 16, 16, 3), 8.0)
    return path.read_bytes()


def given_set(folder: Path, video: bytes, texts: list[str], name: str = "s") -> tuple[Path, list[Prompt]]:
    """A folder of videos by number, and a file of the prompts; each video is told by its last byte."""
    (folder / name).mkdir(parents=True)
    for number in range(len(texts)):
        (folder / name / f"{number:03d}.mp4").write_bytes(video + bytes([number]))
    (folder / "prompts.json").write_text(json.dumps(texts))
    return folder / name, read_prompts(folder / "prompts.json")


def test_an_export_writes_as_many_as_it_is_given(tmp_path: Path, video: bytes, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["a cat", "A cat", "a cat", LONG, f"{LONG}x", "a?"]
    folder, prompts = given_set(tmp_path, video, texts)
    (result,) = [SetResult(each, match(each, prompts), {}, {}) for each in open_sets([str(folder)])]
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        assert export_vbench([result], out) == 6
    assert "4 prompts cannot be names as they are" in caplog.text
    told = json.loads((out / "s.json").read_text())
    assert {(out / file).read_bytes()[-1]: text for file, text in told.items()} == dict(
        enumerate(" ".join(t.split()) for t in texts)
    )
    assert json.loads((out / "s.vbench.json").read_text()) == {file.removeprefix("s/"): text for file, text in told.items()}
    assert len(os.listdir(out / "s")) == 6
    again = match(open_sets([str(out / "s")])[0], prompts)  # `a cat` is there twice, so that its videos are no one's
    assert {prompt.id: [file.read_bytes()[-1] for file in files] for prompt, files in again.found} == {
        prompt.id: [number] for number, prompt in enumerate(prompts) if prompt.text != "a cat"
    }
    assert export_vbench([result], out) == 6  # its own files it may write again
    with pytest.raises(ValueError, match=r"found 0 \(missing: a.mp4\)"):
        check_written(out, ["a.mp4"])


def test_an_export_overwrites_nothing_and_says_so_before_any_work(
    tmp_path: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, prompts = given_set(tmp_path, video, ["one", "two"])
    sets = open_sets([str(folder)])
    taken = {"vbench": "s/two-0.mp4", "evalcrafter": "s/0001.mp4"}
    for kind, file in taken.items():
        out = tmp_path / kind
        (out / file).parent.mkdir(parents=True)
        (out / file).write_bytes(b"mine")
        parser = argparse.ArgumentParser()
        command.add(parser.add_subparsers())
        prompts_file = str(tmp_path / "prompts.json")
        options = parser.parse_args(["evaluate", str(folder), "--prompts", prompts_file, "--json", f"--export-{kind}", str(out)])
        monkeypatch.setattr("emu_core.evaluation.sets.measure_set", lambda *_: pytest.fail("measured first"))
        with pytest.raises(ValueError, match=f"{file}: expected no such file"):
            command.evaluate(options)
        result = SetResult(sets[0], match(sets[0], prompts), {}, {})
        with pytest.raises(ValueError, match="expected no such file"):
            getattr(export, f"export_{kind}")([result], out)
        assert [path.read_bytes() for path in out.rglob("*") if path.is_file()] == [b"mine"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/s.json").write_text('["not ours"]')
    with pytest.raises(ValueError, match=r"s\.json: expected no such file"):
        export_evalcrafter([SetResult(sets[0], match(sets[0], prompts), {}, {})], tmp_path / "other")


def test_systems_that_are_one_on_some_file_system_are_refused(tmp_path: Path) -> None:
    for names in (("A", "a"), ("a", "a.json"), ("a", "a.vbench")):
        with pytest.raises(ValueError, match="a name for each file and folder"):
            export_vbench([results(["x"], name=name) for name in names], tmp_path)
    assert not list(tmp_path.iterdir())


def test_equalise_and_retrieve_overwrite_only_what_they_wrote(tmp_path: Path, video: bytes) -> None:
    prompts = given_set(tmp_path, video, ["狐", "two"], "a")[1]
    given_set(tmp_path, video, ["狐", "two"], "b")
    sets, out = open_sets([str(tmp_path / "a"), str(tmp_path / "b")]), tmp_path / "out"
    for _ in range(2):
        assert len(equalise.equalise_sets(sets, out, prompts)["videos"]) == 4
    (out / OWN).unlink()  # as left by a version that kept no list
    assert len(equalise.equalise_sets(sets, out, prompts)["videos"]) == 4
    for name in (OWN, equalise.REPORT):
        (out / name).unlink()
    with pytest.raises(ValueError, match=r"a/000\.mp4: expected no such file"):
        equalise.equalise_sets(sets, out, prompts)
    (tmp_path / "found").mkdir()
    (tmp_path / "found/000.mp4").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"000\.mp4: expected no such file"):
        retrieval.retrieve(prompts, None, tmp_path / "found")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    ['{"lr": 0.1}', '["not ours"]', "{}", '{"videos": [{"url": "x"}]}', '{"s/000.mp4": {"label": 3}}', "\xff", "[" * 9999],
)
def test_reports_are_files_that_are_not_overwritten_either(tmp_path: Path, video: bytes, content: str) -> None:
    folder, prompts = given_set(tmp_path, video, ["one"])
    given_set(tmp_path, video, ["one"], "t")
    sets = open_sets([str(folder), str(tmp_path / "t")])
    (result, _) = [SetResult(each, match(each, prompts), {}, {}) for each in sets]
    runs = {
        "s.json": lambda out: export_evalcrafter([result], out),
        "s.vbench.json": lambda out: export_vbench([result], out),
        equalise.REPORT: lambda out: equalise.equalise_sets(sets, out, prompts),
        retrieval.REPORT: lambda out: retrieval.retrieve(prompts, None, out),  # type: ignore[arg-type]
    }
    for name, run in runs.items():
        out = tmp_path / f"out {name}"
        out.mkdir()
        (out / name).write_text(content, encoding="latin-1")
        with pytest.raises(ValueError, match=f"{name}: expected no such file"):
            run(out)
        assert [path.name for path in out.iterdir()] == [name]


def test_what_was_written_stays_ones_own_whatever_comes_between(
    tmp_path: Path, video: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """3 prompts, then 2, then 3 again; a video that is missing once; one folder for both exports."""
    sets = [given_set(tmp_path, video, ["one", "two", "three"], name)[0] for name in "st"]
    prompts = read_prompts(tmp_path / "prompts.json")
    (result,) = [SetResult(each, match(each, prompts), {}, {}) for each in open_sets([str(sets[0])])]
    fewer = SetResult(result.videos, Matching(result.matching.found[:2], [], [], [], prompts[:2]), {}, {})
    for export_it, name in ((export_vbench, "three-0.mp4"), (export_evalcrafter, "0002.mp4")):
        for each, count in ((result, 3), (fewer, 2), (result, 3)):
            caplog.clear()
            assert export_it([each], tmp_path / "out") == count
            assert ("files of an earlier run stay" in caplog.text) == (export_it is export_evalcrafter or count == 2)
        assert json.loads((tmp_path / "out/s.json").read_text())[f"s/{name}"] == "three"
    assert len(json.loads((tmp_path / "out/s.json").read_text())) == 6
    assert len(json.loads((tmp_path / "out/s.vbench.json").read_text())) == 3
    opened = [str(each) for each in sets]
    for chosen in (prompts, prompts[:2], prompts):
        equalise.equalise_sets(open_sets(opened), tmp_path / "equal", chosen)
    (sets[1] / "002.mp4").rename(tmp_path / "away.mp4")
    caplog.clear()
    equalise.equalise_sets(open_sets(opened), tmp_path / "equal", prompts)
    assert "2 files of an earlier run stay beside the new ones, such as s/002-three.mp4" in caplog.text
    (tmp_path / "away.mp4").rename(sets[1] / "002.mp4")
    assert len(equalise.equalise_sets(open_sets(opened), tmp_path / "equal", prompts)["videos"]) == 6


def test_a_file_or_a_link_in_the_way_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(ValueError, match="s: expected a folder"):
        export_evalcrafter([results(["x"])], tmp_path)
    assert (tmp_path / "s").read_text() == "mine"
    (tmp_path / "o/s").mkdir(parents=True)
    (tmp_path / "o/s/0000.mp4").symlink_to("nowhere")
    with pytest.raises(ValueError, match="no such file"):
        export_evalcrafter([results(["x"])], tmp_path / "o")


def test_folders_with_the_longest_names_are_equalised(tmp_path: Path, video: bytes) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(2):
            media.write_video(tmp_path / name / ("x" * 254 + str(number)), torch.rand(2, 16, 16, 3), 8.0)
    said = equalise.equalise_sets(open_sets([str(tmp_path / "a"), str(tmp_path / "b")]), tmp_path / "out")["videos"]
    assert len({each["file"] for each in said}) == 4


def test_a_written_name_is_no_other_prompts_id(tmp_path: Path) -> None:
    prompts = [Prompt("001", "狐"), Prompt("000", "犬"), Prompt("002-prompt", "猫"), Prompt("4", "A cat"), Prompt("5", "a cat")]
    stems = file_stems(prompts)
    assert stems == ["000-prompt", "001-prompt", "002", "003-a-cat", "004-a-cat"]
    names = [f"{stem}.mp4" for stem in stems] + ["000.mp4", "001.mp4", "A cat-0.mp4", "a cat-0.mp4"]
    (tmp_path / "s").mkdir()
    for name in names:
        (tmp_path / "s" / name).touch()
    found = {
        file.name: prompt.text for prompt, files in match(open_sets([str(tmp_path / "s")])[0], prompts).found for file in files
    }
    assert found == dict(zip(names, ["狐", "犬", "猫", "A cat", "a cat", "犬", "狐", "A cat", "a cat"], strict=True))


@given(
    st.lists(st.sampled_from(["a", "A", "b", "é", "e\u0301", "x" * 30, "x" * 31, "狐" * 9, ""]), max_size=9), st.integers(20, 40)
)
def test_distinct_names_fit_and_differ(texts: list[str], room: int) -> None:
    found = distinct(texts, [f"{text}{number}" for number, text in enumerate(texts)], room)
    assert len(set(map(one_place, found))) == len(found)
    assert all(0 < len(name.encode()) <= room for name in found)


def test_two_images_of_a_prompt_are_not_chosen_between(tmp_path: Path) -> None:
    prompts = [Prompt("é", "x"), Prompt("b", "y", tmp_path / "own.png")]
    (tmp_path / "e\u0301.png").touch()
    assert [prompt.image for prompt in with_images(prompts, tmp_path)] == [tmp_path / "e\u0301.png", tmp_path / "own.png"]
    (tmp_path / "é.jpg").touch()
    with pytest.raises(ValueError, match=r"found .*\.png and .*\.jpg|found .*\.jpg and .*\.png"):
        with_images(prompts, tmp_path)


# -- reading prompts


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", 'prompt,id\n"open,a\nb,c\n', r"entry 1 \(line 2\), found a quote"),
        ("p.csv", "prompt,id\na cat, grey,a\n", r"\(line 2\), found 3 fields"),
        ("p.csv", b"prompt\ngr\xfcn\n", r"\(line 2\), found not text in UTF-8 \(byte 0xfc\)"),
        ("p.csv", "prompt,Prompt\na,b\n", "two called 'prompt'"),
        ("p.csv", 'id,prompt\n1,"a cat\n2,a dog"\n3,z\n', r"entry 1 \(line 2\), found a line end"),
        ("p.csv", 'prompt,note\nz,\na cat,"n\na dog,x"\n', r"entry 2 \(line 3\), found a line end"),
        ("p.tsv", 'prompt\tid\n"a\t1\nb"\t2\n', r"\(line 2\), found a line end"),
        ("p.csv", "prompt,id,image,n\na cat, grey,1\n", r"\(line 2\), found 3 fields"),
        ("p.json", '[{"prompt": "a", "Prompt": "b"}]', r"entry 1, found the name 'prompt' twice"),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}', r"found no JSON \(the name 'prompt' twice"),
        ("p.json", '[{"prompt": ["a", "b"]}]', "expected text as prompt in entry 1"),
        ("p.json", '{"a": "x", "a": "y"}', "the name 'a' twice"),
        ("p.json", '["\\ud800"]', "expected text as prompt"),
        ("p.json", "3", "a list or an object"),
        ("p.jsonl", '"x"\n[1]\n', r"entry 2 \(line 2\), found no JSON object"),
        ("p.txt", b"a\ngr\xfcn\n", r"entry 2 \(line 2\), found not text"),
    ],
)
def test_a_damaged_prompt_is_named(name: str, content: str | bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=said):
        read_prompts(tmp_path / name)


def test_prompts_in_any_encoding_and_with_any_space(tmp_path: Path) -> None:
    said = "a\u2028b\x0bc ü"
    files = {"p.txt": f"{said}\r\n", "p.csv": f" Prompt \r\n{said}\r\n", "p.jsonl": json.dumps(said, ensure_ascii=False)}
    files |= {"p.tsv": f'prompt\tid\n"{said}"\t1\n', "p.json": json.dumps({"1": said}, ensure_ascii=False)}
    for name, content in files.items():
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            (tmp_path / name).write_bytes(content.encode(encoding))
            assert [prompt.text for prompt in read_prompts(tmp_path / name)] == ["a b c ü"]


def test_ordinary_prompts_are_taken(tmp_path: Path) -> None:
    files = {
        "a.csv": 'prompt,id,image\na 5" disc,1\nb,2,\n,,\n',
        "b.csv": 'sep=;\nprompt;id\na 5" disc;1;\nb;2;;\n',
        "c.csv": 'prompt,id,,\n"a 5"" disc","1"  ,,\n\ufeffprompt,id,,\n"b" ,2\n',
        "d.json": '[{"prompt": "a 5\\" disc", "id": 1, "meta": {"k": 1, "k": 2}}, {"prompt": "b", "id": "2"}]',
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        assert [(prompt.id, prompt.text) for prompt in read_prompts(tmp_path / name)] == [("1", 'a 5" disc'), ("2", "b")], name
