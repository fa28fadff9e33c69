"""ComfyUI-EmuVideo: text to video in three steps, as ComfyUI nodes. ComfyUI imports this file; see README.md."""

import importlib.util
import sys

if importlib.util.find_spec("comfy_api") is not None:  # tests and tools import beside this file, where there is no ComfyUI
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
elif "folder_paths" in sys.modules:
    raise ImportError("ComfyUI-EmuVideo needs ComfyUI 0.3.64 or newer, whose node interface this one lacks: update ComfyUI")
