"""Scales and shifts between a LayerNorm and its readers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vggt_edge.calibration.transforms.smoothing import divide, shift

Pair = tuple[nn.LayerNorm, nn.Linear]


def pair(channels: int, seed: int) -> Pair:
    torch.manual_seed(seed)
    norm, reader = nn.LayerNorm(channels), nn.Linear(channels, 3)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm.requires_grad_(False), reader.requires_grad_(False)


@given(channels=st.integers(1, 40), seed=st.integers(0, 10**6), spread=st.floats(0, 3))
def test_division_changes_what_is_read_and_not_what_comes_out(channels: int, seed: int, spread: float) -> None:
    """The norm's output is divided by the factors, channel by channel."""
    norm, reader = pair(channels, seed)
    x, factors = torch.randn(5, channels), (spread * torch.randn(channels)).exp()
    read, out = norm(x), reader(norm(x))
    divide(norm, [reader], factors)
    torch.testing.assert_close(norm(x), read / factors, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reader(norm(x)), out, rtol=1e-4, atol=1e-4)


@given(channels=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_a_shift_changes_what_is_read_and_not_what_comes_out(channels: int, seed: int) -> None:
    """The norm's output has the shift subtracted."""
    norm, reader = pair(channels, seed)
    x, by = torch.randn(5, channels), 3 * torch.randn(channels)
    read, out = norm(x), reader(norm(x))
    shift(norm, [reader], by)
    torch.testing.assert_close(norm(x), read - by, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reader(norm(x)), out, rtol=1e-4, atol=1e-4)


def test_weights_are_replaced_and_not_written_to(gaussian: Callable[..., Tensor]) -> None:
    """They may be mapped from a file, or shared with a copy of the model."""
    norm, reader = pair(4, 0)
    old = [*norm.parameters(), *reader.parameters()]
    kept = [parameter.clone() for parameter in old]
    shift(norm, [reader], gaussian(4))
    divide(norm, [reader], gaussian(4).exp())
    assert all(torch.equal(parameter, copy) for parameter, copy in zip(old, kept, strict=True))
    assert not any(one is other for one, other in zip(old, [*norm.parameters(), *reader.parameters()], strict=True))
    assert {parameter.dtype for parameter in (*norm.parameters(), *reader.parameters())} == {torch.float32}


@pytest.mark.parametrize("factors", [[1.0, 0.0], [1.0, -1.0], [1.0, float("inf")], [1.0, float("nan")], [1.0]])
def test_factors_must_be_positive_and_finite(factors: list[float]) -> None:
    """And one for each channel."""
    norm, reader = pair(2, 0)
    with pytest.raises(ValueError, match="factor"):
        divide(norm, [reader], torch.tensor(factors))
