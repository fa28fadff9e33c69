"""Public checkpoints -> temporal stacks. One module a family; which it is says the file's keys, never its name."""

from .recognise import import_plan, recognise

__all__ = ["import_plan", "recognise"]
