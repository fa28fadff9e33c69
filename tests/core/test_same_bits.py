"""What a change that only moves code must leave the same to the bit: losses and weights of training, frames of the pipeline,
figures of evaluation, of curation and of a study. All of it goes through the command line, the pipeline's class and files.

`python tests/core/test_same_bits.py --record` writes what is compared. On the machine that recorded it, every number and digest
must be equal. Elsewhere another processor or version of torch adds up in another order, so digests are left out and numbers need
only be near: the loss of a first step by rel 1e-3, which is far above float32's rounding and far below any change of what is
computed. Later steps are not compared there: AdamW's first step has the size of the rate whatever the gradient's, so where a
gradient is near zero rounding decides its sign. Nor are videos, but for their mean and deviation, nor what is counted in them.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import av
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file

from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from tests.core import reference
from tests.core.saved import PROMPT, ROOT, SAVED, TINY, emu, narrow_model, surroundings

pytestmark = pytest.mark.slow  # a minute of work, in one process
RECORD = Path(__file__).parent / "fixtures" / "same_bits.json"
FIRST_LOSS = 1e-3  # relative; of other machines
SHADE = 2e-2  # of a picture's mean and deviation, 0..1, on other machines
WITHOUT_PEFT = "tiny-lora needs peft, and it is not installed"

# -- what is measured

BUNDLED = ("--base", str(TINY.relative_to(ROOT)))
FEW = ("optimisation.steps=3", "save_every=1000")
QUIET = ("optimisation.batch=2", "clips.validation=2", "clips.workers=0", "validate_every=3")
STAGE = (*QUIET, "sheet_every=3")
SHARDS = ("--shards", str((SAVED / "shards").relative_to(ROOT)), "--selection", "moving")
NARROW = ("stage2_512px", "--family", "tiny", "--base", "NARROW")
RUNS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "tiny-vae": (["tiny-vae"], ["optimisation.batch=2"]),
    "tiny-t2i": (["tiny-t2i", *BUNDLED], ["optimisation.batch=4", "cache=8"]),
    "tiny-f": (["tiny-f", *BUNDLED], ["optimisation.batch=2", "cache=8", "anything=0.5"]),
    "tiny-i": (["tiny-i", *BUNDLED, "--init", f"{BUNDLED[1]}/stack_F.safetensors"], ["optimisation.batch=1", "cache=2"]),
    "tiny-lora": (["tiny-lora", *BUNDLED], ["optimisation.batch=4", "cache=8"]),
    "stage": (["stage2_512px", "--family", "tiny", *BUNDLED], ["clips.size=32,32", *QUIET]),
    "shards": (["stage3_16frames", "--family", "tiny", *BUNDLED, *SHARDS], [*STAGE, "clips.frames=6", "clips.size=32,32"]),
    "kept shards": (
        [*NARROW, *SHARDS],
        [*STAGE, "clips.starts=2", "compute.cache=true", "compute.micro=1", "compute.precision=bfloat16"],
    ),
    "text alone": (["stage1_256px", "--family", "tiny", "--base", "NARROW", "--ablation", "direct"], QUIET),
    "learned mixing": (
        [*NARROW, "--ablation", "learned_mixing", "--ablation", "correlated_noise"],
        [*STAGE, "compute.checkpointing=true"],
    ),
    "all trained": ([*NARROW, "--ablation", "all_trained", "--ablation", "standard_snr"], [*QUIET, "optimisation.ema=0.5"]),
}
"""Arguments of `train`, and settings; NARROW is a model made for the purpose."""


def train(folder: Path) -> Iterator[tuple[str, Any]]:
    """Each run's log, a digest of all weights that it exports, and one of its sheet."""
    for name, (arguments, settings) in RUNS.items():
        if name == "tiny-lora" and not find_spec("peft"):
            continue
        out = folder / name
        settings = [*FEW, *settings, *([] if any("sheet_every" in s for s in settings) else ["sheet_every=1000"])]
        arguments = [str(folder / "narrow") if a == "NARROW" else a for a in arguments]
        emu("train", *arguments, "--out", str(out), *(part for s in settings for part in ("--set", s)))
        rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        sheets = {file.name: pixels(file) for file in sorted(out.glob("sheet_*.png"))}
        yield f"train {name}", {"rows": rows, "weights": weights(out / "model"), **sheets}


def make_videos(folder: Path) -> Iterator[tuple[str, Any]]:
    """Frames of the pipeline and of two commands, in few steps: every part, sampler, kind of stack and guidance."""
    image = torch.rand(1, 48, 80, 3, generator=torch.Generator().manual_seed(3))
    bundled = EmuVideoPipeline.from_files()
    few = {"steps": 3, "seed": 11}
    result = bundled(PROMPT, Settings(**few))
    yield "pipeline all three steps", frames(result.starting_frame, result.video, result.interpolated)
    result = bundled(PROMPT, Settings(**few, image_guidance=2.0, rescale=0.5), image, interpolate=False)
    yield "pipeline given image", frames(result.starting_frame, result.video)
    yield "pipeline given last", frames(bundled.video(image, PROMPT, Settings(**few, sampler="euler", frames=6), (-1,)))
    yield "pipeline no image", frames(bundled.video(None, PROMPT, Settings(**few, sampler="dpmpp_2m_sde")))
    windowed = Settings(**few, frames=14, window=8, overlap=3, size=(64, 48), strength=0.7)
    yield "pipeline window", frames(bundled.video(image, PROMPT, windowed))
    clip = torch.rand(10, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    for stitch in ("continuous", "paper"):
        yield f"pipeline stitch {stitch}", frames(bundled.interpolate(clip, PROMPT, Settings(steps=1, stitch=stitch)))
    for sampler in ("euler_ancestral", "unipc", "dpmpp_2m"):
        yield f"pipeline {sampler}", frames(bundled.starting_frame(PROMPT, Settings(steps=4, seed=2, sampler=sampler)))
    for name, told in public_stacks(folder).items():
        narrow = EmuVideoPipeline.from_files(folder / "narrow", folder / f"{name}.safetensors")
        given = None if name == "animatediff" else image
        yield f"pipeline {name}", frames(narrow.video(given, PROMPT, Settings(**few, size=(64, 64), **told)))
    (folder / "given.png").write_bytes(png(image))
    narrow_own = ("--model", str(folder / "narrow"), "--stack", str(SAVED / "own.safetensors"), "--size", "64x64", "--seed", "5")
    emu("animate", str(folder / "given.png"), PROMPT, "--out", str(folder / "animated"), "--no-interpolate", *narrow_own)
    yield "animate", {"files": [pixels(file) for file in sorted((folder / "animated").glob("*.png"))]}
    source = str(SAVED / "systems" / "moving" / "000.mp4")
    emu("interpolate", source, PROMPT, "--out", str(folder / "finer"), "--steps", "1")
    yield "interpolate", {"files": [pixels(file) for file in sorted((folder / "finer").glob("*.png"))]}


def public_stacks(folder: Path) -> dict[str, dict[str, Any]]:
    """Files of public families for the narrow model, and what each is told besides."""
    unet = UNet2DConditionModel.from_pretrained(folder / "narrow" / "unet")
    reference.save(reference.motion_adapter(unet, mid=True), folder / "animatediff.safetensors")
    reference.save(reference.motion_adapter(unet, mid=False, conv_in=True), folder / "pia.safetensors")
    reference.save(reference.fancyvideo_state(unet), folder / "fancyvideo.safetensors")
    return {
        "animatediff": {"frames": 6},
        "pia": {"frames": 5, "motion": "large"},
        "fancyvideo": {"frames": 4, "cond_fps": 8.0, "motion_score": 6.0},
    }


def figures(folder: Path) -> Iterator[tuple[str, Any]]:
    """What commands print or write of the saved videos and the saved study."""
    systems = [str((SAVED / "systems" / name).relative_to(ROOT)) for name in ("moving", "frozen")]
    prompts = ["--prompts", str((SAVED / "prompts.txt").relative_to(ROOT))]
    found = json.loads(emu("evaluate", *systems, *prompts, "--json"))
    yield "evaluate folders", {name: found[name] for name in ("systems", "differences", "warnings")}
    equal = json.loads(emu("equalise", *systems, str(folder / "equal"), *prompts, "--json"))
    files = sorted((folder / "equal").rglob("*.mp4"))
    yield "equalise", {"said": equal["videos"], "files": [decoded(file) for file in files]}
    clips = folder / "clips"
    clips.mkdir()
    for file in (SAVED / "videos").glob("clip-*"):
        (clips / file.name).symlink_to(file)
    yield "evaluate toy videos", json.loads(emu("evaluate", "toy", "--videos", str(clips), "--json"))
    yield "evaluate toy", json.loads(emu("evaluate", "toy", "--prompts", "4", "--steps", "2", "--json"))
    yield "curate", curated(folder)
    yield "study report", json.loads(emu("study", "report", str(SAVED / "study.json"), "--json"))
    yield "retrieve", json.loads(emu("retrieve", SHARDS[1], *prompts, "--out", str(folder / "found"), "--json"))
    for name in ("stack_F", "stack_I"):
        yield f"info {name}", json.loads(emu("info", f"{BUNDLED[1]}/{name}.safetensors", "--json"))
    yield "info bundled", json.loads(emu("info", "--json"))
    for name in ("sd15", "emu"):
        yield f"info {name}", json.loads(emu("info", "--config", name, "--json"))


def curated(folder: Path) -> dict[str, Any]:
    """Counts, motion scores and the shards themselves."""
    videos = str((SAVED / "videos").relative_to(ROOT))
    counts = json.loads(emu("curate", videos, str(folder / "shards"), "--workers", "1", "--json"))
    rows = parquet.read_table(folder / "shards" / "clips.parquet").to_pylist()
    tars = {file.name: digest(file.read_bytes()) for file in sorted((folder / "shards").glob("*.tar"))}
    return {"counts": counts, "rows": json.loads(json.dumps(rows, default=str)), "index": tars}


# -- how


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def frames(*videos: torch.Tensor | None) -> list[dict[str, Any]]:
    """Of each (f, H, W, 3): the shape, a digest of its float32 values, mean and deviation."""
    found = []
    for video in videos:
        assert video is not None
        exact = video.float().contiguous()
        bits = digest(exact.numpy().tobytes())
        found.append({"shape": list(exact.shape), "bits": bits, "mean": float(exact.mean()), "std": float(exact.std())})
    return found


def weights(folder: Path) -> str:
    """A digest of names, precisions, shapes and values of all tensors in a folder's files."""
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        for name, value in sorted(load_file(file).items()):
            whole.update(f"{file.relative_to(folder)} {name} {value.dtype} {tuple(value.shape)}".encode())
            whole.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{whole.hexdigest()}"


def pixels(file: Path) -> str:
    with Image.open(file) as picture:
        return digest(f"{picture.size} {picture.mode}".encode() + picture.tobytes())


def png(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray((image[0] * 255).round().byte().numpy()).save(file, "PNG")
    return file.getvalue()


def decoded(file: Path) -> dict[str, Any]:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        shown = [(frame.pts, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        rate = str(stream.average_rate)
    return {"rate": rate, "times": [t for t, _ in shown], "bits": digest(b"".join(picture.tobytes() for _, picture in shown))}


def machine() -> dict[str, Any]:
    """On which bits can be expected to be the same."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    packages = ("av", "diffusers", "numpy", "pillow", "transformers")
    return {
        "torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
        "processor": model, "system": platform.system(), **{name: version(name) for name in packages},
    }  # fmt: skip


def measure() -> dict[str, Any]:
    torch.set_num_threads(1)
    os.chdir(ROOT)
    found: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        narrow_model(folder / "narrow")
        for part in (train, make_videos, figures):
            for key, value in part(folder):
                found[key] = json.loads(json.dumps(value).replace(name, "FOLDER").replace(str(ROOT), "ROOT"))
    return found


# -- the comparison

RECORDED: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.is_file() else {}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Measured in a process of its own, of one thread, in which nothing else has run."""
    out = tmp_path_factory.mktemp("bits") / "found.json"
    command = [sys.executable, str(Path(__file__).resolve()), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=surroundings(), check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", [name for name in RECORDED if name != "machine"])
def test_nothing_has_changed(name: str, found: dict[str, Any]) -> None:
    if name == "train tiny-lora" and not find_spec("peft"):
        pytest.skip(WITHOUT_PEFT)
    if found["machine"] == RECORDED["machine"]:
        assert found[name] == RECORDED[name]
    else:
        near(name, found[name], RECORDED[name])


def test_everything_that_is_measured_was_recorded(found: dict[str, Any]) -> None:
    assert RECORDED.keys() - found.keys() <= {"train tiny-lora"}
    assert found.keys() <= RECORDED.keys()


def near(name: str, one: Any, two: Any) -> None:
    """What can be said on another machine."""
    if name.startswith("train "):
        assert [row.keys() for row in one["rows"]] == [row.keys() for row in two["rows"]]
        assert one["rows"][0]["loss"] == pytest.approx(two["rows"][0]["loss"], rel=FIRST_LOSS)
    elif name.startswith("pipeline "):
        for a, b in zip(one, two, strict=True):
            assert (a["shape"], (a["mean"], a["std"])) == (b["shape"], pytest.approx((b["mean"], b["std"]), abs=SHADE))
    elif name in ("animate", "interpolate"):
        assert len(one["files"]) == len(two["files"])
    elif name.startswith("evaluate toy"):
        assert one.keys() == two.keys()
    else:
        alike(one, two)


def alike(one: Any, two: Any) -> None:
    """Equal but for digests, the rounding of numbers, and scores of motion, which come of the encoder in use."""
    if isinstance(two, dict):
        assert one.keys() == two.keys()
        for name, value in two.items():
            if "motion" not in name:
                alike(one[name], value)
    elif isinstance(two, list):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            alike(a, b)
    elif isinstance(two, float) and math.isfinite(two):
        assert one == pytest.approx(two, rel=1e-2, abs=1e-6)
    elif not (isinstance(two, str) and two.startswith("sha256:")):
        assert one == two or two != two


if __name__ == "__main__":
    target = RECORD if sys.argv[1] == "--record" else Path(sys.argv[1])
    if target == RECORD and not find_spec("peft"):
        raise SystemExit(WITHOUT_PEFT)
    target.write_text(json.dumps(measure(), indent=1) + "\n")
