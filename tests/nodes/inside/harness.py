"""Runs checks inside a real ComfyUI, by its own interpreter: `python harness.py COMFYUI PACK OUT MODULE`.

pytest and diffusers live in another environment than ComfyUI, so a check is a plain function `check_*(comfy)` that asserts and
may return a dict of tensors and JSON values; this script runs all of a module in one process and writes what came of them to OUT
as results.json, one .safetensors file a check, and all that it sampled as another (.sampled.safetensors). What a check is to read
lies in OUT too, at `pack.folder`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any


def load_pack(folder: Path) -> ModuleType:
    """Import the pack as ComfyUI does."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Comfy:
    """What a check works with: the pack's nodes and its inner modules. The model in it is narrow, and has learned nothing."""

    def __init__(self, pack: ModuleType, folder: Path, dynamic: bool) -> None:
        self.pack, self.folder, self.dynamic = pack, folder, dynamic
        self.device = "cpu" if "--cpu" in sys.argv else "cuda"
        extension = asyncio.run(pack.comfy_entrypoint())
        self.nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}

    def run(self, node: str, **inputs: Any) -> tuple[Any, ...]:
        """Execute a node of the pack and return its outputs."""
        return self.nodes[node].execute(**inputs).result

    def bundled(self) -> Comfy:
        """The pack as it is, with what the bundled model has learned."""
        return Comfy(load_pack(Path(__file__).parents[3]), self.folder, self.dynamic)

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.pack.__name__}.{name}")


class NotHere(Exception):
    """Raised by a check that this version of ComfyUI cannot pass, with the reason."""


DYNAMIC = "dynamic-vram"
"""A last argument: with what an NVIDIA card gets; emulated, but where the checks run on such a card."""


def device_arguments(dynamic: bool) -> list[str]:
    """ComfyUI's arguments. EMU_VIDEO_TEST_DEVICE=cuda has the checks run on the card, in float32 and repeatably, so that the
    numbers can be compared; else they run on the CPU."""
    if os.environ.get("EMU_VIDEO_TEST_DEVICE", "cpu") == "cpu":
        return ["--cpu"]
    return ["--force-fp32", "--deterministic", *([] if dynamic else ["--disable-dynamic-vram"])]


def real_dynamic_vram() -> None:
    """What ComfyUI's main.py does at its start on an NVIDIA card."""
    import comfy_aimdo.control

    assert comfy_aimdo.control.init(), "comfy-aimdo could not be initialised"
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    devices = comfy.model_management.get_all_torch_devices()
    assert comfy_aimdo.control.init_devices((device.index, 0) for device in devices), "no device with dynamic VRAM"
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


def start(root: Path, pack: Path, out: Path, dynamic: bool = False) -> Comfy:
    """Import ComfyUI from `root`, with one thread and its models under `out`, and the pack."""
    sys.argv = [sys.argv[0], *device_arguments(dynamic)]
    sys.path.insert(0, str(root))
    os.chdir(root)
    import comfy.options

    comfy.options.enable_args_parsing()
    if dynamic and "--cpu" not in sys.argv:
        real_dynamic_vram()
    elif dynamic:
        import dynamic_vram

        dynamic_vram.emulate(str(root))
    import folder_paths
    import torch

    torch.set_num_threads(1)
    if "--cpu" not in sys.argv:  # float32 as it is written, not with ten bits, which is a convolution's default on a card
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    folder_paths.models_dir = str(out / "models")
    return Comfy(load_pack(pack), out, dynamic)


def main() -> None:
    root, pack, out, module_name = sys.argv[1:5]
    only, dynamic = [name for name in sys.argv[5:] if name != DYNAMIC], DYNAMIC in sys.argv[5:]
    comfy_side = start(Path(root), Path(pack), Path(out), dynamic)
    import torch

    spec = importlib.util.spec_from_file_location("checks", Path(__file__).with_name(f"{module_name}.py"))
    assert spec is not None and spec.loader is not None
    checks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checks)
    import comfy.samplers
    from safetensors.torch import save_file

    sampled: list[torch.Tensor] = []
    original = comfy.samplers.CFGGuider.sample

    def remember(self: Any, *args: Any, **settings: Any) -> torch.Tensor:
        sampled.append(original(self, *args, **settings))
        return sampled[-1]

    comfy.samplers.CFGGuider.sample = remember
    results: dict[str, dict[str, Any]] = {}
    for name in [n for n in vars(checks) if n.startswith("check_") and n in (only or vars(checks))]:
        started = time.monotonic()
        sampled.clear()
        try:
            with torch.inference_mode():  # as the server runs nodes
                made = getattr(checks, name)(comfy_side) or {}
            tensors = {k: v.clone().cpu().contiguous() for k, v in made.items() if isinstance(v, torch.Tensor)}
            save_file(tensors, Path(out) / f"{name}.safetensors")
            latents = {str(number): value.clone().cpu().contiguous() for number, value in enumerate(sampled)}
            save_file(latents, Path(out) / f"{name}.sampled.safetensors")
            results[name] = {"data": {k: v for k, v in made.items() if k not in tensors}}
        except Exception as error:
            kind = "skipped" if type(error).__name__ == "NotHere" else "failed"
            results[name] = {kind: str(error) if kind == "skipped" else traceback.format_exc()}
        results[name]["seconds"] = round(time.monotonic() - started, 2)
        (Path(out) / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
