"""Text and pictures on a node, in the page and in the history.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further, up to about 0.38: send_progress_text and ui.PreviewImage.
"""

from __future__ import annotations

import html
import re
import sys
from typing import Any

import torch
from comfy_api.latest import io, ui


def server_instance() -> Any:
    """The running PromptServer; None where the pack is imported without one. Not imported here: ComfyUI's main has done it."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def say(node: type[io.ComfyNode], text: str) -> None:
    """Show text on the node, as its progress text. `node.hidden.unique_id` has to be in the schema."""
    server, hidden = server_instance(), getattr(node, "hidden", None)
    if server is not None and hidden is not None and hidden.unique_id:
        server.send_progress_text(markup(text), hidden.unique_id)


def markup(text: str) -> str:
    """Text such that both designs of the page show it as it is (looked at in its version 1.49.6): nodes on the canvas take it for
    HTML, with a line where the text has one, Nodes 2.0 for Markdown, where a line ends with two spaces. What means something in
    either is written as an entity; both make links of addresses, which stay."""
    parts = re.split(r"(https?://\S+)", text)
    plain = [re.sub(r"[<>&\"'\\`*_\[\]~#|+-]", lambda found: f"&#{ord(found[0])};", part) for part in parts[::2]]
    parts[::2], parts[1::2] = plain, [html.escape(part) for part in parts[1::2]]
    return "".join(parts).replace("\n", "  \n")


def shown(node: type[io.ComfyNode], text: str, image: torch.Tensor | None = None) -> dict[str, Any]:
    """The `ui` of a NodeOutput: `text`, and a picture (1, H, W, 3) if there is one."""
    say(node, text)  # the page draws pictures of every node, but text of its own alone
    pictures = {} if image is None else ui.PreviewImage(image, cls=node).as_dict()
    return {**pictures, "text": (text,)}
