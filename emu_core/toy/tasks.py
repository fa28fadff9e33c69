"""What the procedural world hands to the trainer: how its models are trained, and stacks on its clips."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..training.loop import Task
from ..training.run import TASKS as ON_BASES
from .autoencoder import AutoencoderTask, LittleAutoencoderTask
from .lora import LoraTask
from .source import WorldSource
from .text_to_image import TextToImageTask

_IMAGES = {
    "autoencoder": AutoencoderTask,
    "little_autoencoder": LittleAutoencoderTask,
    "text_to_image": TextToImageTask,
    "lora": LoraTask,
}
TASKS: dict[str, Callable[..., Task]] = {
    **_IMAGES,
    **{name: partial(task, source=WorldSource) for name, task in ON_BASES.items()},
}
