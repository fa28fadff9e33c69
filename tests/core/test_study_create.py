"""Making a study: prompts, matching of files, videos as browsers play them; and the commands."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from emu_core.cli.main import main
from emu_core.evaluation.prompts import Prompt
from emu_core.evaluation.videos import open_set
from emu_core.media import Unreadable, read_video, write_video
from emu_core.study.create import create_study, one_video_each
from emu_core.study.store import Study
from emu_core.study.videos import FIXED_TIME, prepare_video

from ..study import worlds
from ..study.serving import Serving
from .test_media import encode as encode_pictures
from .test_media import full_disk


def clip(frames: int = 6, height: int = 48, width: int = 64) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([torch.stack([x * 0.8 + t / 40, y, 0 * x + 0.4], -1) for t in range(frames)]).clamp(0, 1)


def decoded(file: Path) -> list[np.ndarray]:
    with av.open(str(file)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def encode(file: Path, frames: torch.Tensor, **settings: Any) -> None:
    encode_pictures(file, list((frames * 255).byte().numpy()), [*range(len(frames))], **settings)


# -- videos


def test_a_playable_video_keeps_its_pictures_and_loses_its_traces(tmp_path: Path) -> None:
    source = tmp_path / "source.mp4"
    write_video(source, clip(), 8, {"prompt": "SECRET", "model": "SECRET"})
    made = prepare_video(source, tmp_path / "made.mp4")
    assert not made.reencoded
    assert (made.width, made.height, made.frames, made.seconds) == (64, 48, 6, 0.75)
    assert all(np.array_equal(a, b) for a, b in zip(decoded(source), decoded(made.path), strict=True))
    content = made.path.read_bytes()
    assert b"x264" in source.read_bytes()
    assert not any(trace in content for trace in (b"SECRET", b"x264", b"Lavf", b"Lavc"))
    assert content.index(b"moov") < content.index(b"mdat")  # playing starts before all of it is there
    assert made.path.stat().st_mtime == FIXED_TIME


@pytest.mark.parametrize("name", ["a.webm", "a.mkv", "a.gif", "a.webp", "frames"])
def test_other_formats_are_encoded(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / name, clip(), 8)
    made = prepare_video(tmp_path / name, tmp_path / "made.mp4")
    video = read_video(made.path)
    assert made.reencoded
    assert (video.frames.shape, video.fps) == ((6, 48, 64, 3), 8)
    assert (video.frames - clip()).abs().mean() < 0.02
    with av.open(str(made.path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")


@pytest.mark.parametrize(
    ("pixels", "codec", "size"),
    [("yuv444p", "libx264", (48, 64)), ("yuv444p", "libx264", (47, 63)), ("yuv420p", "libx265", (48, 64))],
)
def test_what_browsers_do_not_play_is_encoded(tmp_path: Path, pixels: str, codec: str, size: tuple[int, int]) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    encode(tmp_path / "a.mp4", clip(6, *size), pixels=pixels, codec=codec)
    made = prepare_video(tmp_path / "a.mp4", tmp_path / "made.mp4")
    assert made.reencoded
    assert (made.height, made.width, made.frames) == (size[0] // 2 * 2, size[1] // 2 * 2, 6)


def test_oblong_pixels_become_square(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", clip(), aspect=Fraction(2))
    made = prepare_video(tmp_path / "a.mp4", tmp_path / "made.mp4")
    assert (made.width, made.height) == (128, 48)


def test_sound_is_left_out(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream, sound = container.add_stream("libx264", rate=8), container.add_stream("aac", rate=8000)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in (clip() * 255).byte().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 6000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    made = prepare_video(tmp_path / "a.mp4", tmp_path / "made.mp4")
    with av.open(str(made.path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize("kind", ["text", "cut", "empty", "picture", "missing"])
def test_what_is_no_video_is_refused_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.mp4"
    write_video(file, clip(), 8)
    if kind == "picture":
        Image.new("RGB", (32, 32)).save(file, "PNG")
    elif kind == "missing":
        file.unlink()
    else:
        file.write_bytes({"text": b"hello" * 99, "cut": file.read_bytes()[:-400], "empty": b""}[kind])
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"a\.mp4: expected a video"):
        prepare_video(file, tmp_path / "out" / "made.mp4")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_picture_of_one_pixel_is_refused_with_its_size(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "a.gif")
    with pytest.raises(Unreadable, match=r"a\.gif: expected sides of at least 8 px, found 1 x 1"):
        prepare_video(tmp_path / "a.gif", tmp_path / "made.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif"])
def test_a_full_disk_is_not_the_videos_fault(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / name, torch.rand(6, 48, 64, 3, generator=torch.Generator().manual_seed(0)), 8)
    (tmp_path / "out").mkdir()
    for limit in (0, 9000):
        with full_disk(limit), pytest.raises(ValueError, match=r"made\.mp4: expected to write .* free some space") as error:
            prepare_video(tmp_path / name, tmp_path / "out" / "made.mp4")
        assert not isinstance(error.value, Unreadable)
        assert list((tmp_path / "out").iterdir()) == []


# -- one video of each prompt

PROMPTS = [Prompt("000", "A red cat, running!"), Prompt("001", "Ein größerer Hund"), Prompt("002", "../upstairs")]


@pytest.mark.parametrize(
    "names",
    [
        ["0.mp4", "1.webm", "2.gif"],
        ["1.mp4", "2.mp4", "3.mp4"],
        ["0000.mp4", "0001.mp4", "00002.mp4"],
        ["000-a-red-cat-running.mp4", "001-ein-groerer-hund.mp4", "002-upstairs.mp4"],  # as `equalise` writes them
        ["a_red_cat_running.mp4", "ein_größerer_hund.mp4", "upstairs.mp4"],
        ["A red cat, running!.mp4", "Ein größerer Hund.mpg", "02.ts"],
        ["a-red-cat-running.MP4", "1.mp4", "2.mp4"],
    ],
)
def test_videos_are_found_by_number_text_or_slug(tmp_path: Path, names: list[str]) -> None:
    for name in [*names, "notes.txt", ".hidden.mp4", "unrelated.mp4"]:
        (tmp_path / name).touch()
    assert [file.name for file in one_video_each(open_set("", tmp_path), PROMPTS)] == names


def test_ids_win_over_numbers(tmp_path: Path) -> None:
    for name in ("1.mp4", "x.mp4"):
        (tmp_path / name).touch()
    found = one_video_each(open_set("", tmp_path), [Prompt("x", "a"), Prompt("1", "b")])
    assert [file.name for file in found] == ["x.mp4", "1.mp4"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["0.mp4", "1.mp4"], r"exactly one video of the prompt '\.\./upstairs' \(such as 002\.mp4 or .*found none"),
        (["0.mp4", "00.mp4", "1.mp4", "2.mp4"], r"'A red cat, running!' .*found 0\.mp4 and 00\.mp4"),
        (["0.mp4", "0.webm", "1.mp4", "2.mp4"], "found 0.mp4 and 0.webm"),
        ([], "expected videos .*found none"),
    ],
)
def test_a_prompt_without_its_one_video(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=words) as refused:
        one_video_each(open_set("", tmp_path), PROMPTS)
    assert str(tmp_path) in str(refused.value)


# -- studies


def test_every_two_systems_or_one_against_the_others(tmp_path: Path, systems: dict[str, Path], prompts: Path) -> None:
    made = create_study(tmp_path / "all", systems, prompts)
    assert (made["pairs"], made["prompts"], made["systems"], made["playable"]) == (6, 2, 3, 6)
    made = create_study(tmp_path / "one", systems, prompts, against="frozen")
    with Study(tmp_path / "one") as study:
        assert {(pair.first, pair.second) for pair in study.results().pairs} == {("ours", "frozen"), ("blurred", "frozen")}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["all", "one", "prompts.txt"]
    (tmp_path / "all").rename(tmp_path / "moved")
    with Study(tmp_path / "moved") as study:
        rater = study.join("r")[0]
        task = study.next_pair(rater)
        assert task is not None
        assert study.video_file(rater, task.left).is_file()


def broken(systems: dict[str, Path], folder: Path, *names: str) -> Path:
    """A copy of the first system in which these videos are none."""
    made = Path(shutil.copytree(systems["ours"], folder))
    for name in names:
        (made / name).write_bytes(b"no video")
    return made


def test_a_failure_leaves_nothing(tmp_path: Path, systems: dict[str, Path], prompts: Path) -> None:
    bad = broken(systems, tmp_path / "broken", "000.mp4", "001.mp4")
    found = r"two videos of a prompt that can be read, found none:\n.*000.mp4: expected a video.*\n.*001.mp4: expected a video"
    with pytest.raises(ValueError, match=found):
        create_study(tmp_path / "out", {"ours": systems["ours"], "broken": bad}, prompts)
    with pytest.raises(ValueError, match="--against"):
        create_study(tmp_path / "out", systems, prompts, against="other")
    with pytest.raises(ValueError, match="new or empty folder"):
        create_study(bad, systems, prompts)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken", "prompts.txt"]


@pytest.mark.parametrize(
    ("wrong", "against", "pairs"),
    [
        (["000.mp4"], None, ["0 blurred frozen", "1 b blurred", "1 b frozen", "1 blurred frozen"]),
        (["001.mp4"], "b", ["0 b blurred", "0 b frozen"]),
        (["000.mp4", "001.mp4"], None, ["0 blurred frozen", "1 blurred frozen"]),
    ],
)
def test_what_cannot_be_read_is_listed_and_left_out(
    tmp_path: Path, systems: dict[str, Path], prompts: Path, wrong: list[str], against: str | None, pairs: list[str]
) -> None:
    """Its pairs alone; the systems stay in the order given, and no video is there that is in no pair."""
    bad = broken(systems, tmp_path / "broken", *wrong)
    given = {"b": bad, "blurred": systems["blurred"], "frozen": systems["frozen"]}
    made = create_study(tmp_path / "out", given, prompts, against)
    for name, why in zip(wrong, made["left_out"], strict=True):
        assert f"{bad / name}: expected a video" in why
    with Study(tmp_path / "out") as study:
        assert [f"{int(pair.prompt)} {pair.first} {pair.second}" for pair in study.results().pairs] == pairs
        files = {row[0] for row in study._all("SELECT file FROM videos")}
    assert {file.name for file in (tmp_path / "out" / "videos").iterdir()} == files


def test_the_command_lists_what_is_left_out(
    tmp_path: Path, systems: dict[str, Path], prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And goes on; a second run to another folder is the same."""
    bad = broken(systems, tmp_path / "broken", "001.mp4")
    for out in ("one", "two"):
        assert main(["study", "create", str(tmp_path / out), str(bad), str(systems["frozen"]), "--prompts", str(prompts)]) == 0
        told = capsys.readouterr()
        assert f"left out: {bad / '001.mp4'}: expected a video" in told.err
        assert "1 pairs of 1 prompts and 2 systems" in told.out
        assert "1 videos could not be read; their pairs are left out" in told.out


def test_all_missing_videos_are_named_at_once(tmp_path: Path) -> None:
    prompts = [Prompt(f"{number:03d}", f"text {number}") for number in range(60)]
    for number in range(0, 60, 2):
        (tmp_path / f"{number:03d}.mp4").touch()
    with pytest.raises(ValueError, match=r"'text 1'.*") as refused:
        one_video_each(open_set("", tmp_path), prompts)
    told = str(refused.value)
    assert (told.count("expected exactly one video"), told.splitlines()[-1]) == (20, "And 10 more prompts.")


def test_one_system_alone_is_refused(tmp_path: Path, systems: dict[str, Path], prompts: Path) -> None:
    with pytest.raises(ValueError, match="at least two folders to compare, found 1"):
        create_study(tmp_path / "out", {"ours": systems["ours"]}, prompts)


def test_equalised_sets_become_a_study(tmp_path: Path, systems: dict[str, Path], prompts: Path) -> None:
    """The same file of prompts, with a comment in it, through both commands."""
    prompts.write_text("# two clips\n" + prompts.read_text())
    folders = [str(folder) for folder in systems.values()]
    assert main(["equalise", *folders, str(tmp_path / "alike"), "--prompts", str(prompts), "--playable"]) == 0
    made = [str(tmp_path / "alike" / name) for name in systems]
    assert main(["study", "create", str(tmp_path / "study"), *made, "--prompts", str(prompts)]) == 0
    with Study(tmp_path / "study") as study:
        assert (study.counts()["pairs"], list(study.results().prompts)) == (6, ["000", "001"])


def test_pairs_are_added_while_a_server_has_the_study(tmp_path: Path, systems: dict[str, Path], prompts: Path) -> None:
    create_study(tmp_path / "study", systems, prompts)
    with Serving(tmp_path / "study") as serving, Study(tmp_path / "study") as study:
        assert "this computer only" in serving.first_line
        with pytest.raises(RuntimeError, match=rf"served by process {serving.process.pid} on .*; stop that one first"):
            Serving(tmp_path / "study")
        one, other = systems["ours"] / "000.mp4", systems["frozen"] / "000.mp4"
        assert study.add_pair("<b>new</b> ../x", {"ours": one, "new system": other}) == 1
        assert study.add_pair("again", {"new system": other, "ours": one, "blurred": one}, key="mine") == 3
        for videos, words in (({"ours": one}, "at least two"), ({"ours": one, "b": prompts}, "prompts.txt: expected a video")):
            with pytest.raises(ValueError, match=words):
                study.add_pair("x", videos)
        with pytest.raises(ValueError, match="'mine': expected a key that is new"):
            study.add_pair("x", {"ours": one, "b": other}, key="mine")
        assert (study.counts()["pairs"], study.counts()["prompts"]) == (10, 4)
        assert len(list((study.folder / "videos").iterdir())) == 6 + 2 + 3  # nothing is left of the failures
        code, out, errors = serving.stop()
    assert (code, errors) == (0, "")
    assert out.endswith("Stopped.\n")


def test_commands(tmp_path: Path, systems: dict[str, Path], prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, folders = str(tmp_path / "study"), [str(folder) for folder in systems.values()]
    worlds.run("create", study, *folders, "--prompts", str(prompts), "--raters", "3", "--title", "T", "--against", "ours")
    assert "4 pairs of 2 prompts and 3 systems, 12 votes to give." in capsys.readouterr().out
    with Study(study) as opened:
        worlds.vote_all(opened, 3, 0.8)
    worlds.run("report", study, "--json")
    report = capsys.readouterr().out
    assert json.loads(report)["study"]["complete_pairs"] == 4
    worlds.run("report", study)
    assert capsys.readouterr().out.startswith("# T\n")
    worlds.run("report", study, "--out", str(tmp_path / "report"), "--json")
    assert capsys.readouterr().out == report == (tmp_path / "report" / "report.json").read_text()
    for kind in ("csv", "json"):
        file = str(tmp_path / f"export.{kind}")
        worlds.run("export", study, file)
        worlds.run("import", file, str(tmp_path / kind))
        worlds.run("import", file, study)
        assert "0 new votes, 12 that were there already" in capsys.readouterr().out
        for source in (file, str(tmp_path / kind)):
            worlds.run("report", source, "--json")
            assert capsys.readouterr().out == report
    with pytest.raises(ValueError, match="expected a study with videos"):
        worlds.run("serve", str(tmp_path / "csv"))


def test_serve_says_who_can_reach_it_and_gives_links(tmp_path: Path, systems: dict[str, Path], prompts: Path) -> None:
    create_study(tmp_path / "study", systems, prompts)
    with Serving(tmp_path / "study", "--host", "0.0.0.0", "--tokens", "2") as serving:
        out = serving.stop()[1]
    assert "listens on 0.0.0.0; open to only raters with a token" in out
    assert out.count("#token=") == 2
    create_study(tmp_path / "other", systems, prompts)
    with Serving(tmp_path / "study") as serving:
        port = int(serving.address.rstrip("/").rsplit(":", 1)[1])
        with pytest.raises(RuntimeError, match="expected an address that is free"):
            Serving(tmp_path / "other", port=port)


def test_progress_is_reported(tmp_path: Path, systems: dict[str, Path], prompts: Path) -> None:
    seen: list[Any] = []
    create_study(tmp_path / "study", systems, prompts, progress=lambda work: seen.extend(work) or work)
    assert seen == [(index, name) for index in range(2) for name in worlds.SYSTEMS]
