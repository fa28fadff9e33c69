"""What the pack uses of comfy is there, by name and by signature; and what it uses of ComfyUI at all, in one folder."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .server import PACK

GUARD = Path(sys.executable).with_name("comfy-import-guard")
OURS = ("__init__.py", "nodes", "emu_core")
OTHERS = ("folder_paths", "latent_preview", "node_helpers", "nodes", "server")
"""ComfyUI's modules whose names do not begin with comfy."""


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


def imported(file: Path) -> set[str]:
    """Modules that a file imports by their full name."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return found


def is_comfyui(module: str) -> bool:
    return module.startswith("comfy") or module.split(".")[0] in OTHERS


def test_only_the_adapter_knows_comfyui() -> None:
    files = [file for name in OURS for file in ([PACK / name] if name.endswith(".py") else (PACK / name).rglob("*.py"))]
    users = {file for file in files if any(is_comfyui(module) for module in imported(file))}
    adapter = PACK / "nodes" / "adapter"
    assert {file.parent for file in users} == {adapter}, users
    for file in users:
        assert "Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0" in (ast.get_docstring(ast.parse(file.read_text())) or ""), file.name
