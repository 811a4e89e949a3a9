"""Elementwise operations against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from vggt_edge.runtimes.coreml.interpreter import MilSession

Array = np.ndarray
RANDOM = np.random.default_rng(0)


def _numbers(*shape: int, low: float = -3.0, high: float = 3.0) -> Array:
    return RANDOM.uniform(low, high, shape).astype(np.float32)


UNARY = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
# Where it is defined; the rest takes -3 to 3.
DOMAINS = {"acos": (-0.9, 0.9), "asin": (-0.9, 0.9), "atanh": (-0.9, 0.9), "sqrt": (0.1, 9.0)}


@pytest.mark.parametrize("op", sorted(UNARY))
def test_unary(op: str, run_op: Callable[..., Any]) -> None:
    """Each unary operation is torch's of the same name."""
    low, high = DOMAINS.get(op, (-3.0, 3.0))
    x = _numbers(2, 3, 5, low=low, high=high)
    assert_allclose(run_op(op, {"x": x}), UNARY[op](torch.tensor(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_round_takes_halves_to_even(run_op: Callable[..., Any]) -> None:
    """0.5 becomes 0 and 1.5 becomes 2, on both sides of zero."""
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert_array_equal(run_op("round", {"x": x}), [-2, -2, 0, 0, 2, 2])


@pytest.mark.parametrize(
    ("op", "parameters", "expected"),
    [
        ("clip", {"alpha": -1.0, "beta": 0.5}, lambda x: x.clamp(-1.0, 0.5)),
        ("threshold", {"alpha": 0.25}, lambda x: x.clamp(min=0.25)),
        ("leaky_relu", {"alpha": 0.1}, lambda x: F.leaky_relu(x, 0.1)),
        ("elu", {"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
        (
            "prelu",
            {"alpha": np.array([0.1, 0.2, 0.3], np.float32)},
            lambda x: F.prelu(x, torch.tensor([0.1, 0.2, 0.3])),
        ),
        ("thresholded_relu", {"alpha": 0.5}, lambda x: torch.where(x >= 0.5, x, 0.0)),
        ("clamped_relu", {"alpha": 0.1, "beta": 1.5}, lambda x: F.leaky_relu(x, 0.1).clamp(max=1.5)),
        ("linear_activation", {"alpha": 2.0, "beta": -1.0}, lambda x: 2 * x - 1),
        ("scaled_tanh", {"alpha": 1.7, "beta": 0.6}, lambda x: 1.7 * torch.tanh(0.6 * x)),
        ("sigmoid_hard", {"alpha": 0.2, "beta": 0.5}, lambda x: (0.2 * x + 0.5).clamp(0, 1)),
        ("gelu", {"mode": "EXACT"}, F.gelu),
        ("gelu", {"mode": "TANH_APPROXIMATION"}, lambda x: F.gelu(x, approximate="tanh")),
        ("gelu", {"mode": "SIGMOID_APPROXIMATION"}, lambda x: x * torch.sigmoid(1.702 * x)),
        ("log", {"epsilon": 10.0}, lambda x: torch.log(x + 10)),
        ("rsqrt", {"epsilon": 10.0}, lambda x: torch.rsqrt(x + 10)),
        ("inverse", {"epsilon": 10.0}, lambda x: 1 / (x + 10)),
    ],
)
def test_parameterised(
    op: str, parameters: dict[str, Any], expected: Callable[..., Any], run_op: Callable[..., Any]
) -> None:
    """Operations with parameters, against what MIL says of them."""
    x = _numbers(2, 3, 4, 2)
    assert_allclose(run_op(op, {"x": x}, **parameters), expected(torch.tensor(x)).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", ["log", "rsqrt", "inverse"])
def test_default_epsilon(op: str, run_op: Callable[..., Any]) -> None:
    """Without an epsilon the operation's own default is small against the argument."""
    x = _numbers(6, low=1.0, high=2.0)
    expected = {"log": np.log(x), "rsqrt": 1 / np.sqrt(x), "inverse": 1 / x}[op]
    assert_allclose(run_op(op, {"x": x}), expected, rtol=2e-4)


BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.div,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
}


@settings(deadline=None, max_examples=25)
@given(op=st.sampled_from(sorted(BINARY)), data=st.data())
def test_binary_broadcasts(op: str, data: st.DataObject, run_op: Callable[..., Any]) -> None:
    """Shapes broadcast as in torch, whichever axes are one or missing."""
    full = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    kept = [size if data.draw(st.booleans()) else 1 for size in full]
    x, y = _numbers(*full), _numbers(*kept[data.draw(st.integers(0, len(full) - 1)) :])
    x.flat[0] = y.flat[0]
    expected = BINARY[op](torch.tensor(x), torch.tensor(y)).to(torch.float32)
    assert_allclose(run_op(op, {"x": x, "y": y}), expected.numpy(), rtol=1e-6, atol=1e-6)


def test_pow(run_op: Callable[..., Any]) -> None:
    """Powers of positive numbers and squares of negative ones."""
    x, y = _numbers(3, 4, low=0.1, high=2.0), _numbers(4)
    assert_allclose(run_op("pow", {"x": x, "y": y}), x**y, rtol=1e-5)
    assert_allclose(run_op("pow", {"x": -x}, y=2.0), x**2, rtol=1e-6)


@pytest.mark.parametrize("op", ["floor_div", "mod", "add", "mul"])
def test_integers(op: str, run_op: Callable[..., Any]) -> None:
    """Integer division rounds down, and the remainder has the sign of the divisor."""
    x, y = np.array([-7, 7, -7, 7], np.int32), np.array([2, 2, -2, -2], np.int32)
    expected = {"floor_div": x // y, "mod": np.mod(x, y), "add": x + y, "mul": x * y}[op]
    assert_array_equal(run_op(op, {"x": x, "y": y}), expected)


@pytest.mark.parametrize("op", ["logical_and", "logical_or", "logical_xor"])
def test_logic(op: str, run_op: Callable[..., Any]) -> None:
    """All four pairs of truth values."""
    x, y = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert_array_equal(run_op(op, {"x": x, "y": y}), getattr(np, op)(x, y))


def test_not_and_select(run_op: Callable[..., Any]) -> None:
    """``select`` takes from ``a`` where the condition holds, and broadcasts."""
    condition, a, b = np.array([[True], [False]]), _numbers(2, 3), _numbers(2, 3)
    assert_array_equal(run_op("logical_not", {"x": condition}), ~condition)
    assert_array_equal(run_op("select", {"cond": condition, "a": a, "b": b}), np.where(condition, a, b))


@pytest.mark.parametrize(
    ("dtype", "limits"), [("int32", (-(2**31), 2**31 - 1)), ("int8", (-128, 127)), ("uint8", (0, 255))]
)
def test_cast_cuts_and_holds_the_range(dtype: str, limits: tuple[int, int], save: Callable[..., Any]) -> None:
    """A float becomes an integer by dropping what is behind the point, and stays in the integer's range."""
    x = np.array([-1e12, -2.9, -0.5, 0.5, 2.9, 127.9, 1e12, np.nan], np.float32)
    path = save(lambda mb, x: mb.cast(x=mb.cast(x=x, dtype=dtype), dtype="fp32"), {"x": ((8,), "fp32")})
    expected = np.clip(np.trunc(np.nan_to_num(x, nan=0.0)), *limits)
    (result,) = MilSession(path, "fp32").run({"x": x}).values()
    assert_allclose(result, expected)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_cumsum(reverse: bool, exclusive: bool, run_op: Callable[..., Any]) -> None:
    """Sums up to an element, from either end, with or without the element itself."""
    x = _numbers(3, 4)
    turned = x[:, ::-1] if reverse else x
    expected = turned.cumsum(1) - (turned if exclusive else 0)
    expected = expected[:, ::-1] if reverse else expected
    result = run_op("cumsum", {"x": x}, axis=1, reverse=reverse, exclusive=exclusive)
    assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_fill_and_range(save: Callable[..., Any]) -> None:
    """Constants made by the program itself."""

    def body(mb: Any, x: Any) -> list[Any]:
        return [
            mb.add(x=x, y=mb.fill(shape=[2, 3], value=1.5), name="filled"),
            mb.add(x=x, y=mb.range_1d(start=0.0, end=3.0, step=1.0), name="ranged"),
        ]

    x = _numbers(2, 3)
    result = MilSession(save(body, {"x": ((2, 3), "fp32")}), "fp32").run({"x": x})
    assert_allclose(result["filled"], x + 1.5)
    assert_allclose(result["ranged"], x + np.arange(3, dtype=np.float32))
