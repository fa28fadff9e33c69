"""Videos of many prompts from one command, against a shell loop over single runs; ratios in one run.

    python -m benchmarks.many_prompts [--prompts 16] [--processes 2] [--all-cores] [-- OPTIONS OF GENERATE]

All take turns and start from nothing, loading included. Without OPTIONS: the bundled model, as it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPTS = [f"a big {colour} circle moves {way} on a white background"
           for colour in ("red", "blue", "green", "yellow") for way in ("left", "right", "up", "down")]  # fmt: skip


def generate(*arguments: str, threads: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", "emu_core", "generate", *arguments], check=True, capture_output=True, env=environment)


def loop(prompts: list[str], folder: Path, options: list[str], cores: int) -> None:
    """As a shell would: one after the other, each with so many cores."""
    folder.mkdir()
    for number, prompt in enumerate(prompts):
        generate(prompt, "--out", str(folder / f"{number}.mp4"), *options, threads=cores)


def main(count: int, processes: int, all_cores: bool, options: list[str]) -> None:
    prompts = (PROMPTS * (count // len(PROMPTS) + 1))[:count]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "prompts.txt").write_text("\n".join(prompts))
        listed = ["--prompts", str(folder / "prompts.txt"), *options]
        ways = {
            "a shell loop over single runs, one thread": lambda out: loop(prompts, out, options, 1),
            "one process": lambda out: generate(*listed, "--out", str(out), threads=1),
            "one process, batches of 4": lambda out: generate(*listed, "--out", str(out), "--batch", "4", threads=1),
            f"{processes} processes": lambda out: generate(*listed, "--out", str(out), "--processes", str(processes), threads=1),
        }
        if all_cores:
            ways["a shell loop over single runs, all cores"] = lambda out: loop(prompts, out, options, os.cpu_count() or 1)
        first = 0.0
        for number, (name, way) in enumerate(ways.items()):
            start = time.perf_counter()
            way(folder / str(number))
            seconds = (time.perf_counter() - start) / count
            first = first or seconds
            print(f"{name:<42} {seconds:7.2f} s a video   {first / seconds:5.2f} x", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--all-cores", action="store_true", help="also the loop whose runs use all cores each")
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    main(given.prompts, given.processes, given.all_cores, given.options)
