"""Where files are: the folders of temporal stacks and of networks that measure, the studies, what the pack brings itself.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import folder_paths

from ...emu_core.checkpoint import read_config
from ...emu_core.model.config import StackConfig
from ...emu_core.weights import SUFFIXES

logger = logging.getLogger(__name__)

FOLDER = "emu_video"
METRICS = "emu_video_metrics"
NO_CLIP = "none"
PACK = Path(__file__).parents[2]
ASSETS = PACK / "emu_core" / "assets"
EXAMPLE_PICTURES = PACK / "example_workflows" / "input"
TINY = ASSETS / "tiny"
BUNDLED: dict[str, Path] = {"tiny F (bundled)": TINY / "stack_F.safetensors", "tiny I (bundled)": TINY / "stack_I.safetensors"}
"""Names of the bundled stacks in the node's list. They stand in saved workflows: never rename one."""


def register_folders() -> None:
    """Tell ComfyUI of models/emu_video and models/emu_video_metrics, made if they are missing, and of the bundled LoRA; put the
    example workflows' pictures where LoadImage finds them, unless files of their names are there."""
    own, metrics = (os.path.join(folder_paths.models_dir, name) for name in (FOLDER, METRICS))
    folder_paths.add_model_folder_path(FOLDER, own)
    folder_paths.add_model_folder_path(METRICS, metrics)
    extensions = folder_paths.folder_names_and_paths[FOLDER][1]
    extensions.update(SUFFIXES)
    if (ASSETS / "loras").is_dir():
        folder_paths.add_model_folder_path("loras", str(ASSETS / "loras"))
    try:
        os.makedirs(own, exist_ok=True)
        os.makedirs(metrics, exist_ok=True)
        inputs = Path(folder_paths.get_input_directory())
        for picture in EXAMPLE_PICTURES.glob("*.png"):
            if inputs.is_dir() and not (inputs / picture.name).exists():
                shutil.copyfile(picture, inputs / picture.name)
    except OSError as error:  # a read-only installation: extra_model_paths may name another place
        logger.warning("ComfyUI-EmuVideo could not prepare its folders: %s", error)


def stack_names() -> list[str]:
    """What the node offers: the bundled stacks, then the files of models/emu_video."""
    return [*BUNDLED, *folder_paths.get_filename_list(FOLDER)]


def stack_path(name: str) -> Path:
    """The file behind a name from `stack_names`; ValueError says where to put a missing one."""
    if name in BUNDLED:
        return BUNDLED[name]
    found = folder_paths.get_full_path(FOLDER, name)
    if found is None:
        places = ", ".join(folder_paths.get_folder_paths(FOLDER))
        raise ValueError(f"temporal stack {name!r} was not found: put its file into {places}, then press R to refresh")
    return Path(found)


def stack_config(name: str) -> StackConfig:
    """What the stack of this name is, from its metadata alone; ValueError where there is none that can be used."""
    return read_config(stack_path(name))


def clip_names() -> list[str]:
    """What the nodes offer: no CLIP, then the folders of models/emu_video_metrics that hold one in transformers' layout."""
    settings = [name for name in folder_paths.get_filename_list(METRICS) if os.path.basename(name) == "config.json"]
    found = {os.path.dirname(name).replace(os.sep, "/") for name in settings if _is_clip(name)}
    return [NO_CLIP, *sorted(found - {""})]


def _is_clip(settings: str) -> bool:
    path = folder_paths.get_full_path(METRICS, settings)
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type") == "clip"


def clip_path(name: str) -> Path | None:
    """The folder behind a name from `clip_names`, None for no CLIP; ValueError says where to put a missing one."""
    if name == NO_CLIP:
        return None
    settings = folder_paths.get_full_path(METRICS, f"{name}/config.json") if name in clip_names() else None
    if settings is None:
        places = ", ".join(folder_paths.get_folder_paths(METRICS))
        raise ValueError(
            f"CLIP {name!r} was not found: put its folder (config.json, weights, tokenizer, preprocessor_config.json) into "
            f"{places}, then press R to refresh"
        )
    return Path(settings).parent


def studies_folder() -> Path:
    """Where the studies lie; made with the first of them."""
    return Path(folder_paths.get_output_directory()) / "emu_video_studies"


def temporary_folder() -> Path:
    """ComfyUI's folder for what need not be kept, made if it is missing."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder
