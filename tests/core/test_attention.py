"""The attention function: parts equal the whole, and a backend that does not run is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from emu_core.model import kernels
from emu_core.model.kernels import BACKENDS, choose, sdpa

from .helpers import DOUBLE


def qkv(rows: int, heads: int = 3, tokens: int = 5, others: int = 7) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(rows, heads, length, 8, generator=generator, dtype=DOUBLE) for length in (tokens, others, others))


@pytest.mark.parametrize("limit", [1, 3, 7, 30, 10_000])
@pytest.mark.parametrize("rows", [1, 10, 11])
def test_parts_equal_the_whole(limit: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sizes = F.scaled_dot_product_attention(*qkv(rows)), []

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: bool) -> torch.Tensor:
        sizes.append(len(q))
        return whole_attention(q, k, v, **how)

    whole_attention = F.scaled_dot_product_attention
    monkeypatch.setattr(kernels, "_MAX_GRID", limit)
    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    torch.testing.assert_close(sdpa(*qkv(rows)), whole)
    assert sum(sizes) == rows
    assert max(sizes) <= max(1, limit // 3)


def test_more_rows_than_a_kernel_takes() -> None:
    q = torch.randn(66_000, 1, 2, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    some = q[[0, 65_534, 65_535, 65_999]]
    torch.testing.assert_close(sdpa(q, q, q)[[0, 65_534, 65_535, 65_999]], F.scaled_dot_product_attention(some, some, some))


@pytest.fixture
def no_memory() -> Any:
    """What was found out of a device is remembered; here it is found out anew."""
    kernels._xformers_trouble.cache_clear()
    yield
    kernels._xformers_trouble.cache_clear()


TROUBLES = (ImportError("No module named 'xformers'"), NotImplementedError("no operator\nfor this"), OSError())


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("trouble", TROUBLES)
def test_xformers_is_refused_where_it_does_not_run(trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: torch.Tensor) -> torch.Tensor:
        raise trouble

    monkeypatch.setattr(kernels, "xformers", broken)
    words = rf"does not run on cpu in torch.float32 \({type(trouble).__name__}: .+\): use --attention auto$"
    with pytest.raises(ValueError, match=words):
        choose("xformers", "cpu", torch.float32)


@pytest.mark.usefixtures("no_memory")
def test_xformers_that_runs_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "xformers", sdpa)
    assert choose("xformers", torch.device("cpu"), torch.float32) is sdpa


def test_auto_is_torchs_own_and_unknown_ones_are_refused() -> None:
    assert BACKENDS == ("auto", "sdpa", "xformers")
    assert choose("auto", "cpu", torch.float32) is choose("sdpa", "cpu", torch.float32) is sdpa
    with pytest.raises(ValueError, match="auto, sdpa, xformers, found 'flash'"):
        choose("flash", "cpu", torch.float32)  # type: ignore[arg-type]
