"""Weighted moments of tokens."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_edge.calibration.tuning.gptq import inverse_factor
from vggt_edge.calibration.tuning.moments import FLOOR, Moments


def tokens_of(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (rows, 6) away from 0, and their weights."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator) + 2, torch.rand(rows, generator=generator)


@settings(max_examples=30)
@given(rows=st.integers(1, 50), seed=st.integers(0, 1000))
def test_they_are_the_sums_written_out(rows: int, seed: int) -> None:
    tokens, weights = tokens_of(rows, seed)
    found = Moments.of(tokens, weights)
    mean = (tokens * weights[:, None]).sum(dim=0) / weights.sum()
    away = (tokens - mean).double()
    second = (tokens.double() * weights[:, None]).T @ tokens.double()
    wanted = (away * weights[:, None]).T @ away + FLOOR * second.diagonal().mean() * torch.eye(6)
    torch.testing.assert_close(found.mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.about_mean.double(), wanted, rtol=1e-3, atol=1e-5 * float(second.trace()))


@settings(max_examples=30)
@given(rows=st.integers(2, 50), share=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_those_of_parts_add_up(rows: int, share: float, seed: int) -> None:
    tokens, weights = tokens_of(rows, seed)
    cut, whole = round(share * rows), Moments.of(tokens, weights)
    parts = Moments.of(tokens[:cut], weights[:cut]).absorb(Moments.of(tokens[cut:], weights[cut:]))
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.second, whole.second, rtol=1e-4, atol=1e-4)


def test_tokens_that_are_all_alike_still_have_an_inverse() -> None:
    """What is left about their mean is rounding errors, of either sign."""
    tokens = (torch.rand(1, 64, generator=torch.Generator().manual_seed(0)) * 1e3).expand(999, 64)
    factor = inverse_factor(Moments.of(tokens, torch.full((999,), 0.1)).about_mean)
    assert bool(torch.isfinite(factor).all())


def test_without_any_weight_the_mean_is_nothing() -> None:
    found = Moments.of(torch.ones(3, 6), torch.zeros(3))
    assert not found.mean.any()
    assert not found.about_mean.any()
