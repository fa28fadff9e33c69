"""What moves the weights: AdamW, or Muon for the weights of hidden layers with AdamW for all others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .recipes import Optimisation

AT_ONCE = 2**22
"""Numbers of the weights that Muon moves at once."""
_OUTER = re.compile(r"embed|position|(^|\.)(conv_in|conv_out|read_back)\.weight$")  # tables, first and last layers


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) as torch has it, for matrices and filters; what is no
    matrix or belongs to the first or last layer is left to AdamW, as its author does. An update of Muon has the root mean square
    of one of AdamW's (Liu et al. 2025, arXiv 2502.16982), so one rate serves both."""

    def __init__(self, trained: Mapping[str, nn.Parameter], **settings: Any) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"optimisation.optimiser=muon needs torch 2.9 or newer, found {torch.__version__}: choose adamw")
        self.hidden = [p for name, p in trained.items() if p.dim() > 1 and not _OUTER.search(name)]
        # torch's takes matrices alone: a filter is one of (out, in x places), in the same memory if it lies there in that order
        self.matrices = [nn.Parameter(p.detach().flatten(1)) for p in self.hidden]
        hidden = {id(p) for p in self.hidden}
        super().__init__([{"params": [p for p in trained.values() if id(p) not in hidden]}], **settings)  # of which may be none
        kept = {name: settings[name] for name in ("lr", "weight_decay")}
        self.muon = torch.optim.Muon([{"params": self.matrices}], **kept, adjust_lr_fn="match_rms_adamw")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        super().zero_grad(set_to_none)
        for p in self.hidden:
            p.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """As torch's, at the rate of the first group."""
        loss = super().step(closure)
        apart = [(m, p) for m, p in zip(self.matrices, self.hidden, strict=True) if m.data_ptr() != p.data_ptr()]
        for matrix, p in apart:
            matrix.copy_(p.flatten(1))
        self._move_matrices(self.param_groups[0]["lr"])
        for matrix, p in apart:
            p.copy_(matrix.view_as(p))
        return loss

    def _move_matrices(self, rate: float) -> None:
        """A step of torch's Muon, with its state and but for rounding its result, of several matrices of one shape at once: one
        by one, those of a small network take as long as its gradients."""
        group = self.muon.param_groups[0]
        alike: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        for matrix, p in zip(self.matrices, self.hidden, strict=True):
            if p.grad is not None:
                alike.setdefault((matrix.shape, matrix.dtype, matrix.device), []).append((matrix, p.grad.flatten(1)))
        for (shape, _, _), pairs in ((kind, part) for kind, all_of in alike.items() for part in _parts(all_of, kind[0].numel())):
            matrices, gradients = [matrix for matrix, _ in pairs], [gradient for _, gradient in pairs]
            kept = [_begun(self.muon.state[m], {"momentum_buffer": torch.zeros_like(m)})["momentum_buffer"] for m in matrices]
            torch._foreach_lerp_(kept, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, kept, group["momentum"])  # Nesterov's
            changes = orthogonalised(torch.stack(ahead), group["ns_coefficients"], group["ns_steps"], group["eps"])
            torch._foreach_mul_(matrices, 1 - rate * group["weight_decay"])
            size = 0.2 * math.sqrt(max(shape))  # the root mean square of AdamW's (Liu et al., section 2.2)
            torch._foreach_add_(matrices, list(changes.float().unbind()), alpha=-rate * size)


def _parts(pairs: list[Any], size: int) -> Iterator[list[Any]]:
    """Of about AT_ONCE numbers, for the sake of memory; `size`: numbers of one."""
    most = max(AT_ONCE // size, 1)
    return (pairs[start : start + most] for start in range(0, len(pairs), most))


def orthogonalised(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Matrices x (n, rows, columns) with all singular values near 1, in bfloat16: `steps` of the quintic Newton-Schulz iteration
    x <- a x + (b m + c m m) x with m = x x^T, of x over its Frobenius norm (Jordan et al.)."""
    a, b, c = coefficients
    tall = x.shape[-2] > x.shape[-1]
    x = x.bfloat16().mT if tall else x.bfloat16()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    for _ in range(steps):
        m = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(m, m, m, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def build_optimiser(config: Optimisation, trained: Mapping[str, nn.Parameter]) -> torch.optim.AdamW:
    """What moves these weights. UserError if this torch does not have it."""
    settings: dict[str, Any] = {"lr": config.rate, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.optimiser == "muon":
        return Muon(trained, **settings)
    return torch.optim.AdamW(list(trained.values()), **settings)


def moments(optimiser: torch.optim.Optimizer, p: nn.Parameter) -> dict[str, Tensor]:
    """What Adam or Muon keeps of a weight between two steps, the live tensors; before the first step, what it begins with."""
    if isinstance(optimiser, Muon):
        for matrix, own in zip(optimiser.matrices, optimiser.hidden, strict=True):
            if own is p:
                return _begun(optimiser.muon.state[matrix], {"momentum_buffer": torch.zeros_like(matrix)})
    return _begun(optimiser.state[p], {"step": torch.tensor(0.0), **{n: torch.zeros_like(p) for n in ("exp_avg", "exp_avg_sq")}})


def _begun(state: dict[str, Tensor], first: dict[str, Tensor]) -> dict[str, Tensor]:
    if not state:
        state.update(first)
    return state
