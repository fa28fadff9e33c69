"""Sets of videos: prompts, matching, whole reports, systems of known order, broken files, memory."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emu_core import media
from emu_core.cli import evaluate as command
from emu_core.evaluation import metrics
from emu_core.evaluation.export import export_evalcrafter, export_vbench
from emu_core.evaluation.prompts import Prompt, bundled_sets, check_images, file_stem, read_prompts, slug, with_images
from emu_core.evaluation.report import as_json, as_markdown, write_report
from emu_core.evaluation.sets import REFERENCE_NEEDS, Evaluation, measure_reference, measure_set
from emu_core.evaluation.videos import match, open_sets
from emu_core.networks import I3D, Inception, Networks

from .evaluation_tiny import FrameNet, VideoNet, script, tiny_clip, toy_systems, toy_video

TOY = read_prompts("toy")[:12]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Conditioning images, and the folders of three systems: real renders, their frames shuffled, noise."""
    return toy_systems(tmp_path_factory.mktemp("toy"), TOY)


def options(**given: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    return argparse.Namespace(**{**vars(parser.parse_args(["evaluate", "toy"])), "device": "cpu", **given})


# -- prompts


def test_bundled_sets() -> None:
    sizes = {"general": 50, "lecture": 12, "little": 40, "toy": 40, "ucf101": 101}
    assert {name: len(read_prompts(name)) for name in bundled_sets()} == sizes
    assert [prompt.id for prompt in read_prompts("lecture")[:3]] == ["dolphins", "unicorns", "giraffe"]
    assert all(prompt.image is None for prompt in read_prompts("ucf101"))
    assert read_prompts("ucf101")[0].id == "ApplyEyeMakeup"


def test_prompts_in_all_formats_say_the_same(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [{"id": "x", "prompt": 'one, "two"', "image": "a.png"}, {"id": "y", "prompt": "drei ü"}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "p.csv").write_text('id,prompt,image\nx,"one, ""two""",a.png\ny,drei ü,\n')
    (tmp_path / "q.json").write_text(json.dumps({"x": rows[0], "y": "drei ü"}))
    expected = [Prompt("x", 'one, "two"', tmp_path / "a.png"), Prompt("y", "drei ü")]
    for name in ("p.json", "p.jsonl", "p.csv", "q.json"):
        assert read_prompts(tmp_path / name) == expected
    (tmp_path / "p.txt").write_text("# ours\none\n\n  two   words \n")
    assert read_prompts(tmp_path / "p.txt") == [Prompt("000", "one"), Prompt("001", "two words")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "# nothing\n", "found none"),
        ("p.json", '[{"prompt": ""}]', "expected a prompt in entry 1"),
        ("p.json", "{", "expected prompts as .json"),
        ("p.json", "[3]", "neither text nor an object"),
        ("p.csv", "id,prompt\na,b\na,c\n", "found 'a' again"),
        ("p.csv", "prompt,image\nb,no.png\n", "no such file"),
        ("p.xls", "", "found .xls"),
        ("p.txt", b"\xff\xfe\xff", "UTF-8"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(name: str, content: str | bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=said):
        read_prompts(tmp_path / name)
    with pytest.raises(ValueError, match="bundled set"):
        read_prompts("nowhere")


def test_slugs_are_safe_names() -> None:
    assert slug('../A café, <b>"x"</b>!') == "a-cafe-b-x-b"
    assert len(slug("word " * 50)) <= 60
    assert file_stem(7, "日本") == "007"


# -- matching


def _touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


PROMPTS = [Prompt("000", "A red fox runs"), Prompt("001", "7 cats sit, quietly"), Prompt("002", "Rain")]


@pytest.mark.parametrize(
    "names",
    [
        ("000.mp4", "001.mp4", "002.mp4"),
        ("0.mp4", "1.webm", "2.gif"),
        ("000-a-red-fox-runs.mp4", "001-7-cats-sit-quietly.mp4", "002-rain.mp4"),
        ("A red fox runs-0.mp4", "7 cats sit, quietly-0.mp4", "Rain-0.mp4"),
        ("a-red-fox-runs.mp4", "7-cats-sit-quietly.mp4", "rain.mp4"),
        ("1.mp4", "2.mp4", "3.mp4"),
        ("video_a_red_fox_runs.mp4".removeprefix("video_"), "0001_7_cats_sit_quietly.mp4", "2-seed5.mp4"),
    ],
)
def test_videos_find_their_prompts_by_name(names: tuple[str, ...], tmp_path: Path) -> None:
    found = match(open_sets([str(_touch(tmp_path / "s", *names))])[0], PROMPTS)
    wanted = [(prompt.id, [name]) for prompt, name in zip(PROMPTS, names, strict=True)]
    assert [(prompt.id, [file.name for file in files]) for prompt, files in found.found] == wanted
    assert not found.missing
    assert not found.extra


def test_several_videos_of_a_prompt_are_its_samples_and_the_rest_is_named(tmp_path: Path) -> None:
    folder = _touch(tmp_path / "s", "Rain-0.mp4", "Rain-1.mp4", "Rain-2.mp4", "other.mp4", "notes.txt", ".hidden.mp4")
    media.write_video(folder / "told.mp4", torch.rand(3, 16, 16, 3), 8.0, {"prompt": "a red  FOX runs"})
    media.write_video(folder / "nested.mp4", torch.rand(3, 16, 16, 3), 8.0, {"prompt": "[" * 100_000})
    found = match(open_sets([f"mine={folder}"])[0], PROMPTS)
    assert [(prompt.id, len(files)) for prompt, files in found.found] == [("000", 1), ("002", 3)]
    assert ([prompt.id for prompt in found.missing], [file.name for file, _ in found.extra]) == (
        ["001"],
        ["nested.mp4", "other.mp4"],
    )


def test_sets_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    _touch(tmp_path / "a" / "s", "x.mp4")
    _touch(tmp_path / "b" / "s", "x.mp4")
    _touch(tmp_path / "c", "x.txt")
    with pytest.raises(ValueError, match="two called 's'"):
        open_sets([str(tmp_path / "a" / "s"), str(tmp_path / "b" / "s")])
    assert [each.name for each in open_sets([str(tmp_path / "a" / "s"), f"t={tmp_path}/b/s"])] == ["s", "t"]
    with pytest.raises(ValueError, match="expected a plain name"):
        open_sets([f"../up={tmp_path}/b/s"])
    for place, said in ((tmp_path / "c", "found none"), (tmp_path / "d", "found nothing"), (tmp_path / "c" / "x.txt", "a file")):
        with pytest.raises(ValueError, match=said):
            open_sets([str(place)])


# -- systems of known order


@pytest.mark.slow
def test_three_toy_systems_come_out_in_their_true_order(toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, folders = toy
    Path(tmp_path / "p.txt").write_text("\n".join(prompt.text for prompt in TOY))
    i3d, inception = script(VideoNet(), tmp_path / "i3d.pt"), script(FrameNet(), tmp_path / "inception.pt")
    (tmp_path / "i3d.pt.json").write_text('{"size": 16, "frames": 8}')
    (tmp_path / "inception.pt.json").write_text('{"size": 16}')
    given = {"prompts": str(tmp_path / "p.txt"), "images": str(images), "out": str(tmp_path / "out"), "reference": folders[0]}
    networks = {"clip": str(tiny_clip(tmp_path / "clip")), "i3d": str(i3d), "inception": str(inception)}
    command.evaluate_folders(options(sets=folders, **given, **networks, save_reference=str(tmp_path / "reference.npz")))
    said = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    figures = {name: system["metrics"] for name, system in said["systems"].items()}
    worse = ("real", "shuffled", "noise")
    for key, better in (("frame_consistency", 1), ("first_frame_psnr", 1), ("pixel_mse", -1), ("fvd_i3d", -1)):
        values = [better * figures[name][key]["value"] for name in worse]
        assert values == sorted(values, reverse=True), key
        assert len(set(values)) == 3, key
    assert figures["real"]["motion_score"]["value"] < figures["shuffled"]["motion_score"]["value"]
    assert figures["real"]["fvd_i3d"]["value"] == pytest.approx(0, abs=1e-6)
    assert figures["real"]["clip_image"]["value"] > figures["noise"]["clip_image"]["value"]
    assert figures["noise"]["colour_drift"]["value"] > figures["real"]["colour_drift"]["value"]
    differences = {(d["a"], d["b"], d["metric"]): d for d in said["differences"]}
    assert differences["real", "shuffled", "frame_consistency"]["low"] > 0  # not by chance
    assert figures["real"]["aesthetic"] == {"not_computed": f"needs {metrics.AESTHETIC.needs}"}
    assert said["networks"]["clip"]["sha256"]
    assert any("rest on 12 videos" in warning for warning in said["warnings"])
    for name in ("metrics.png", "prompts.png", "motion_consistency.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 500
            assert len(picture.convert("L").getcolors()) > 20
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "evaluation.md").read_text() in printed
    assert "(⚠ 12 of 10000 videos)" in printed
    assert not list(tmp_path.rglob("*.part"))
    again = measure_reference(str(tmp_path / "reference.npz"), Networks(i3d=I3D(i3d))).statistics["fvd_i3d"]
    assert again.count == 12


def test_without_networks_every_metric_says_what_it_needs(toy: tuple[Path, list[str]], tmp_path: Path) -> None:
    result = measure_set(open_sets(toy[1])[0], TOY)
    evaluation = Evaluation([result], TOY, "p.txt")
    table, said = as_markdown(evaluation), as_json(evaluation)["systems"]["real"]["metrics"]
    by_video = metrics.CLIP_TEXT, metrics.CLIP_IMAGE, metrics.CONSISTENCY, metrics.AESTHETIC, metrics.FIRST_FRAME
    for metric in (*by_video, *metrics.SET_METRICS):
        assert said[metric.key] == {"not_computed": f"needs {metric.needs}"}
        row = next(line for line in table.splitlines() if line.startswith(f"| {metric.label} |"))
        assert f"| not computed: needs {metric.needs} |" in row
    assert "value" in said["pixel_mse"]
    assert "value" in said["motion_score"]
    written = write_report(evaluation, tmp_path / "out")  # panels with nothing but a sentence
    assert all(path.stat().st_size > 1000 for path in written)


def test_fvd_without_a_reference_and_short_videos_say_so(toy: tuple[Path, list[str]], tmp_path: Path) -> None:
    file = script(VideoNet(), tmp_path / "i3d.pt")
    sets = open_sets(toy[1])[0]
    networks = Networks(i3d=I3D(file))  # sees 16 frames, the videos have 8
    assert measure_set(sets, TOY, networks).reasons["fvd_i3d"] == f"needs {REFERENCE_NEEDS}"
    (tmp_path / "i3d.pt.json").write_text('{"size": 16, "frames": 8}')
    references = measure_reference(toy[1][0], Networks(i3d=I3D(file))).statistics
    result = measure_set(sets, TOY, networks, references)
    assert result.reasons["fvd_i3d"] == "needs 2 or more videos that are long enough, found 0"
    assert result.lacks["fewer frames than the network of fvd_i3d sees (16)"] == 12


def test_the_ucf_protocol_warns_of_few_videos_and_unbalanced_classes(toy: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, classes = tmp_path / "s", [Prompt("Archery", "archery"), Prompt("Bowling", "bowling"), Prompt("Biking", "biking")]
    folder.mkdir()
    for number, name in enumerate(["archery-0", "archery-1", "archery-2", "bowling-0"]):
        media.write_video(folder / f"{name}.webp", toy_video(TOY[number], number), 4.0)
    (tmp_path / "i.pt.json").write_text('{"size": 16}')
    networks = Networks(inception=Inception(script(FrameNet(), tmp_path / "i.pt")))
    result = measure_set(open_sets([str(folder)])[0], classes, networks)
    evaluation = Evaluation([result], classes, "classes", networks)
    said = as_json(evaluation)
    assert any("0 to 3 videos a prompt" in warning for warning in said["warnings"])
    assert said["systems"]["s"]["metrics"]["is_frames"]["count"] == 32  # frames of four videos
    assert "over splits (⚠ 4 of 10000 videos)" in as_markdown(evaluation)
    values = said["systems"]["s"]["per_prompt"]["pixel_mse"]
    assert len(values) == 3
    assert values[2] is None


def test_broken_videos_are_counted_named_and_never_fatal(toy: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    good = sorted(Path(toy[1][0]).glob("*.mp4"))
    for number, file in enumerate(good[:6]):
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[: len(data) // 2] if number == 1 else b"no video" if number == 3 else data)
    (folder / "from elsewhere.mp4").write_bytes(b"")
    result = measure_set(open_sets([str(folder)])[0], TOY)
    assert (result.measured, [file.name for file, _ in result.broken]) == (4, [good[1].name, good[3].name])
    assert all(good[n].name in why for n, (_, why) in zip((1, 3), result.broken, strict=True))
    assert len(result.matching.missing) == 6
    table = as_markdown(Evaluation([result], TOY, "p"))
    assert "| broken | | | 2 |" in table
    assert f"`{good[3].name}`" in table
    assert "from elsewhere.mp4" in table


def test_sets_of_different_shape_are_not_compared_in_silence(tmp_path: Path) -> None:
    for name, side in (("a", 32), ("b", 48)):
        (tmp_path / name).mkdir()
        media.write_video(tmp_path / name / "000.mp4", torch.rand(4, side, side, 3), 8.0)
    results = [measure_set(each, [Prompt("000", "x")]) for each in open_sets([str(tmp_path / "a"), str(tmp_path / "b")])]
    said = as_json(Evaluation(results, [Prompt("000", "x")], "p"))["warnings"]
    assert "emu-video equalise" in said[0]


def test_conditioning_images_by_name(tmp_path: Path) -> None:
    for name in ("000-a-red-fox-runs.png", "002.png", "other.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = with_images(PROMPTS, tmp_path)
    assert [prompt.image and prompt.image.name for prompt in found] == ["000-a-red-fox-runs.png", None, "002.png"]
    check_images(found)
    (tmp_path / "002.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"002\.png: expected a picture"):
        check_images(found)
    with pytest.raises(ValueError, match="expected conditioning images"):
        with_images([Prompt("x", "nobody has it")], tmp_path)


def test_toy_alone_is_the_benchmark_and_anything_else_folders(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, Any]] = []
    monkeypatch.setattr(command, "evaluate_toy", lambda o: called.append(("toy", o.prompts)))
    monkeypatch.setattr(command, "evaluate_folders", lambda o: called.append(("folders", o.prompts)))
    for sets, prompts in ((["toy"], None), (["toy"], "12"), (["toy", "b"], "p.txt"), (["./toy"], "p.txt")):
        command.evaluate(options(sets=sets, prompts=prompts, videos=None))
    assert called == [("toy", 200), ("toy", 12), ("folders", "p.txt"), ("folders", "p.txt")]
    with pytest.raises(ValueError, match="give a number"):
        command.evaluate(options(sets=["toy"], prompts="p.txt", videos=None))
    with pytest.raises(ValueError, match="--videos"):
        command.evaluate(options(sets=["a"], prompts="p.txt", videos="b"))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="--prompts"):
        command.evaluate(options(sets=[toy[1][0]], prompts=None, videos=None))


# -- exports


def test_exports_have_the_names_that_the_tools_expect(tmp_path: Path) -> None:
    folder, prompts = tmp_path / "s", [Prompt("000", 'a "b" / c?'), Prompt("001", "d e")]
    folder.mkdir()
    for name in ("000.mp4", "001-0.mp4", "001-1.mp4"):
        media.write_video(folder / name, torch.rand(3, 16, 16, 3), 8.0)
    media.write_video(folder / "1_frames", torch.rand(3, 17, 16, 3), 8.0)
    result = measure_set(open_sets([str(folder)])[0], prompts)
    assert export_vbench([result], tmp_path / "vbench") == 4
    told = json.loads((tmp_path / "vbench" / "s.json").read_text())
    assert told == {"s/a  b    c-0.mp4": 'a "b" / c?', "s/d e-0.mp4": "d e", "s/d e-1.mp4": "d e", "s/d e-2.mp4": "d e"}
    assert all(len(media.read_video(tmp_path / "vbench" / name).frames) == 3 for name in told)
    assert export_evalcrafter([result], tmp_path / "evalcrafter") == 2
    assert sorted(path.name for path in (tmp_path / "evalcrafter" / "s").iterdir()) == ["0000.mp4", "0001.mp4"]


# -- memory

_MEASURE = """
import ctypes, json, sys
from pathlib import Path
import numpy as np
from emu_core.networks import Networks
from emu_core.evaluation.sets import measure_set
from emu_core.evaluation.prompts import Prompt
from emu_core.evaluation.videos import open_sets
from tests.core.evaluation_tiny import Given

NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = MallInfo

def memory():
    # resident MiB, and MiB of the C library that are in use, between which there may be holes
    told = libc.mallinfo2()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return resident / 2**20, (told.uordblks + told.hblkhd) / 2**20

prompts = [Prompt(f"{i:04d}", "p") for i in range(int(sys.argv[2]))]
clip = Given(np.random.default_rng(0).normal(size=(256, 512)), {"p": np.ones(512)})
seen = []
result = measure_set(open_sets([sys.argv[1]])[0], prompts, Networks(clip=clip), progress=lambda: seen.append(memory()))
# not getrusage's, which begins with the memory of the process that started this one
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"measured": result.measured, "broken": len(result.broken), "seen": seen, "peak": peak}))
"""


def _resident(folder: Path, count: int) -> dict[str, Any]:
    """Measure a folder in a process of its own; MiB that are resident and in use after each video."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", _MEASURE, str(folder), str(count)]
    made = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc 2.33 or newer what is in use")
def test_memory_does_not_grow_with_the_number_of_videos(tmp_path: Path) -> None:
    media.write_video(tmp_path / "v.mp4", toy_video(TOY[0], 0, frames=3)[:, ::2, ::2], 8.0, {"prompt": "p"})
    data, folder = (tmp_path / "v.mp4").read_bytes(), tmp_path / "s"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number:04d}.mp4").write_bytes(data[:900] if number % 100 == 7 else data)
    found = _resident(folder, 1000)
    assert (found["measured"], found["broken"]) == (990, 10)
    resident, used = zip(*found["seen"], strict=True)
    grown = max(resident[900:]) - max(resident[:100]), max(used[900:]) - max(used[:100])
    print(f"1000 videos: peak {found['peak']:.1f} MiB; grown by {grown[0]:.1f}, in use by {grown[1]:.1f}")  # noqa: T201
    # What is in use stays. Holes in the heap make what is resident grow by up to 12 MiB, another number in each run, for about
    # 2,000 videos (4,000 were looked at). Decoded videos that are kept would be 9 MiB more in use, 36 as floats.
    assert grown[1] < 2
    assert grown[0] < 24


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux' own account of memory")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_videos(tmp_path: Path) -> None:
    peaks = []
    period = toy_video(TOY[1], 0).repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    for name, frames in (("short", 120), ("long", 600)):  # 6 and 28 MiB of pixels
        (tmp_path / name).mkdir()
        media.write_video(tmp_path / name / "0000.mp4", period.repeat(frames // 8, 1, 1, 1), 8.0)
        peaks.append(_resident(tmp_path / name, 1)["peak"])
    print(f"120 and 600 frames of 128 px: peak resident {peaks[0]:.1f} and {peaks[1]:.1f} MiB")  # noqa: T201
    assert peaks[1] - peaks[0] < 8


def test_the_mean_of_samples_is_a_prompts_figure(tmp_path: Path) -> None:
    for sample, step in enumerate((2, 6)):
        levels = torch.tensor([10.0, 10 + step]) / 255
        media.write_video(tmp_path / f"000-{sample}.webp", levels[:, None, None, None].expand(-1, 16, 16, 3), 8.0)
    result = measure_set(open_sets([str(tmp_path)])[0], [Prompt("000", "x")])
    assert result.columns["pixel_mse"][0] == pytest.approx((4 + 36) / 2)
    assert np.isfinite(result.interval(metrics.PIXEL_MSE).value)
