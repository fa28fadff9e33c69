"""Public checkpoints -> temporal stacks. One module a family; which it is says the file's keys, never its name."""

from ..weights import WeightFile, open_weights
from .recognise import import_plan, recognise

__all__ = ["WeightFile", "import_plan", "open_weights", "recognise"]
