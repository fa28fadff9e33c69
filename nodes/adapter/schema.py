"""What nodes are declared with: ComfyUI's `io`, and words of a schema that older versions do not know.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0: the first two know neither of the words, the last knows both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import ComfyExtension, io

__all__ = ["RARE", "ComfyExtension", "aliases", "io", "known"]


def known(of: Callable[..., Any], **keywords: Any) -> dict[str, Any]:
    """Those of the keywords that `of` takes in the running ComfyUI."""
    parameters = inspect.signature(of).parameters
    return {name: value for name, value in keywords.items() if name in parameters}


def aliases(words: str) -> dict[str, Any]:
    """For io.Schema: what people may type who look for this node, with commas between."""
    return known(io.Schema, search_aliases=words.split(", "))


RARE = known(io.Int.Input, advanced=True)
"""For inputs of any kind that few need: Nodes 2.0 keeps them behind "Show advanced inputs"."""
