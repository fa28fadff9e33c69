"""`--motion-lora` of the command line, and the pipeline's `motion_loras`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emu_core.base import load_base
from emu_core.checkpoint import load_stack, merge_motion_loras, save_stack
from emu_core.cli.main import main
from emu_core.cli.making import parse_lora
from emu_core.media import read_video
from emu_core.model_folder import BUNDLED
from emu_core.pipeline import EmuVideoPipeline
from tests.core import reference
from tests.core.test_cli import refused
from tests.core.test_motion_lora import guoyww, lora_state

PROMPT = "a big red circle moves right on a white background"
QUICK = ["--steps", "2", "--frames", "5", "--size", "64x64", "--no-interpolate"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stack for the bundled model, a motion LoRA for it, one for another width, and the two merged at 0.7."""
    folder = tmp_path_factory.mktemp("files")
    adapter = reference.motion_adapter(load_base(BUNDLED).unet, mid=True)
    stack = reference.save(reference.original_layout(adapter.state_dict()), folder / "mm.safetensors")
    lora = reference.save(lora_state(adapter.state_dict(), guoyww), folder / "zoom.safetensors")
    other = reference.motion_adapter(reference.image_unet(**reference.SMALL_SD15), mid=True)
    reference.save(lora_state(other.state_dict(), guoyww), folder / "other.safetensors")
    torch.save({"state_dict": lora_state(adapter.state_dict(), guoyww)}, folder / "8:00.ckpt")
    together = load_stack(stack)
    merge_motion_loras(together, [(lora, 0.7)])
    save_stack(together, folder / "together.safetensors", torch.float32)
    return folder


def made(files: Path, out: Path, *loras: str, stack: str = "mm.safetensors") -> tuple[torch.Tensor, dict[str, str]]:
    named = [word for lora in loras for word in ("--motion-lora", lora)]
    assert main(["generate", PROMPT, "--out", str(out), "--stack", str(files / stack), *named, *QUICK]) == 0
    video = read_video(out)
    return video.frames, video.metadata


def test_a_video_is_that_of_the_merged_stack(files: Path, tmp_path: Path) -> None:
    """Frames as PNG, so that nothing but rounding to 8 bits is between them."""
    wanted, plain = made(files, tmp_path / "wanted", stack="together.safetensors")[0], made(files, tmp_path / "plain")[0]
    found, told = made(files, tmp_path / "found", f"{files / 'zoom.safetensors'}:0.7")
    assert (found - wanted).abs().max() <= 1 / 255 + 1e-6
    assert (found - plain).abs().max() > 0.05
    assert told["motion_loras"] == "zoom.safetensors:0.7"
    twice, told = made(files, tmp_path / "twice", f"{files / 'zoom.safetensors'}:0.5", f"{files / '8:00.ckpt'}:0.2")
    assert (twice - wanted).abs().max() <= 1 / 255 + 1e-6
    assert told["motion_loras"] == "zoom.safetensors:0.5, 8:00.ckpt:0.2"
    off, _ = made(files, tmp_path / "off", f"{files / 'zoom.safetensors'}:0")
    assert torch.equal(off, plain)


def test_in_python(files: Path) -> None:
    loras = [(files / "zoom.safetensors", 0.4), (str(files / "zoom.safetensors"), 0.3)]
    found = EmuVideoPipeline.from_files(stack=files / "mm.safetensors", motion_loras=loras).models["F"].stack.state_dict()
    for name, value in load_stack(files / "together.safetensors").state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "file", "strength"),
    [
        ("zoom.safetensors", "zoom.safetensors", 1.0),
        ("zoom.safetensors:0.7", "zoom.safetensors", 0.7),
        ("zoom.safetensors:-1", "zoom.safetensors", -1.0),
        ("8:00.ckpt", "8:00.ckpt", 1.0),
        ("8:00.ckpt:.5", "8:00.ckpt", 0.5),
        (r"C:\loras\zoom.ckpt", r"C:\loras\zoom.ckpt", 1.0),
        (r"C:\loras\zoom.ckpt:0.7", r"C:\loras\zoom.ckpt", 0.7),
        ("zoom", "zoom", 1.0),
    ],
)
def test_file_and_strength(files: Path, monkeypatch: pytest.MonkeyPatch, text: str, file: str, strength: float) -> None:
    monkeypatch.chdir(files)
    assert parse_lora(text, "--motion-lora") == (Path(file), strength)


@pytest.mark.parametrize("command", ["generate", "animate"])
@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ("zoom.safetensors:strong", "expected a number as the strength of zoom.safetensors, found 'strong'"),
        ("zoom.safetensors:", "expected a number as the strength"),
        ("zoom.safetensors:nan", "expected a number as the strength"),
        ("zoom.safetensors:1e999", "expected a number as the strength"),
        ("nowhere.ckpt", "nowhere.ckpt should be a motion LoRA's file, found nothing"),
        ("nowhere.ckpt:0.5", "nowhere.ckpt should be a motion LoRA's file, found nothing"),
        ("mm.safetensors", "is a temporal stack of family animatediff, not a motion LoRA"),
        ("other.safetensors", "112 changes that this stack has no weight for: down_blocks.0.motion_modules.1.temporal"),
    ],
)
def test_what_cannot_be_used_is_refused_first(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    lora: str,
    said: str,
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setattr("emu_core.pipeline.load_base", lambda *_, **__: pytest.fail("a model was loaded"))
    out = tmp_path / "out.mp4"
    # animate on the bundled stack: this one takes no image
    named = ["generate", PROMPT, "--stack", "mm.safetensors"] if command == "generate" else ["animate", "none.png", PROMPT]
    message = refused(capsys, *named, "--out", str(out), "--motion-lora", lora, *QUICK)
    assert said in message or (command == "animate" and lora.startswith("other") and "has no motion modules" in message)
    assert not out.exists()
