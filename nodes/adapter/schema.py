"""What nodes are declared with: ComfyUI's `io`, and a schema with the words of locales/en, where every language has its own.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; the first two know neither search_aliases nor advanced, the last knows both.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from comfy_api.latest import ComfyExtension, io

from .paths import PACK

__all__ = ["CATEGORY", "RARE", "ComfyExtension", "aliases", "answer", "io", "links", "schema"]

CATEGORY = "EmuVideo"
WORDS: dict[str, Any] = json.loads((PACK / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
"""By node id: display_name, description, and the tooltips of inputs and outputs."""


def known(of: Callable[..., Any], **keywords: Any) -> dict[str, Any]:
    """Those of the keywords that `of` takes in the running ComfyUI."""
    parameters = inspect.signature(of).parameters
    return {name: value for name, value in keywords.items() if name in parameters}


def aliases(words: str) -> dict[str, Any]:
    """For io.Schema: what people may type who look for this node, with commas between."""
    return known(io.Schema, search_aliases=words.split(", "))


RARE = known(io.Int.Input, advanced=True)
"""For inputs of any kind that few need: Nodes 2.0 keeps them behind "Show advanced inputs"."""


def links(**kinds: Any) -> list[io.Input]:
    """Inputs by name that take a link and nothing else, of these kinds."""
    return [kind.Input(name) for name, kind in kinds.items()]


def schema(
    node_id: str, sought: str, inputs: list[io.Input], outputs: dict[str, Any], category: str = CATEGORY, **more: Any
) -> io.Schema:
    """The schema of a node, its texts filled in. `sought`: what people may type who look for it, with commas between; `outputs`:
    kinds by name; `more` is for io.Schema. KeyError for a node, an input or an output without its words."""
    words = WORDS[node_id]
    for one in inputs:
        one.tooltip = words["inputs"][one.id]["tooltip"]
    made = [
        kind.Output(display_name=name, tooltip=words["outputs"][str(number)]["tooltip"])
        for number, (name, kind) in enumerate(outputs.items())
    ]
    texts = {"display_name": words["display_name"], "description": words["description"]}
    return io.Schema(node_id, category=category, inputs=inputs, outputs=made, **texts, **aliases(sought), **more)


def answer(check: Callable[..., Any], *values: Any) -> bool | str:
    """What a node's validate_inputs returns: True, or the sentence of the ValueError that `check(*values)` raises."""
    try:
        check(*values)
    except ValueError as error:
        return str(error)
    return True
