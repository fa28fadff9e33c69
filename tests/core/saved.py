"""A very narrow image model, of which stacks and runs are small enough to be files; and the command line as it is used."""

from __future__ import annotations

import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from emu_core.base.architectures import build_unet
from tests.core.filled import fill

ROOT = Path(__file__).parents[2]
SAVED = Path(__file__).parent / "fixtures" / "saved"
TINY = ROOT / "emu_core" / "assets" / "tiny"
SIZES = {"sample_size": 8, "layers_per_block": 1, "cross_attention_dim": 128}
PROMPT = "a big red circle moves right on a white background"


def narrow_model(folder: Path) -> Path:
    """Version 0.1's image model with a U-Net of one level, 32 channels and one attention, whose weights follow from their
    names."""
    blocks = {"block_out_channels": (32,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return first_model(folder, UNet2DConditionModel(**blocks, **SIZES, attention_head_dim=4))


def model_of_four_channels(folder: Path) -> Path:
    """Version 0.1's image model with a U-Net of the bundled one's widths: some of diffusers' own pipelines take no other latents
    than Stable Diffusion's."""
    return first_model(folder, build_unet("tiny", "cpu", in_channels=4, out_channels=4))


def first_model(folder: Path, unet: Any) -> Path:
    """Version 0.1's image model with another U-Net for its latents of 4 channels, whose weights will follow from their names."""
    shutil.copytree(SAVED / "model", folder)
    unet.load_state_dict({name: fill(name, value.shape) for name, value in unet.state_dict().items()})
    unet.save_pretrained(folder / "unet")
    (folder / "emu_video.json").write_text(json.dumps({"family": "tiny", "steps": 2}))
    return folder


def surroundings() -> dict[str, str]:
    """The environment of a process that is to import this checkout, on one thread."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def emu(*arguments: str | Path, cwd: Path = ROOT, status: int = 0) -> str:
    """`python -m emu_core` in a folder, within this process, which has loaded everything already. Returns what it prints, or
    says on standard error where it is expected to fail."""
    printed, said, code = io.StringIO(), io.StringIO(), None
    before = sys.argv, Path.cwd()
    sys.argv = ["emu_core", *map(str, arguments)]
    os.chdir(cwd)
    try:
        with redirect_stdout(printed), redirect_stderr(said):
            runpy.run_module("emu_core", run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
    assert (code or 0) == status, f"{' '.join(map(str, arguments))}: {said.getvalue()[-3000:]}"
    return said.getvalue() if status else printed.getvalue()


@contextmanager
def serving(study: Path) -> Iterator[str]:
    """`emu-video study serve` on a free port; gives the address, and stops the server as Ctrl-C does."""
    command = [sys.executable, "-m", "emu_core", "study", "serve", str(study), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=surroundings()) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0]
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
    assert process.returncode == 0
