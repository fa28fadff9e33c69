"""Step time of the video MODEL inside ComfyUI against the plain MODEL on the same batch:
`python -m benchmarks.comfy_step COMFYUI [--frames N] [--repeats N]`. It runs itself again by ComfyUI's own interpreter.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACK = Path(__file__).parents[1]
INSIDE = PACK / "tests" / "nodes" / "inside"


def outside() -> None:
    from tests.nodes.server import comfy_python, environment

    command = [comfy_python(Path(sys.argv[1])), str(Path(__file__)), *sys.argv[1:], "--inside"]
    raise SystemExit(subprocess.run(command, env=environment(), check=False).returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--inside", action="store_true")
    options = parser.parse_args()
    if not options.inside:
        outside()
    sys.path.insert(0, str(INSIDE))
    import harness

    with tempfile.TemporaryDirectory() as folder:
        sys.argv = [sys.argv[0]]
        pack = harness.start(options.comfyui, PACK, Path(folder))
        measure(pack, options.frames, options.repeats)


def measure(pack, frames: int, repeats: int) -> None:  # noqa: ANN001
    import parts
    import torch

    with torch.inference_mode():
        model, clip, vae = pack.run("EmuVideoTinyModel")
        plain = parts.on_the_same_schedule(pack, model)
        text = parts.texts(clip)
        positive, _, negative, latent = parts.conditioning(pack, clip, vae, length=frames)
        stack = parts.save_new_stack(pack, model, "full.safetensors", weights=0.01, mlp_ratio=4)
        cases = {
            "plain": (plain, *text),
            "tiny stack": (parts.apply(pack, model), positive, negative),
            "full stack (all sites, ratio 4)": (parts.apply(pack, model, stack), positive, negative),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(repeats + 1):
            for name, (video, first, second) in cases.items():
                started = time.perf_counter()
                parts.ksample(video, first, second, latent["samples"], steps=4)
                if turn:
                    times[name].append((time.perf_counter() - started) / 4)
        base = statistics.median(times["plain"])
        for name, values in times.items():
            middle = statistics.median(values)
            print(f"{name:32} {1000 * middle:7.1f} ms a step of 2 x {frames} frames, {middle / base:.2f} x the plain MODEL")


if __name__ == "__main__":
    main()
