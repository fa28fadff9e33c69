"""torch.compile of a U-Net: the same numbers but for rounding, fewer and larger kernels, after minutes of compiling."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)


class CompiledUNet:
    """A U-Net with the hooks of its stacks, compiled at the first call, and again for other shapes and another stack.

    It says at level INFO how long that took; `seconds` and `graphs` add it up. Where compiling fails (no C++ compiler, a Python
    that this torch cannot compile for) a warning says why, and the U-Net goes on as it is: nothing but time depends on it.
    """

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet
        self.seconds, self.graphs = 0.0, 0
        self._compiled: Any = None
        try:
            self._compiled = torch.compile(unet, backend=self._count)
        except RuntimeError as error:
            self._give_up(error)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the U-Net itself returns."""
        if self._compiled is None:
            return self.unet(*args, **kwargs)
        from torch._dynamo.exc import TorchDynamoException  # here: it takes a second, and most never compile

        before, start = self.graphs, time.perf_counter()
        try:
            output = self._compiled(*args, **kwargs)
        except TorchDynamoException as error:
            self._give_up(error)
            return self.unet(*args, **kwargs)
        if self.graphs > before:
            took = time.perf_counter() - start
            self.seconds += took
            logger.info("torch.compile took %.1f s (graph %d of the U-Net)", took, self.graphs)
        return output

    def _count(self, graph: Any, inputs: Any) -> Any:
        """The backend that torch.compile uses by itself; that it was called tells that something was compiled."""
        from torch._dynamo import lookup_backend

        self.graphs += 1
        return lookup_backend("inductor")(graph, inputs)

    def _give_up(self, error: Exception) -> None:
        self._compiled = None
        inner = getattr(error, "inner_exception", None) or error  # the backend's own
        said = next((line.strip() for line in str(inner).splitlines() if line.strip()), "no message")
        reason = said if said.startswith(type(inner).__name__) else f"{type(inner).__name__}: {said}"
        logger.warning("torch.compile does not work here (%s): the U-Net runs uncompiled", reason[:300])
