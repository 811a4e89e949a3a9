"""Attention in 8 bits: the numbers of the format, and what is left of the floats."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from vggt_edge.calibration.quantization.attention import (
    SAMPLED_QUERIES,
    Attend,
    QuantizedAttend,
    Quantizer,
    operands_of,
)
from vggt_edge.calibration.scheme import FP8, INT8

Array = npt.NDArray[np.float64]
HEAD_DIM = 8


def operands(tokens: int = 7) -> tuple[Tensor, ...]:
    """Query, key and value."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, tokens, HEAD_DIM, generator=generator) for _ in range(3))


def rounded(x: Array, by: Quantizer) -> Array:
    """The rounding of other libraries than ours: numpy's for integers, that of ml_dtypes for floats."""
    scale = np.float32(by.input_scale)
    steps = x.astype(np.float32) / scale
    if by.numbers == INT8:
        return np.clip(np.rint(steps), -128, 127).astype(np.float64) * scale
    return steps.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale


@pytest.fixture(params=[INT8, FP8], ids=["int8", "fp8"])
def attend(request: pytest.FixtureRequest) -> QuantizedAttend:
    peaks = {name: float(x.abs().max()) for name, x in operands_of(*operands())}
    return QuantizedAttend(request.param, peaks, HEAD_DIM)


def test_both_products_multiply_rounded_numbers(attend: QuantizedAttend) -> None:
    query, key, value = (x.numpy().astype(np.float64) for x in operands())
    scores = rounded(query * HEAD_DIM**-0.5, attend.query) @ rounded(key, attend.key).swapaxes(-2, -1)
    probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = rounded(probabilities, attend.probabilities) @ rounded(value, attend.value)
    actual = attend(*operands()).numpy()
    # A probability near the middle of two numbers may go the other way in FP32.
    assert np.linalg.norm(actual - expected) < 5e-3 * np.linalg.norm(expected)
    assert np.median(np.abs(actual - expected)) < 1e-6


def test_little_is_lost_to_the_floats(attend: QuantizedAttend) -> None:
    exact = Attend()(*operands())
    assert 0 < float((attend(*operands()) - exact).norm()) < 0.05 * float(exact.norm())


def test_heads_computed_apart_are_those_of_one_export(attend: QuantizedAttend) -> None:
    assert torch.equal(attend(*operands()), attend._mixed(*operands()))


def test_calibration_sees_the_probabilities_of_some_queries() -> None:
    """The number of queries is bounded, whatever the number of tokens, and each row of probabilities sums to 1."""
    for tokens in (7, SAMPLED_QUERIES, 3 * SAMPLED_QUERIES + 1):
        seen = dict(operands_of(*operands(tokens)))["probabilities"]
        assert seen.shape[2] <= SAMPLED_QUERIES
        assert seen.shape[3:] == (tokens, 1)
        torch.testing.assert_close(seen.sum(-2)[..., 0], torch.ones(seen.shape[:3]))
