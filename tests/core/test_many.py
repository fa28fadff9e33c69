"""A list of prompts: which videos it asks for, what is in the folder in the end, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from emu_core import media
from emu_core.cli import shares
from emu_core.cli.batch import Maker, read_work
from emu_core.cli.compare import arguments, plan
from emu_core.cli.main import build_parser
from emu_core.cli.shares import make_share
from emu_core.evaluation.export import evalcrafter_layout, vbench_layout
from emu_core.evaluation.prompts import Prompt, read_prompts
from emu_core.evaluation.videos import VideoSet, match, open_set
from emu_core.locks import OwnerLock
from emu_core.many import manifest
from emu_core.many.memory import MOST_CLIPS, clips_that_fit, fitting
from emu_core.many.plan import batches, planned, seed_of, stems
from emu_core.media import read_image, read_video
from emu_core.study.create import one_video_each

from .evaluation_tiny import tiny_clip
from .saved import emu

RED, BLUE, GREEN = (
    "a big red circle moves right on a white background",
    "a small blue square moves up on a black background",
    "a big green triangle stays still on a white background",
)
QUICK = ("--steps", "1", "--no-interpolate", "--size", "16", "--frames", "2")


def listed(folder: Path, *prompts: str) -> Path:
    (folder / "prompts.txt").write_text("\n".join(prompts))
    return folder / "prompts.txt"


def frames(path: Path) -> bytes:
    return read_video(path).frames.numpy().tobytes()


def videos(folder: Path) -> dict[str, bytes]:
    return {path.name: frames(path) for path in sorted(folder.glob("*.mp4"))}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / manifest.MANIFEST).read_text().splitlines()]


# -- the plan

TEXTS = st.text(st.sampled_from("ab 1-0ü"), min_size=1, max_size=8).filter(str.strip)


@example([("000", "take"), ("000-take-0", "take"), ("x", "take 0")], 3)
@given(st.lists(st.tuples(st.text("a01-", min_size=1, max_size=6), TEXTS), min_size=1, max_size=5, unique_by=lambda p: p[0]),
       st.integers(1, 3))  # fmt: skip
@settings(deadline=None)
def test_names_are_those_that_evaluation_finds(given_: list[tuple[str, str]], samples: int) -> None:
    """Without an id that is a number and says another place than its own, which leads elsewhere by the rules."""
    prompts = [Prompt(f"id{number}-{id}", " ".join(text.split())) for number, (id, text) in enumerate(given_)]
    names = stems(prompts, samples)
    files = [Path(f"{name}.mp4") for each in names for name in each]
    assert len({file.name.casefold() for file in files}) == samples * len(prompts)
    found = match(VideoSet("x", Path(), tuple(files)), prompts)
    assert {prompt.id: [file.stem for file in each] for prompt, each in found.found} == {
        prompt.id: each for prompt, each in zip(prompts, names, strict=True)
    }
    assert len(vbench_layout(found)) == samples * len(prompts)
    assert len(evalcrafter_layout(found)) == len(prompts)


def test_a_seed_belongs_to_its_prompt_and_sample() -> None:
    some = [Prompt("a", RED), Prompt("b", BLUE)]
    whole = {(v.id, v.sample): v.seed for v in planned(some, 3, 7, [])}
    turned = {(v.id, v.sample): v.seed for v in planned(some[::-1], 2, 7, [])}
    assert turned.items() <= whole.items()
    assert len({*whole.values()}) == 6
    assert all(0 <= seed < 2**53 for seed in whole.values())
    assert seed_of(8, "a", 0) != seed_of(7, "a", 0)


def test_batches_are_of_the_whole_list() -> None:
    plan = planned([Prompt(str(n), RED) for n in range(7)], 1, 0, [])
    assert [[v.id for v in each] for each in batches(plan, 3)] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    share = shares.Share([([v], [v.stem]) for v in plan], 7)
    assert sorted(v.id for rank in range(3) for (v,), _ in share.of(rank, 3)) == [str(n) for n in range(7)]


def test_what_fits_is_counted_by_the_peak_of_one() -> None:
    assert [fitting(10, 100), fitting(50, 100), fitting(90, 100), fitting(1, 10**9)] == [8, 1, 1, MOST_CLIPS]
    assert clips_that_fit(torch.device("cpu"), lambda: pytest.fail("measured")) == 1


# -- a list becomes a folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three prompts, one of which cannot be read as one, with two samples each."""
    folder = tmp_path_factory.mktemp("many")
    prompts = listed(folder, RED, f"(({BLUE}:nan))", BLUE)
    said = emu("generate", "--prompts", prompts, "--out", folder / "out", "--samples", "2", "--starting-frame", folder / "out",
               "--seed", "3", *QUICK, status=2)  # fmt: skip
    assert (
        said.strip()
        .splitlines()[-1]
        .endswith(f"4 of 4 videos are there, 1 entries of {prompts} could not be read: manifest.jsonl says why")
    )
    return folder


def test_every_video_is_there_and_told(made: Path) -> None:
    broken, *told = lines(made / "out")
    assert "nan" in broken["failed"]
    assert [(each["id"], each["sample"]) for each in told] == [("000", 0), ("000", 1), ("002", 0), ("002", 1)]
    assert {each["file"] for each in told} == {*videos(made / "out")}
    for each in told:
        assert each["prompt"] == {"000": RED, "002": BLUE}[each["id"]]
        assert each["seed"] == seed_of(3, each["id"], each["sample"])
        assert each["seconds"] > 0
        assert each["settings"]["steps"] == 1
        metadata = read_video(made / "out" / each["file"]).metadata
        assert (metadata["prompt"], metadata["seed"]) == (each["prompt"], str(each["seed"]))


def test_a_video_is_what_generate_makes_of_its_seed(made: Path, tmp_path: Path) -> None:
    _, first, *_ = lines(made / "out")
    emu(
        "generate", RED, "--seed", str(first["seed"]), "--out", tmp_path / "x.mp4", "--starting-frame", tmp_path / "x.png", *QUICK
    )
    name = made / "out" / Path(first["file"]).stem
    assert np.array_equal(read_image(f"{name}.png"), read_image(tmp_path / "x.png"))
    assert frames(Path(f"{name}.mp4")) == frames(tmp_path / "x.mp4")


def test_the_folder_is_one_for_evaluate_and_study(made: Path, tmp_path: Path) -> None:
    prompts = read_prompts(made / "prompts.txt")
    found = match(open_set("", made / "out"), prompts)
    assert [(p.id, len(files)) for p, files in found.found] == [("000", 2), ("002", 2)]
    assert not found.extra
    out = tmp_path / "one"
    emu("generate", "--prompts", listed(tmp_path, RED, BLUE), "--out", out, *QUICK)
    assert len(one_video_each(open_set("", out), read_prompts(tmp_path / "prompts.txt"))) == 2


def test_one_folder_has_videos_of_one_scale(tmp_path: Path) -> None:
    """The recommended one enlarges small videos alone, --scale any: of 128 px 3 and 4 times. Starting frames have none."""

    def told(*extra: str, size: str = "128") -> str | None:
        command = ["generate", "--prompts", str(listed(tmp_path, RED)), "--out", str(tmp_path / "out"), "--size", size, *extra]
        return read_work(build_parser().parse_args(command)).facts.get("scale")

    usual = told("--no-interpolate")
    assert (usual, told("--scale", "4"), told("--scale", "1")) == ("4:nearest, of at most 384 px", "4:nearest", None)
    assert told("--only-starting-frames") is told("--only-starting-frames", "--scale", "4") is None


def test_resumed_only_what_is_missing_is_made(made: Path, tmp_path: Path) -> None:
    wanted, told = videos(made / "out"), lines(made / "out")
    times = {name: os.stat(made / "out" / name).st_mtime_ns for name in wanted}
    gone = told[2]["file"]
    (made / "out" / gone).unlink()
    os.truncate(made / "out" / (cut := told[3]["file"]), 300)
    with open(made / "out" / manifest.MANIFEST, "a") as file:
        file.write('{"id": "000", "sa')  # of a process that was killed
    again = ("generate", "--prompts", made / "prompts.txt", "--out", made / "out", "--samples", "2", "--seed", "3")
    again = (*again, "--starting-frame", made / "out", *QUICK)
    assert "--resume" in emu(*again, status=2)
    emu(*again, "--resume", status=2)
    assert videos(made / "out") == wanted
    assert {name for name, time in times.items() if os.stat(made / "out" / name).st_mtime_ns != time} == {gone, cut}
    *_, torn, first, last = (made / "out" / manifest.MANIFEST).read_text().splitlines()
    assert torn == '{"id": "000", "sa'
    assert [json.loads(line)["file"] for line in (first, last)] == [gone, cut]


def work_of(folder: Path, *more: str, command: str = "generate") -> Any:
    arguments = [command, "--prompts", str(folder / "prompts.txt"), "--out", str(folder / "out"), *QUICK, *more]
    return read_work(build_parser().parse_args(arguments))


def test_the_files_are_the_same_whoever_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 2 by one process and by three, one after the other; then by one of two that died, and the rest."""
    listed(tmp_path, RED, BLUE, GREEN, RED)
    alone = work_of(tmp_path, "--batch", "2")
    make_share(alone)
    wanted = videos(tmp_path / "out")
    assert len(wanted) == 4
    (tmp_path / "out").rename(tmp_path / "alone")
    work = work_of(tmp_path, "--batch", "2", "--resume")
    (tmp_path / "out").mkdir()
    maker = Maker(work)
    share = shares.open_run(work, maker.fitting)
    for rank in (1, 0):
        for batch, names in share.of(rank, 2):
            list(maker.make(batch, names))
    assert videos(tmp_path / "out") == wanted
    gone = next(iter(wanted))
    (tmp_path / "out" / gone).unlink()
    share = shares.open_run(work, maker.fitting)
    assert [(len(batch), names) for batch, names in share.batches] == [(2, [Path(gone).stem])]
    for batch, names in share.of(0, 1):
        list(maker.make(batch, names))
    assert videos(tmp_path / "out") == wanted


def test_unknown_words_of_a_list_are_named_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed(tmp_path, "a big red qwertz moves right", "a small blue Qwertz moves up", "a zzz circle")
    work = work_of(tmp_path)
    Maker(work, speaks=False)
    assert not caplog.records
    maker = Maker(work)
    assert [record.getMessage().partition(" and passes")[0] for record in caplog.records] == [
        'the model does not know "Qwertz", "zzz"'
    ]
    maker.pipeline.starting_frame(work.videos[0].prompt, work.settings)
    assert len(caplog.records) == 1


def test_candidates_are_chosen_for_each(tmp_path: Path) -> None:
    listed(tmp_path, RED, BLUE)
    tiny_clip(tmp_path / "clip")
    chosen = ("--candidates", "2", "--clip", str(tmp_path / "clip"))
    make_share(work_of(tmp_path, "--batch", "2", *chosen))
    first, second = lines(tmp_path / "out")
    assert [len(each["candidates"]) for each in (first, second)] == [2, 2]
    assert first["candidates"] != second["candidates"]
    told = emu("generate", BLUE, "--seed", str(second["seed"]), "--out", tmp_path / "x.mp4", "--json", *chosen, *QUICK)
    assert json.loads(told)["candidates"] == pytest.approx(second["candidates"], abs=1e-4)


# -- pictures


def test_animate_takes_pictures_by_name_and_says_which_are_missing(tmp_path: Path) -> None:
    listed(tmp_path, RED, BLUE)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(tmp_path / "pictures" / "000.png")
    arguments = ("animate", "--images", tmp_path / "pictures", "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out")
    said = emu(*arguments, *QUICK, status=2)
    assert "1 of 2 videos are there, 1 could not be made" in said
    lost = next(line for line in lines(tmp_path / "out") if "failed" in line)
    assert "001-a-small-blue-square-moves-up-on-a-black-background.png" in lost["failed"]
    Image.new("RGB", (16, 16), (30, 30, 200)).save(tmp_path / "pictures" / "001.png")
    emu(*arguments, *QUICK, "--resume")
    kept = [line["preserved_db"] for line in lines(tmp_path / "out") if "file" in line]
    assert len(kept) == 2
    assert all(10 < each < 60 for each in kept)
    emu("animate", tmp_path / "pictures" / "001.png", BLUE, "--seed", str(lost["seed"]), "--out", tmp_path / "x.mp4", *QUICK)
    assert [*videos(tmp_path / "out").values()][1] == frames(tmp_path / "x.mp4")


def test_pictures_of_other_names_are_taken_in_order_or_refused(tmp_path: Path) -> None:
    listed(tmp_path, RED, BLUE)
    (tmp_path / "pictures").mkdir()
    for name in ("left10.png", "left9.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / "pictures" / name)
    work = work_of(tmp_path, "--images", str(tmp_path / "pictures"), command="animate")
    assert [video.image.name for video in work.videos] == ["left9.png", "left10.png"]
    Image.new("RGB", (16, 16)).save(tmp_path / "pictures" / "left11.png")
    with pytest.raises(ValueError, match="as many as there are prompts"):
        work_of(tmp_path, "--images", str(tmp_path / "pictures"), command="animate")
    with pytest.raises(ValueError, match="column image"):
        work_of(tmp_path, command="animate")
    for name in ("left11.png", "left10.png", "left9.png"):
        (tmp_path / "pictures" / name).unlink()
    for name in ("000.png", "000.webp"):
        Image.new("RGB", (16, 16)).save(tmp_path / "pictures" / name)
    with pytest.raises(ValueError, match=r"expected one image of a prompt, found 000\.png and 000\.webp"):
        work_of(tmp_path, "--images", str(tmp_path / "pictures"), command="animate")


# -- refused, and nothing lost


def test_another_run_is_refused_and_told_where_it_differs(made: Path) -> None:
    before = sorted(path.name for path in (made / "out").iterdir())
    again = ("generate", "--prompts", made / "prompts.txt", "--out", made / "out", "--samples", "2", *QUICK, "--resume")
    said = emu(*again, "--seed", "4", "--starting-frame", made / "out", status=2)
    assert "seed was 3, is 4 now" in said
    assert "batch 1, found 3" in emu(*again, "--seed", "3", "--starting-frame", made / "out", "--batch", "3", status=2)
    listed(made / "out" / "..", RED, BLUE)
    assert "prompts was" in emu(*again, "--seed", "3", "--starting-frame", made / "out", status=2)
    listed(made / "out" / "..", RED, f"(({BLUE}:nan))", BLUE)
    assert sorted(path.name for path in (made / "out").iterdir()) == before


@pytest.mark.parametrize("rank", [0, 1])
def test_two_runs_into_one_folder(tmp_path: Path, rank: int) -> None:
    listed(tmp_path, RED)
    (tmp_path / "out").mkdir()
    other = OwnerLock(tmp_path / "out" / manifest.LOCKS.replace("*", str(rank)))
    other.take()
    try:
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
            make_share(work_of(tmp_path))
    finally:
        other.release()
    assert not [*(tmp_path / "out").glob("*.mp4")]


def test_what_we_did_not_write_is_not_overwritten(tmp_path: Path) -> None:
    listed(tmp_path, RED)
    mine = tmp_path / "out" / "000-a-big-red-circle-moves-right-on-a-white-background.mp4"
    mine.parent.mkdir()
    mine.write_text("mine")
    said = emu("generate", "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out", *QUICK, status=2)
    assert "nothing is overwritten that this did not write" in said
    assert (mine.read_text(), [*mine.parent.iterdir()]) == ("mine", [mine])


def test_a_disk_that_is_almost_full_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a writer refuses since there is little room is not of one video."""
    listed(tmp_path, RED, BLUE)
    work, free = work_of(tmp_path), iter([1 << 40])
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: real(folder)._replace(free=next(free, 1 << 20)))
    with pytest.raises(ValueError, match="at least 16 MB free in .* 1 of 2 videos are in"):
        make_share(work)
    assert [each["id"] for each in lines(tmp_path / "out")] == ["000"]


def test_a_full_disk_in_the_middle_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(tmp_path, RED, BLUE, GREEN)
    write, count = media.write_video, iter(range(9))

    def full(*args: Any, **settings: Any) -> None:
        if next(count) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*args, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(media, "write_video", full)
        with pytest.raises(ValueError, match=r"out: No space left on device\. 1 of 3 videos are in .*: go on with --resume"):
            make_share(work_of(tmp_path))
    assert len(lines(tmp_path / "out")) == 1
    _, entries = make_share(work_of(tmp_path, "--resume"))
    assert (len(entries), len(videos(tmp_path / "out"))) == (2, 3)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="NOT CHECKED: this system has no /dev/full")
def test_a_line_that_does_not_fit_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest.append(tmp_path, {"id": "a", "sample": 0})
    before = (tmp_path / manifest.MANIFEST).read_bytes()
    real = open

    class Short:
        """Takes some bytes of a line, and then the disk is full."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = real(*args, **kwargs)
            self.taken = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Short:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            if self.taken:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.taken = self.file.write(data[:5])
            return self.taken

    monkeypatch.setattr("builtins.open", Short)
    with pytest.raises(OSError, match="No space"):
        manifest.append(tmp_path, {"id": "b", "sample": 0})
    monkeypatch.undo()
    assert (tmp_path / manifest.MANIFEST).read_bytes() == before


def test_a_fault_of_every_video_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(tmp_path, *[RED] * 9)
    monkeypatch.setattr(Maker, "_one", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="first 3 videos all failed alike: ZeroDivisionError"):
        make_share(work_of(tmp_path))


def test_ctrl_c_says_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    listed(tmp_path, RED, BLUE)
    one, count = Maker._one, iter(range(9))

    def interrupted(*args: Any) -> Any:
        if next(count) == 1:
            raise KeyboardInterrupt
        return one(*args)

    monkeypatch.setattr(Maker, "_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_share(work_of(tmp_path))
    assert "1 of 2 videos are in" in capsys.readouterr().err


def test_a_broken_line_among_many_is_listed(tmp_path: Path) -> None:
    rows = [json.dumps({"id": f"p{number}", "prompt": RED}) for number in range(10_000)]
    rows[5_000] = '{"id": "p5000", "prompt":'
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    arguments = ["generate", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out")]
    work = read_work(build_parser().parse_args(arguments))
    assert len(work.videos) == 9_999
    assert work.videos[5_000].stem.startswith("5001-")  # the others keep their numbers
    assert [place for place, _ in work.left_out] == ["entry 5001 (line 5001)"]


SECOND = ("--system", "b:")
WRONG: dict[str, Callable[[Path], list[Any]]] = {
    "name it with --prompts": lambda here: ["generate", RED, "--samples", "2", "--out", here / "x.mp4"],
    "expected a prompt, or a list of them": lambda here: ["generate", "--out", here / "x.mp4"],
    "expected all prompts in the list": lambda here: ["generate", RED, "--prompts", "toy", "--out", here / "x"],
    "--sheet is of one video": lambda here: ["generate", "--prompts", "toy", "--out", here / "x", "--sheet", "x.png"],
    "--samples must be": lambda here: ["generate", "--prompts", "toy", "--out", here / "x", "--samples", "0"],
    "--batch must be": lambda here: ["generate", "--prompts", "toy", "--out", here / "x", "--batch", "0"],
    "--threads must be": lambda here: ["generate", "--prompts", "toy", "--out", here / "x", "--threads", "0"],
    "--processes must be": lambda here: ["generate", "--prompts", "toy", "--out", here / "x", "--processes", "0"],
    "expected --engine ray": lambda here: ["generate", "--prompts", "toy", "--out", here / "x", "--address", "auto"],
    "expected the folder": lambda here: ["generate", "--prompts", "toy", "--out", here / "no" / "x"],
    "--only-starting-frames is for": lambda here: ["generate", RED, "--only-starting-frames", "--out", here / "x.mp4"],
    "no prompt can be used": lambda here: ["generate", "--prompts", listed(here, "(a:nan)"), "--out", here / "x"],
    "two or more systems": lambda here: ["compare", "--prompts", "toy", "--out", here / "x", "--system", "a:"],
    "'NAME: OPTIONS'": lambda here: ["compare", "--prompts", "toy", "--out", here / "x", "--system", "a/b: --steps 2"],
    "found 'a' again": lambda here: ["compare", "--prompts", "toy", "--out", here / "x", "--system", "a:", "--system", "a:"],
    "is one for all systems": lambda here: ["compare", "--prompts", "toy", "--out", here / "x", "--system", "a: --seed 3"],
    "unrecognized arguments": lambda here: ["compare", "--prompts", "toy", "--out", here / "x", "--system", "a: --nothing 3"],
    "No closing quotation": lambda here: ["compare", "--prompts", "toy", "--out", here / "x", "--system", "a: --steps '3"],
    "steps must be": lambda here: [
        "compare",
        "--prompts",
        "toy",
        "--out",
        here / "x",
        "--system",
        "a: --steps 0",
        "--system",
        "b:",
    ],
}


@pytest.mark.parametrize("said", WRONG)
def test_what_cannot_be_is_a_sentence(said: str, tmp_path: Path) -> None:
    arguments = WRONG[said](tmp_path)
    before = sorted(tmp_path.iterdir())
    assert said in emu(*arguments, status=2)
    assert sorted(tmp_path.iterdir()) == before


# -- systems


def systems_of(folder: Path, *systems: str) -> list[str]:
    prompts = ["compare", "--prompts", str(folder / "prompts.txt"), "--out", str(folder / "out"), *QUICK]
    return [*prompts, *(part for system in systems for part in ("--system", system))]


def test_systems_with_one_image_model_share_pictures(tmp_path: Path) -> None:
    listed(tmp_path, RED)
    options = ("plain:", "strong: --text-guidance 9 --frames 3", "small: --size 8 --negative 'a red'", "small2: --size 8")
    parts = plan(build_parser().parse_args(systems_of(tmp_path, *options)))
    told = [(part.command, Path(part.out).name, Path(getattr(part, "images", "") or "").name) for part in parts]
    assert told == [
        ("generate", "starting_frames", ""),
        ("animate", "plain", "starting_frames"),
        ("animate", "strong", "starting_frames"),
        ("generate", "starting_frames-2", ""),
        ("animate", "small", "starting_frames-2"),
        ("animate", "small2", "starting_frames-2"),
    ]
    assert [part.frames for part in parts] == [2, 2, 3, 2, 2, 2]
    assert [getattr(part, "negative", None) for part in parts] == [None, None, None, "a red", "a red", None]
    given = [vars(build_parser().parse_args(arguments(part))) for part in parts]
    assert [{name: each[name] for name in each if name != "verbose"} for each in given] == [vars(part) for part in parts]


def test_systems_begin_with_the_same_pictures(tmp_path: Path) -> None:
    """Each sample with that of its own."""
    listed(tmp_path, RED)
    told = emu(*systems_of(tmp_path, "plain:", "strong: --text-guidance 9"), "--samples", "2", "--json")
    assert [json.loads(line)["videos"] for line in told.splitlines()] == [2] * 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"plain", "strong", "starting_frames"}
    plain, strong = (videos(tmp_path / "out" / name) for name in ("plain", "strong"))
    assert plain.keys() == strong.keys()
    assert plain != strong
    first = lines(tmp_path / "out" / "strong")[1]
    frame = next((tmp_path / "out" / "starting_frames").glob("000*-1.png"))
    emu("animate", frame, RED, "--seed", str(first["seed"]), "--text-guidance", "9", "--out", tmp_path / "x.mp4", *QUICK)
    assert strong[first["file"]] == frames(tmp_path / "x.mp4")
