"""X = X(none) + w_i (X(I) - X(none)) + w_p (X(I,p) - X(I))."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from emu_core.model.guidance import Call, calls, combine

from .helpers import DOUBLE

SCALES = (0.0, 0.1, 0.5, 1.0, 1.1, 2.0, 4.2, 7.5, 16.0)
KINDS = ((False, False), (True, False), (True, True))


def outputs(seed: int = 0) -> dict[tuple[bool, bool], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {kind: torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=DOUBLE) for kind in (*KINDS, (False, True))}


def run(plan: list[Call], x: dict[tuple[bool, bool], torch.Tensor], rescale: float = 0.0) -> torch.Tensor:
    return combine([x[call.image, call.text] for call in plan], [call.weight for call in plan], rescale)


def formula(x: dict[tuple[bool, bool], torch.Tensor], w_i: float, w_p: float) -> torch.Tensor:
    none, image, both = (x[kind] for kind in KINDS)
    return none + w_i * (image - none) + w_p * (both - image)


@pytest.mark.parametrize(("w_i", "w_p", "kind"), [(1.0, 1.0, KINDS[2]), (0.0, 0.0, KINDS[0]), (1.0, 0.0, KINDS[1])])
def test_scales_that_leave_one_call(w_i: float, w_p: float, kind: tuple[bool, bool]) -> None:
    x, plan = outputs(), calls(w_i, w_p)
    assert plan == [Call(*kind, 1.0)]
    assert run(plan, x) is x[kind]


@pytest.mark.parametrize(("w_i", "w_p"), list(product(SCALES, SCALES)))
def test_any_scales_equal_the_formula(w_i: float, w_p: float) -> None:
    x, plan = outputs(), calls(w_i, w_p)
    torch.testing.assert_close(run(plan, x), formula(x, w_i, w_p))


@pytest.mark.parametrize(("has_image", "has_text"), list(product((True, False), (True, False))))
def test_no_call_is_in_vain_weights_sum_to_one_and_the_fullest_conditioned_comes_last(has_image: bool, has_text: bool) -> None:
    for w_i, w_p in product(SCALES, SCALES):
        plan = calls(w_i, w_p, has_image, has_text)
        assert 1 <= len(plan) <= 3
        assert all(abs(call.weight) > 1e-9 for call in plan)
        assert sum(call.weight for call in plan) == pytest.approx(1)
        assert len({(call.image, call.text) for call in plan}) == len(plan)
        assert not any((call.image and not has_image) or (call.text and not has_text) for call in plan)
        assert [call.image + call.text for call in plan] == sorted(call.image + call.text for call in plan)
        if len(plan) == 1:
            assert plan[0].weight == 1  # exactly: the output itself, with its own bits


def test_papers_scales_need_three_calls() -> None:
    assert calls(2.0, 7.5) == [Call(False, False, -1.0), Call(True, False, -5.5), Call(True, True, 7.5)]


@pytest.mark.parametrize("one", ["image", "text"])
def test_with_one_condition_it_is_guidance_by_it(one: str) -> None:
    x, image, text = outputs(), one == "image", one == "text"
    for w_i, w_p in product(SCALES, SCALES):
        plan, w = calls(w_i, w_p, image, text), w_i if image else w_p
        assert [call.weight for call in plan] == [weight for weight in (1 - w, w) if weight]
        torch.testing.assert_close(run(plan, x), x[False, False] + w * (x[image, text] - x[False, False]))
    assert calls(1.0 if image else 2.0, 1.0 if text else 7.5, image, text) == [Call(image, text, 1.0)]


def test_with_neither_one_call_is_left() -> None:
    assert all(calls(a, b, False, False) == [Call(False, False, 1.0)] for a, b in product(SCALES, SCALES))


@pytest.mark.parametrize("rescale", [0.0, 0.3, 0.7, 1.0])
def test_rescale_moves_the_spread_as_the_paper_says(rescale: float) -> None:
    """x_final = phi x std(x_pos) / std(x) + (1 - phi) x, one standard deviation for each video (arXiv 2305.08891, 3.4)."""
    x, plan = outputs(), calls(2.0, 7.5)
    guided, y = run(plan, x), run(plan, x, rescale)
    for video in range(2):
        factor = x[True, True][video].std() / guided[video].std()
        torch.testing.assert_close(y[video], rescale * guided[video] * factor + (1 - rescale) * guided[video])
    if rescale == 1.0:
        torch.testing.assert_close(y.flatten(1).std(1), x[True, True].flatten(1).std(1))
    if rescale == 0.0:
        assert torch.equal(y, guided)


def test_outputs_and_weights_must_pair() -> None:
    with pytest.raises(ValueError, match="shorter|longer"):
        combine([torch.ones(1), torch.ones(1)], [1.0])
