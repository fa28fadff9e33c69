"""What nodes are declared with: ComfyUI's `io`, and a node whose class says its inputs and outputs, and locales/en the words.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; the first two know neither search_aliases nor advanced, the last knows both.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

from comfy_api.latest import ComfyExtension, _io, io

from .paths import PACK

__all__ = ["RARE", "ComfyExtension", "Node", "answer", "growing", "grown", "io", "links"]

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


MOST_GROWN = 16
"""Inputs that a node grows to."""


def growing(name: str, kind: Any, each: str) -> list[io.Input]:
    """Optional inputs of one kind, `each` with a number from 0 on, of which the page shows one more than are connected; where
    ComfyUI knows no such (0.3.64), or none that may stay empty (0.8.0, whose page then shows none), all of them. `grown` has what
    came through them."""
    if hasattr(_io, "DynamicPathsDefaultValue"):
        template = io.Autogrow.TemplatePrefix(kind.Input(each), prefix=each, min=0, max=MOST_GROWN)
        return [io.Autogrow.Input(name, template=template, optional=True)]
    return [kind.Input(f"{name}.{each}{number}", optional=True) for number in range(MOST_GROWN)]


def grown(name: str, each: str, values: dict[str, Any]) -> list[Any]:
    """What is connected, in order, taken out of a node's `values`."""
    held = values.pop(name, None) or {}
    for number in range(MOST_GROWN):  # in either form
        held.setdefault(f"{each}{number}", values.pop(f"{name}.{each}{number}", None))
    return [one for number in range(MOST_GROWN) if (one := held[f"{each}{number}"]) is not None]


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
            one.tooltip = words["inputs"][one.id.partition(".")[0]]["tooltip"]  # of all that grow the same
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
