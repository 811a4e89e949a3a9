"""Compensated rounding against what can be computed by hand or by trying everything."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from vggt_edge.calibration.tuning.gptq import compensated


def to_integers(values: Tensor, index: int) -> Tensor:
    return values.round()


def error(weight: Tensor, stored: Tensor, hessian: Tensor) -> float:
    difference = weight - stored
    return float(torch.trace(difference @ hessian @ difference.T))


def test_uncorrelated_inputs_are_rounded_to_nearest() -> None:
    """A diagonal Hessian leaves nothing to make up for."""
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)) * 4
    stored = compensated(weight, torch.diag(torch.rand(16) + 0.1), to_integers)
    assert torch.equal(stored, weight.round())


def test_two_equal_inputs_share_their_errors() -> None:
    """W x depends on the sum of two weights alone: 0.4 + 0.4 is best stored as 0 + 1, which nearest rounding misses."""
    stored = compensated(torch.tensor([[0.4, 0.4]]), torch.ones(2, 2), to_integers, damping=1e-6)
    assert float(stored.sum()) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_close_to_the_best_of_all_roundings(seed: int) -> None:
    """Among all 2^8 ways to round up or down, within a factor of two of the best, and never behind nearest rounding."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(64, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    hessian, weight = inputs.T @ inputs, torch.randn(1, 8, generator=generator) * 3
    ours = error(weight, compensated(weight, hessian, to_integers), hessian)
    ups = [torch.tensor([choice]) for choice in itertools.product((0.0, 1.0), repeat=8)]
    best = min(error(weight, weight.floor() + up, hessian) for up in ups)
    assert ours <= 2 * best
    assert ours <= error(weight, weight.round(), hessian)


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updating what lies behind a block of columns at once is the same as column by column."""
    inputs = torch.randn(300, 40, generator=torch.Generator().manual_seed(1))
    weight, hessian = torch.randn(8, 40, generator=torch.Generator().manual_seed(2)) * 3, inputs.T @ inputs
    whole = compensated(weight, hessian, to_integers)
    monkeypatch.setattr("vggt_edge.calibration.tuning.gptq.COLUMNS_AT_ONCE", 7)
    torch.testing.assert_close(compensated(weight, hessian, to_integers), whole)


def test_inputs_never_seen_are_rounded_to_nearest() -> None:
    """A Hessian of zeros says nothing, so nothing is moved."""
    weight = torch.tensor([[0.4, 1.6]])
    assert torch.equal(compensated(weight, torch.zeros(2, 2), to_integers), weight.round())


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_fitted_once_and_whole(seed: int) -> None:
    """Blocks come with their own columns and costs above zero; a fit that chooses no scales changes nothing else."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(200, 48, generator=generator) @ torch.randn(48, 48, generator=generator)
    weight, hessian = torch.randn(4, 48, generator=generator) * 3, inputs.T @ inputs
    seen: list[int] = []

    def fit(values: Tensor, costs: Tensor, block: int) -> None:
        assert values.shape == (16, 4)
        assert costs.shape == (16,)
        assert bool((costs > 0).all())
        seen.append(block)

    stored = compensated(weight, hessian, to_integers, fit=fit, block=16)
    assert sorted(seen) == [0, 1, 2]
    assert torch.equal(stored, stored.round())
    assert error(weight, stored, hessian) < error(weight, weight.round(), hessian)


def test_an_error_costs_what_is_left_of_it_after_compensation() -> None:
    """Two inputs of variance 1 and correlation r: of an error in the first, the second leaves 1 - r^2."""
    found: list[Tensor] = []
    hessian = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
    compensated(
        torch.tensor([[0.4, 0.4]]),
        hessian,
        to_integers,
        damping=0.0,
        fit=lambda values, costs, block: found.append(costs),
    )
    torch.testing.assert_close(torch.cat(found), torch.tensor([1 - 0.6**2, 1.0]))
