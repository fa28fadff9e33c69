"""How much longer ComfyUI takes to start with the pack in it: `python -m benchmarks.comfy_start COMFYUI [REPEATS]`.

Starts are taken in turn, with and without, since machines are noisy; medians and their ratio are printed.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from tests.nodes.server import Server, temporary_folder


def main() -> None:
    root, repeats = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    times: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(repeats):
        for kind, arguments in (("without", ("--disable-all-custom-nodes",)), ("with", ())):
            with Server(root, temporary_folder(), *arguments) as server:
                times[kind].append(server.start_seconds)
    without, with_pack = (statistics.median(times[kind]) for kind in ("without", "with"))
    for kind, values in times.items():
        print(f"{kind:8} the pack: {' '.join(f'{v:.2f}' for v in values)} s, median {statistics.median(values):.2f} s")
    print(f"difference {with_pack - without:+.2f} s, ratio {with_pack / without:.3f}; allowed: +0.3 s")


if __name__ == "__main__":
    main()
