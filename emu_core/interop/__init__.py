"""Public checkpoints -> temporal stacks. One module a family; which it is says the file's keys, and its name only where keys
cannot."""

from .recognise import bare, import_plan, recognise
from .variants import AUTO, VARIANTS

__all__ = ["AUTO", "VARIANTS", "bare", "import_plan", "recognise"]
