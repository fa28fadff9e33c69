"""What the pack uses of comfy is there, by name and by signature."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .server import PACK

GUARD = Path(sys.executable).with_name("comfy-import-guard")
OURS = ("__init__.py", "nodes", "emu_core")


def git(*arguments: str, cwd: Path) -> None:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.mark.skipif(not GUARD.exists(), reason="THE USES OF COMFYUI WERE NOT CHECKED: no comfy-import-guard beside this Python")
def test_every_use_of_comfy_is_there(comfy_root: Path, tmp_path: Path) -> None:
    """comfy-import-guard reads a commit, so the installation's `comfy` becomes one."""
    copy, pack = tmp_path / "ComfyUI", tmp_path / "custom_nodes" / "ComfyUI-EmuVideo"
    shutil.copytree(comfy_root / "comfy", copy / "comfy", ignore=shutil.ignore_patterns("__pycache__"))
    git("init", "-q", cwd=copy)
    git("add", "-A", cwd=copy)
    git("commit", "-q", "-m", "as installed", cwd=copy)
    pack.mkdir(parents=True)
    for name in OURS:
        (pack / name).symlink_to(PACK / name)
    command = [str(GUARD), "--offline", "--cache-dir", str(tmp_path), "check", "--comfy-dir", str(tmp_path), "--target", "HEAD"]
    process = subprocess.run([*command, "--strict"], capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert "1 safe, 0 warn, 0 skipped; 0 breaking" in process.stdout, process.stdout
