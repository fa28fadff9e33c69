"""The frozen text-to-image model ("base"): loading it, and its text, image and noise conventions.

A base is a diffusers folder or one .safetensors file in the original layout. Nothing here ever contacts a hub.
"""

from .base import Base, BaseInfo, TextStates
from .load import check_base, inspect_base, load_base, outline

__all__ = ["Base", "BaseInfo", "TextStates", "check_base", "inspect_base", "load_base", "outline"]
