"""Words of a node's schema that older versions of ComfyUI do not know.

Checked by running on 0.3.64 and 0.8.0, which know neither, and on 0.33.0, which knows both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io


def known(of: Callable[..., Any], **keywords: Any) -> dict[str, Any]:
    """Those of the keywords that `of` takes in the running ComfyUI."""
    parameters = inspect.signature(of).parameters
    return {name: value for name, value in keywords.items() if name in parameters}


def aliases(words: str) -> dict[str, Any]:
    """For io.Schema: what people may type who look for this node, with commas between."""
    return known(io.Schema, search_aliases=words.split(", "))


RARE = known(io.Int.Input, advanced=True)
"""For inputs of any kind that few need: Nodes 2.0 keeps them behind "Show advanced inputs"."""
