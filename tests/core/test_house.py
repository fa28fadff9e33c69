"""The plan of the house: which room may import which, found by walking all imports, those inside functions too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = {
    **{
        "errors": -2,
        "limits": -1,
        "locks": 0,
        "model": 0,
        "media": 0,
        "weights": 1,
        "low_rank": 1,
        "base": 2,
        "interop": 2,
        "networks": 2,
        "checkpoint": 3,
        "settings": 3,
        "model_folder": 3,
        "pipeline": 4,
        "longer": 5,
        "kept": 5,
    },
    **{"data": 5, "training": 6, "evaluation": 6, "study": 7, "many": 7, "toy": 7, "lab": 8, "cli": 9, "__main__": 10},
}
"""What is higher imports what is lower; rooms of one number do not import each other."""


def modules() -> dict[str, Path]:
    """Every module of emu_core and nodes by its dotted name."""
    names = {}
    for package in ("emu_core", "nodes"):
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """What a module imports, anywhere in it, by absolute names; of our own modules those that are meant."""
    file = MODULES[name]
    parts = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])]).removeprefix("..")
            for alias in node.names:
                inner = f"{source}.{alias.name}" if source else alias.name
                yield inner if inner in MODULES else source


def own_imports(name: str) -> set[str]:
    return {found for found in imports(name) if found in MODULES} - {name}


def room(name: str) -> str:
    return name.split(".")[1] if name.startswith("emu_core.") else name.split(".")[0]


def test_arrows_run_one_way() -> None:
    wrong = [
        f"{name} -> {found}"
        for name in MODULES
        if name.startswith("emu_core.")
        for found in own_imports(name)
        if found != "emu_core" and room(found) != room(name) and ROOMS.get(room(found), 99) >= ROOMS[room(name)]
    ]
    assert not wrong


def test_there_is_no_circle_between_files() -> None:
    graph = {name: {found for found in own_imports(name) if not name.startswith(f"{found}.")} for name in MODULES}
    while leaves := {name for name, found in graph.items() if not found & graph.keys()}:
        graph = {name: found for name, found in graph.items() if name not in leaves}
    assert not graph


def test_only_the_laboratory_and_the_command_line_know_the_toy_world() -> None:
    assert {room(n) for n in MODULES if any(room(f) == "toy" for f in own_imports(n))} <= {"toy", "lab", "cli"}


def test_only_the_adapter_knows_comfy() -> None:
    comfy = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server", "execution")
    comfy += ("latent_preview", "node_helpers")
    found = {n for n in MODULES if any(f.split(".")[0] in comfy and f not in MODULES for f in imports(n))}
    assert found
    assert all(name.startswith("nodes.adapter.") for name in found), found
    first = [n for n in ast.walk(ast.parse((ROOT / "__init__.py").read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not {(getattr(n, "module", None) or n.names[0].name).split(".")[0] for n in first} & {*comfy} - {"nodes"}
    for name in found:
        said = ast.get_docstring(ast.parse(MODULES[name].read_text())) or ""
        assert "Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0" in said, name


def test_the_paper_needs_torch_and_einops_alone() -> None:
    code = "import sys, torch, einops; before = set(sys.modules); import emu_core.model.windows, emu_core.model.video_model, "
    code += "emu_core.model.sampling, emu_core.model.guidance, emu_core.model.conditioning; "
    code += "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "['emu_core']"


def test_only_curated_clips_need_pyarrow_and_only_scores_of_curation_need_torch() -> None:
    code = "import sys; sys.modules['pyarrow'] = sys.modules['fsspec'] = None; import emu_core.training.run, emu_core.toy.tasks"
    code += "; from emu_core.toy.recipes import RECIPES; emu_core.training.checks.check_clips(RECIPES['tiny-f'])"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    code = "import sys, emu_core.data.curate; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
