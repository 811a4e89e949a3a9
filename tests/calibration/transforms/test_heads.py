"""Rotating and scaling the values of attention heads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vggt_edge.calibration.transforms.heads import (
    balance_values,
    rotate_values,
    scale_values,
    shift_values,
    signed_hadamard,
    value_rows,
)
from vggt_edge.calibration.transforms.wiring import Values
from vggt_edge.exporter.models.layers import Attention

SIZES = {"heads": st.integers(1, 4), "head_dim": st.sampled_from((1, 2, 6, 8, 12, 16)), "seed": st.integers(0, 10**6)}


def attention(heads: int, head_dim: int, seed: int) -> tuple[Attention, Values, Tensor]:
    """In float64, with 3 sequences of 4 tokens for it."""
    torch.manual_seed(seed)
    made = Attention(heads * head_dim, heads, qk_norm=False).double().requires_grad_(False)
    return made, Values("qkv", "proj", heads), torch.randn(12, heads * head_dim, dtype=torch.float64)


@given(**SIZES)
def test_rotated_values_come_out_the_same(heads: int, head_dim: int, seed: int) -> None:
    """Queries and keys stay to the bit; values are turned within their head."""
    module, values, x = attention(heads, head_dim, seed)
    before, qkv = module(x, 3), module.qkv(x)
    rotate_values(module, values, np.random.default_rng(seed))
    torch.testing.assert_close(module(x, 3), before, rtol=0, atol=1e-12)
    width, after = heads * head_dim, module.qkv(x)
    assert torch.equal(after[:, : 2 * width], qkv[:, : 2 * width])
    norms = [part[:, 2 * width :].unflatten(1, (heads, head_dim)).norm(dim=2) for part in (qkv, after)]
    torch.testing.assert_close(norms[0], norms[1], rtol=0, atol=1e-12)


@given(**SIZES)
def test_scaled_values_come_out_the_same(heads: int, head_dim: int, seed: int) -> None:
    """Each value channel is multiplied by its factor."""
    module, values, x = attention(heads, head_dim, seed)
    factors = torch.randn(heads * head_dim).exp()
    before, qkv = module(x, 3), module.qkv(x)
    scale_values(module, values, factors)
    torch.testing.assert_close(module(x, 3), before, rtol=0, atol=1e-10)
    wanted = qkv.clone()
    wanted[:, 2 * heads * head_dim :] *= factors
    torch.testing.assert_close(module.qkv(x), wanted, rtol=0, atol=1e-10)


@given(**SIZES)
def test_shifted_values_come_out_the_same(heads: int, head_dim: int, seed: int) -> None:
    """Each value channel has its offset subtracted; queries and keys stay to the bit."""
    module, values, x = attention(heads, head_dim, seed)
    offset = torch.randn(heads * head_dim, dtype=torch.float64) * 10
    before, qkv = module(x, 3), module.qkv(x)
    shift_values(module, values, offset)
    torch.testing.assert_close(module(x, 3), before, rtol=0, atol=1e-10)
    wanted = qkv.clone()
    wanted[:, 2 * heads * head_dim :] -= offset
    torch.testing.assert_close(module.qkv(x), wanted, rtol=0, atol=1e-10)


def test_values_without_a_bias_cannot_be_shifted() -> None:
    """Nothing is changed then."""
    module, values, _ = attention(2, 4, 0)
    module.qkv.bias, before = None, module.proj.bias.clone()
    with pytest.raises(ValueError, match="qkv without bias"):
        shift_values(module, values, torch.ones(8))
    assert torch.equal(module.proj.bias, before)


@given(**SIZES)
def test_balance_is_exact_and_undoes_whatever_scaled_the_values(heads: int, head_dim: int, seed: int) -> None:
    """Two attentions that differ by such factors alone end up with the same weights."""
    (module, values, x), (other, _, _) = attention(heads, head_dim, seed), attention(heads, head_dim, seed)
    scale_values(other, values, torch.randn(heads * head_dim).mul(3).exp())
    before = module(x, 3)
    for each in (module, other):
        balance_values(each, values)
        torch.testing.assert_close(each(x, 3), before, rtol=0, atol=1e-10)
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], weight, rtol=1e-9, atol=1e-12)
    read, made = module.proj.weight.norm(dim=0), value_rows(module.qkv)[0].norm(dim=1)
    torch.testing.assert_close(read, made, rtol=1e-9, atol=0)


def test_balance_leaves_a_channel_that_nobody_makes_or_reads() -> None:
    """As pruned models have them."""
    module, values, x = attention(1, 4, 0)
    module.qkv.weight[8], module.proj.weight[:, 1] = 0.0, 0.0
    before = module(x, 3)
    balance_values(module, values)
    torch.testing.assert_close(module(x, 3), before, rtol=0, atol=1e-12)
    assert bool(module.proj.weight[:, 0].any())
    assert not bool(module.proj.weight[:, 1].any())


@pytest.mark.parametrize("size", [1, 8, 64, 128, 12, 24])
def test_the_matrix_is_orthogonal_and_flat(size: int) -> None:
    """Perfectly so for a power of two; its signs depend on the seed."""
    one, other = (signed_hadamard(size, np.random.default_rng(seed)) for seed in (0, 1))
    torch.testing.assert_close(one @ one.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)
    assert size == 1 or not torch.equal(one, other)
    if size & (size - 1) == 0:
        torch.testing.assert_close(one.abs(), torch.full_like(one, size**-0.5), rtol=0, atol=1e-15)


def test_a_spike_in_one_channel_spreads_over_its_head() -> None:
    """What the rotation is for."""
    module, values, _ = attention(2, 16, 0)
    scale_values(module, values, torch.tensor([32.0, *[1.0] * 31]))
    before, _ = value_rows(module.qkv)
    rotate_values(module, values, np.random.default_rng(0))
    after, _ = value_rows(module.qkv)
    sizes = [rows.norm(dim=1)[:16] for rows in (before, after)]
    assert float(sizes[0].max() / sizes[0].min()) > 16
    assert float(sizes[1].max() / sizes[1].min()) < 2


def test_factors_must_be_positive(gaussian: Callable[..., Tensor]) -> None:
    """Else proj could not make up for them."""
    module, values, _ = attention(1, 4, 0)
    with pytest.raises(ValueError, match="positive"):
        scale_values(module, values, torch.zeros(4))
