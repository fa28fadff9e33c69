"""ComfyUI's server with dynamic VRAM emulated: `python serve.py MAIN_PY ARGUMENTS...`, by ComfyUI's own interpreter."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import dynamic_vram

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    root = str(Path(sys.argv[0]).resolve().parent)
    sys.path[0] = root
    import comfy.options

    comfy.options.enable_args_parsing()
    dynamic_vram.emulate(root)
    runpy.run_path(sys.argv[0], run_name="__main__")
