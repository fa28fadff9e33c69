"""Where files are: the folders of temporal stacks and of networks that measure, the studies, what the pack brings itself.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import folder_paths

from ...emu_core.errors import UserError
from ...emu_core.limits import json_of
from ...emu_core.weights import SUFFIXES

logger = logging.getLogger(__name__)

FOLDER = "emu_video"
STACKS, LORAS = "animatediff_models", "animatediff_motion_lora"
"""AnimateDiff-Evolved's folders, by the names under which it registers them: what lies there need not be moved."""
METRICS = "emu_video_metrics"
NO_CLIP = "none"
PACK = Path(__file__).parents[2]
ASSETS = PACK / "emu_core" / "assets"
TINY = ASSETS / "tiny"
BUNDLED = {f"tiny {role} (bundled)": TINY / f"stack_{role}.safetensors" for role in "FI"}
BUNDLED["tiny F, few steps (bundled)"] = TINY / "stack_F_fast.safetensors"
"""Names of the bundled stacks in the node's list. They stand in saved workflows: never rename one."""


def register_folders() -> None:
    """Tell ComfyUI of models/emu_video and models/emu_video_metrics, made if they are missing, of AnimateDiff-Evolved's folders,
    and of the bundled LoRAs; put the example workflows' pictures where LoadImage finds them, unless files of their names are
    there."""
    own, metrics, *others = (Path(folder_paths.models_dir, name) for name in (FOLDER, METRICS, STACKS, LORAS))
    folders = [
        (FOLDER, own),
        (METRICS, metrics),
        *zip((STACKS, LORAS), others, strict=True),
        *(("loras", place / "loras") for place in (ASSETS, TINY)),
    ]
    for name, folder in folders:
        folder_paths.add_model_folder_path(name, str(folder))
    for name in (FOLDER, STACKS, LORAS):
        folder_paths.folder_names_and_paths[name][1].update(SUFFIXES)
    inputs = Path(folder_paths.get_input_directory())
    try:
        own.mkdir(parents=True, exist_ok=True)
        metrics.mkdir(parents=True, exist_ok=True)
        for picture in (PACK / "example_workflows" / "input").glob("*.png"):
            if inputs.is_dir() and not (inputs / picture.name).exists():
                shutil.copyfile(picture, inputs / picture.name)
    except OSError as error:  # a read-only installation: extra_model_paths may name another place
        logger.warning("ComfyUI-EmuVideo could not prepare its folders: %s", error)


def stack_names() -> list[str]:
    """What the node offers: the bundled stacks, then the files of models/emu_video, then AnimateDiff-Evolved's."""
    return [*BUNDLED, *_names(FOLDER, STACKS)]


def stack_path(name: str) -> Path:
    """The file behind a name from `stack_names`; ValueError says where to put a missing one."""
    return BUNDLED[name] if name in BUNDLED else _path("temporal stack", name, FOLDER, STACKS)


def motion_lora_names() -> list[str]:
    """What the node offers: the files of AnimateDiff-Evolved's folder of motion LoRAs, then those of models/emu_video."""
    return _names(LORAS, FOLDER)


def motion_lora_path(name: str) -> Path:
    """The file behind a name from `motion_lora_names`; ValueError says where to put a missing one."""
    return _path("motion LoRA", name, LORAS, FOLDER)


def _names(*folders: str) -> list[str]:
    """The files of these folders; a name that several have stands once, for the first."""
    return list(dict.fromkeys(name for folder in folders for name in folder_paths.get_filename_list(folder)))


def _path(what: str, name: str, *folders: str) -> Path:
    for folder in folders:
        if found := folder_paths.get_full_path(folder, name):
            return Path(found)
    places = ", ".join(place for folder in folders for place in folder_paths.get_folder_paths(folder))
    raise UserError(f"{what} {name!r} was not found: put its file into {places}, then press R to refresh")


def _clips() -> dict[str, Path]:
    """The folders of models/emu_video_metrics that hold a CLIP in transformers' layout, by name."""
    result = {}
    for file in folder_paths.get_filename_list(METRICS):
        name, last = os.path.split(file)
        path = folder_paths.get_full_path(METRICS, file) if name and last == "config.json" else None
        try:
            settings = json_of(Path(path).read_bytes()) if path else None
        except (OSError, ValueError):
            continue
        if isinstance(settings, dict) and settings.get("model_type") == "clip":
            result[name.replace(os.sep, "/")] = Path(path).parent
    return result


def clip_names() -> list[str]:
    """What the nodes offer: no CLIP, then those of models/emu_video_metrics."""
    return [NO_CLIP, *sorted(_clips())]


def clip_path(name: str) -> Path | None:
    """The folder behind a name from `clip_names`, None for no CLIP; ValueError says where to put a missing one."""
    if name == NO_CLIP:
        return None
    clips = _clips()
    if name not in clips:
        places = ", ".join(folder_paths.get_folder_paths(METRICS))
        files = "config.json, weights, tokenizer, preprocessor_config.json"
        raise UserError(f"CLIP {name!r} was not found: put its folder ({files}) into {places}, then press R to refresh")
    return clips[name]


def studies_folder() -> Path:
    """Where the studies lie; made with the first of them."""
    return Path(folder_paths.get_output_directory()) / "emu_video_studies"


def temporary_folder() -> Path:
    """ComfyUI's folder for what need not be kept, made if it is missing."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder
