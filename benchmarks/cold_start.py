"""Generation with the bundled model from a cold start, against importing torch and diffusers alone.

    python benchmarks/cold_start.py [--repeats 3]

Each is a process of its own; they take turns, and the least of each is compared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORTS = "import torch; from diffusers import UNet2DConditionModel, AutoencoderKL; from transformers import CLIPTextModel"
PROMPT = "a big red circle moves right on a white background"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        generate = [sys.executable, "-m", "emu_core", "generate", PROMPT, "--out", str(Path(folder) / "video.mp4")]
        rounds = [(seconds([sys.executable, "-c", IMPORTS]), seconds(generate)) for _ in range(repeats)]
    imports, whole = (min(column) for column in zip(*rounds, strict=True))
    print(f"imports alone        {imports:6.2f} s")
    print(f"generate, 37 frames  {whole:6.2f} s   {whole / imports:.2f} x the imports")
    print(f"allowed: 2 x imports + 15 s = {2 * imports + 15:.2f} s: {'kept' if whole <= 2 * imports + 15 else 'EXCEEDED'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    main(parser.parse_args().repeats)
