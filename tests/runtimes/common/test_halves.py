"""FP16 constants: what may be rounded, and what has to be refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.common.halves import FP16_TINY, NORM_ERROR_MAX, norm_error, scale_to_half, to_half

NORMAL = st.floats(min_value=2.0**-13, max_value=60000, width=32)
ANY = st.floats(min_value=-60000, max_value=60000, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=NORMAL))
def test_numbers_of_normal_size_are_kept_to_eleven_bits(values: np.ndarray) -> None:
    assert np.abs(to_half("w", values).astype(np.float32) / values - 1).max() <= 2.0**-11


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=ANY))
def test_what_is_not_refused_is_close_in_norm(values: np.ndarray) -> None:
    if np.abs(values).max() >= 2.0**-10:
        assert norm_error(values, to_half("w", values)) <= NORM_ERROR_MAX
    elif norm_error(values, values.astype(np.float16)) > NORM_ERROR_MAX:
        with pytest.raises(LoweringError, match="underflows"):
            to_half("w", values)


def test_small_entries_beside_large_ones_may_vanish() -> None:
    assert to_half("w", np.array([1.0, 1e-12], np.float32)).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 70000.0], "layer.bias overflows FP16: its largest magnitude is 70000"),
        ([1e-9, 1e-9], "layer.bias underflows FP16"),
        ([1e-7], "layer.bias underflows FP16"),
        ([float("nan")], "layer.bias holds NaN"),
    ],
)
def test_what_fp16_cannot_hold_is_refused_by_name(values: list[float], message: str) -> None:
    with pytest.raises(LoweringError, match=message) as caught:
        to_half("layer.bias", np.array(values, np.float32))
    assert caught.value.exit_code == 6


def test_an_attention_mask_may_hold_infinity() -> None:
    assert to_half("mask", np.array([0.0, -np.inf], np.float32))[1] == -np.inf


def test_the_scale_of_a_dead_channel_stays_above_zero() -> None:
    scale = scale_to_half("s", np.array([1e-2, 0.0, 1e-12], np.float32))
    assert (scale > 0).all()
    assert scale[1] == np.float16(FP16_TINY)


def test_a_scale_that_fp16_would_distort_is_refused() -> None:
    with pytest.raises(LoweringError, match="underflows"):
        scale_to_half("input_scale", np.array(1e-6, np.float32))
