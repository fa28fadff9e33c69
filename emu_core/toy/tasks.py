"""What the procedural world hands to the trainer: how its models are trained, and stacks on its clips."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..training.loop import Task
from ..training.video import VideoTask
from .autoencoder import AutoencoderTask
from .lora import LoraTask
from .source import WorldSource
from .text_to_image import TextToImageTask

_IMAGES = {"autoencoder": AutoencoderTask, "text_to_image": TextToImageTask, "lora": LoraTask}
TASKS: dict[str, Callable[..., Task]] = {**_IMAGES, "video": partial(VideoTask, source=WorldSource)}
