"""What nodes are declared with: ComfyUI's `io`, and a node whose class says its inputs and outputs, and locales/en the words.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; the first two know neither search_aliases nor advanced, the last knows both.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

from comfy_api.latest import ComfyExtension, io

from .paths import PACK

__all__ = ["RARE", "ComfyExtension", "Node", "answer", "io", "links"]

WORDS: dict[str, Any] = json.loads((PACK / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
"""By node id: display_name, description, and the tooltips of inputs and outputs."""


def known(of: Callable[..., Any], **keywords: Any) -> dict[str, Any]:
    """Those of the keywords that `of` takes in the running ComfyUI."""
    parameters = inspect.signature(of).parameters
    return {name: value for name, value in keywords.items() if name in parameters}


RARE = known(io.Int.Input, advanced=True)
"""For inputs of any kind that few need: Nodes 2.0 keeps them behind "Show advanced inputs"."""


def links(**kinds: Any) -> list[io.Input]:
    """Inputs by name that take a link and nothing else, of these kinds."""
    return [kind.Input(name) for name, kind in kinds.items()]


class Node(io.ComfyNode):
    """A node of the pack. Its id, permanent as it stands in saved workflows, is the name of its class."""

    sought: str
    """What people may type who look for it, with commas between."""
    inputs: Sequence[io.Input | Callable[[], io.Input]] = ()
    """A function is called whenever ComfyUI asks what the inputs are: for a list of files."""
    outputs: Mapping[str, Any]
    """Kinds by name."""
    category = "EmuVideo"
    speaks = False
    """Whether it shows text, by `shown`."""
    is_output = False

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI asks a node for. KeyError for a node, an input or an output without its words."""
        node_id = cls.__name__.removesuffix("Clone")  # ComfyUI runs a class made of this one
        words = WORDS[node_id]
        inputs = [copy(one) if isinstance(one, io.Input) else one() for one in cls.inputs]
        for one in inputs:
            one.tooltip = words["inputs"][one.id]["tooltip"]
        outputs = [kind.Output(display_name=name) for name, kind in cls.outputs.items()]
        for number, one in enumerate(outputs):
            one.tooltip = words["outputs"][str(number)]["tooltip"]
        texts = {name: words[name] for name in ("display_name", "description")}
        settings = {"category": cls.category, "is_output_node": cls.is_output, "hidden": [io.Hidden.unique_id] * cls.speaks}
        aliases = known(io.Schema, search_aliases=cls.sought.split(", "))
        return io.Schema(node_id, inputs=inputs, outputs=outputs, **texts, **settings, **aliases)


def answer(check: Callable[..., Any], *values: Any) -> bool | str:
    """What a node's validate_inputs returns: True, or the sentence of the ValueError that `check(*values)` raises."""
    try:
        check(*values)
    except ValueError as error:
        return str(error)
    return True
