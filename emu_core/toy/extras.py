"""What the procedural world hands to the trainer: how its models are trained, and clips for stacks."""

from __future__ import annotations

from ..training.run import Extras
from .autoencoder import AutoencoderTask
from .lora import LoraTask
from .source import WorldSource
from .text_to_image import TextToImageTask

EXTRAS = Extras({"autoencoder": AutoencoderTask, "text_to_image": TextToImageTask, "lora": LoraTask}, WorldSource)
