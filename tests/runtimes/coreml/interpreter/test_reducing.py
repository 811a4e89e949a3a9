"""Reductions against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

X = np.random.default_rng(0).uniform(0.5, 2.0, (2, 3, 4)).astype(np.float32)
EXPECTED: dict[str, Callable[..., Any]] = {
    "reduce_mean": np.mean,
    "reduce_sum": np.sum,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_l1_norm": lambda x, **where: np.abs(x).sum(**where),
    "reduce_l2_norm": lambda x, **where: np.sqrt(np.square(x).sum(**where)),
    "reduce_sum_square": lambda x, **where: np.square(x).sum(**where),
    "reduce_log_sum": lambda x, **where: np.log(x.sum(**where)),
    "reduce_log_sum_exp": lambda x, **where: np.log(np.exp(x).sum(**where)),
}


@settings(deadline=None, max_examples=40)
@given(
    op=st.sampled_from(sorted(EXPECTED)),
    axes=st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
    keep=st.booleans(),
    backwards=st.booleans(),
)
def test_reduction(op: str, axes: list[int], keep: bool, backwards: bool, run_op: Callable[..., Any]) -> None:
    """Any axes, kept or dropped, counted from either end."""
    named = [axis - 3 if backwards else axis for axis in axes]
    result = run_op(op, {"x": X}, axes=named, keep_dims=keep)
    assert_allclose(result, EXPECTED[op](X, axis=tuple(axes), keepdims=keep), rtol=1e-5)


def test_all_axes(run_op: Callable[..., Any]) -> None:
    """Without axes a scalar comes out."""
    assert_allclose(run_op("reduce_mean", {"x": X}), X.mean(), rtol=1e-6)


@pytest.mark.parametrize("op", ["reduce_argmax", "reduce_argmin"])
@pytest.mark.parametrize("keep", [False, True])
def test_places(op: str, keep: bool, run_op: Callable[..., Any]) -> None:
    """Where the largest and the smallest stand."""
    find = np.argmax if op == "reduce_argmax" else np.argmin
    assert_array_equal(run_op(op, {"x": X}, axis=1, keep_dims=keep), find(X, 1, keepdims=keep))
