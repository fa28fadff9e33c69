"""Muon beside AdamW: closed forms, its author's formula, what it takes and what it leaves, and runs that resume to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from emu_core.base.architectures import build_unet
from emu_core.errors import UserError
from emu_core.training.checks import check_recipe
from emu_core.training.optimiser import Muon, build_optimiser
from emu_core.training.recipes import Optimisation, override
from tests.core.test_training_loop import assert_same_state, new_trainer, toy_recipe

MUON = Optimisation(10, 1, 0.01, optimiser="muon")


def moved(shape: tuple[int, ...], steps: int = 1, config: Optimisation = MUON) -> tuple[torch.Tensor, torch.Tensor]:
    """How far a weight of this shape is moved, and by which gradients, (steps, *shape)."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(shape))
    before, optimiser = p.detach().clone(), build_optimiser(config, {"net.weight": p})
    gradients = torch.randn(steps, *shape)
    for gradient in gradients:
        optimiser.zero_grad()
        p.grad = gradient.clone()
        optimiser.step()
    return p.detach() - before, gradients


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 8, 3, 3), (8, 16, 3)])
def test_update_is_the_nearest_orthogonal_matrix_to_the_gradient(shape: tuple[int, ...]) -> None:
    """Its singular vectors are the gradient's, and its singular values one size, which the five iterations reach within a third;
    filters count as matrices. The size makes its root mean square 0.2 times the rate (Liu et al. 2025, section 2.2)."""
    change, (gradient,) = moved(shape)
    matrix, size = -change.flatten(1), 0.01 * 0.2 * max(change.flatten(1).shape) ** 0.5
    u, _, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    inner = u.T @ matrix @ v.T / size
    assert inner.diagonal().min() > 0.6
    assert inner.diagonal().max() < 1.3
    assert (inner - inner.diagonal().diag()).abs().max() < 0.05
    root = matrix.square().mean().sqrt().item() / 0.01
    assert 0.2 * 0.75 < root < 0.2 * 1.2


def test_filters_that_lie_in_another_order_are_moved_alike() -> None:
    """As in an autoencoder whose channels come last: there the matrix is a copy."""
    plain, _ = moved((16, 8, 3, 3), steps=2)
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(16, 8, 3, 3).contiguous(memory_format=torch.channels_last))
    before, optimiser = p.detach().clone(), build_optimiser(MUON, {"net.weight": p})
    for gradient in torch.randn(2, 16, 8, 3, 3):
        optimiser.zero_grad()
        p.grad = gradient.clone()
        optimiser.step()
    torch.testing.assert_close(p.detach() - before, plain, atol=1e-6, rtol=0)
    assert p.is_contiguous(memory_format=torch.channels_last)


def test_no_gradient_outlives_its_step() -> None:
    p = nn.Parameter(torch.randn(8, 8))
    optimiser = build_optimiser(MUON, {"net.weight": p})
    assert isinstance(optimiser, Muon)
    p.grad = torch.randn(8, 8)
    optimiser.step()
    optimiser.zero_grad()
    assert p.grad is None
    assert all(matrix.grad is None for matrix in optimiser.matrices)


def test_momentum_is_nesterovs() -> None:
    """Second update by hand: m = 0.95 m + 0.05 g, of which g is moved 0.95 of the way towards m."""
    change, (first, second) = moved((12, 20), steps=2)
    m1 = 0.05 * first
    m2 = 0.95 * m1 + 0.05 * second
    expected = torch.zeros(12, 20)
    for look in (0.05 * first + 0.95 * m1, 0.05 * second + 0.95 * m2):
        u, _, v = torch.linalg.svd(look, full_matrices=False)
        expected -= 0.01 * 0.2 * 20**0.5 * u @ v
    likeness = nn.functional.cosine_similarity(change.flatten(), expected.flatten(), dim=0)
    assert likeness > 0.97


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (64, 64), (16, 8, 3, 3), (1, 12)])
def test_weights_and_momentum_are_those_of_torchs_muon(shape: tuple[int, ...]) -> None:
    """Of three weights of one shape, of which one has no gradient in the second step."""
    torch.manual_seed(0)
    config = Optimisation(10, 1, 0.01, weight_decay=0.1, optimiser="muon")
    ours = {f"net.{i}.weight": nn.Parameter(torch.randn(shape)) for i in range(3)}
    theirs = [nn.Parameter(p.detach().flatten(1).clone()) for p in ours.values()]
    optimiser = build_optimiser(config, ours)
    assert isinstance(optimiser, Muon)
    peer = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for i, (p, q) in enumerate(zip(ours.values(), theirs, strict=True)):
            gradient = torch.randn(shape)
            p.grad, q.grad = (None, None) if (step, i) == (1, 2) else (gradient, gradient.flatten(1).clone())
        optimiser.step()
        peer.step()
    for p, q, matrix in zip(ours.values(), theirs, optimiser.matrices, strict=True):
        torch.testing.assert_close(p.detach().flatten(1), q.detach(), atol=2e-5, rtol=0)
        torch.testing.assert_close(optimiser.muon.state[matrix]["momentum_buffer"], peer.state[q]["momentum_buffer"])


def test_first_and_last_layers_tables_and_vectors_are_left_to_adamw() -> None:
    trained = dict(build_unet("tiny").named_parameters())
    optimiser = build_optimiser(MUON, trained)
    assert isinstance(optimiser, Muon)
    names = {id(p): name for name, p in trained.items()}
    by_muon = {names[id(p)] for p in optimiser.hidden}
    by_adamw = {names[id(p)] for p in optimiser.param_groups[0]["params"]}
    assert by_muon | by_adamw == trained.keys()
    assert not by_muon & by_adamw
    assert {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight", "conv_norm_out.bias"} <= by_adamw
    assert {"mid_block.resnets.0.conv1.weight", "mid_block.attentions.0.proj_in.weight"} <= by_muon
    assert sum(trained[name].numel() for name in by_muon) > 0.9 * sum(p.numel() for p in trained.values())


def test_a_run_resumes_to_the_bit(tmp_path: Path) -> None:
    recipe = override(toy_recipe(), {"optimisation.optimiser": "muon"})
    new_trainer(tmp_path / "whole", recipe).run()
    for stop in range(6):
        trainer = new_trainer(tmp_path / "parts", recipe, seed=stop)
        if stop:
            trainer.load()
        else:
            trainer = new_trainer(tmp_path / "parts", recipe)
        trainer.run(max_minutes=0)
    assert_same_state(tmp_path / "whole", tmp_path / "parts")
    new_trainer(tmp_path / "other").run()
    with pytest.raises(AssertionError):
        assert_same_state(tmp_path / "whole", tmp_path / "other")


@pytest.mark.parametrize("change", [{"compute.precision": "float16"}, {"compute.parallel": "fsdp"}])
def test_what_it_cannot_do_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"optimisation.optimiser=muon .*choose adamw"):
        check_recipe(override(toy_recipe(), {"optimisation.optimiser": "muon", **change}))


def test_an_older_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UserError, match=f"needs torch 2.9 or newer, found {torch.__version__}".replace("+", r"\+")):
        build_optimiser(MUON, {})
