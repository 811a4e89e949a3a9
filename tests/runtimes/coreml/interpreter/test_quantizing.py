"""quantize and dequantize against their definition in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

Array = np.ndarray
DTYPES = {"int8": np.int8, "uint8": np.uint8}


def _round_trip(save: Callable[..., Any], shape: tuple[int, ...], dtype: str, **scales: Any) -> Any:
    """A package of quantize, whose integers are an output, and dequantize."""

    def body(mb: Any, x: Any) -> list[Any]:
        steps = mb.quantize(input=x, output_dtype=dtype, **scales)
        return [mb.cast(x=steps, dtype="int32", name="steps"), mb.dequantize(input=steps, name="back", **scales)]

    return save(body, {"x": (shape, "fp32")}, 17)


@settings(deadline=None, max_examples=25)
@given(
    dtype=st.sampled_from(sorted(DTYPES)), axis=st.sampled_from([None, 0, 1, -1]), zero=st.booleans(), data=st.data()
)
def test_quantize(
    dtype: str,
    axis: int | None,
    zero: bool,
    data: st.DataObject,
    save: Callable[..., Any],
    run_saved: Callable[..., Any],
) -> None:
    """clamp(round(x / scale) + zero_point), per tensor or along an axis, and back."""
    random = np.random.default_rng(data.draw(st.integers(0, 100)))
    shape = (2, 3, 4)
    limits = np.iinfo(DTYPES[dtype])
    size: Any = () if axis is None else shape[axis]
    scale = random.uniform(0.01, 0.1, size).astype(np.float32)
    offset = random.integers(limits.min, limits.max, size).astype(DTYPES[dtype])
    parameters = {"scale": scale} | ({"zero_point": offset} if zero else {}) | ({} if axis is None else {"axis": axis})
    x = random.uniform(-12, 12, shape).astype(np.float32)
    steps, back = run_saved(_round_trip(save, shape, dtype, **parameters), {"x": x})
    laid = [1, 1, 1]
    if axis is not None:
        laid[axis] = -1
    scale, shift = scale.reshape(laid), (offset.reshape(laid) if zero else np.int8(0)).astype(np.float32)
    expected = np.clip(np.round(x / scale) + shift, limits.min, limits.max)
    assert_array_equal(steps, expected)
    assert_allclose(back, scale * (expected - shift), rtol=1e-6)


def test_halves_infinities_and_nan(save: Callable[..., Any], run_saved: Callable[..., Any]) -> None:
    """Halves go to the even number, infinities to the ends, NaN to the zero point."""
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, np.inf, -np.inf, np.nan], np.float32)
    path = _round_trip(save, x.shape, "int8", scale=np.float32(1.0))
    assert_array_equal(run_saved(path, {"x": x})[0], [0, 2, 2, 0, -2, 126, 127, 127, -128, 0])


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_whole_range_survives(dtype: str, save: Callable[..., Any], run_saved: Callable[..., Any]) -> None:
    """Every step comes back as itself."""
    limits = np.iinfo(DTYPES[dtype])
    x = np.arange(limits.min, limits.max + 1, dtype=np.float32) * np.float32(0.25)
    _, back = run_saved(_round_trip(save, x.shape, dtype, scale=np.float32(0.25)), {"x": x})
    assert_array_equal(back, x)
