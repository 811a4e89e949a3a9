"""The laws of symmetric quantization, over many random weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.ranges import WEIGHT_RANGES
from vggt_edge.calibration.scheme import INT4, INT8

finite = st.floats(-1e4, 1e4, width=32)
matrices = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(64)), elements=finite).map(torch.from_numpy)


RANGES = {numbers.bits: WEIGHT_RANGES[numbers] for numbers in (INT8, INT4)}


def unpacked(packed: Tensor, count: int) -> Tensor:
    """Inverse of ``pack_int4``: the first ``count`` values, flat int8."""
    nibbles = torch.stack([packed & 0x0F, packed >> 4], dim=1).reshape(-1)[:count].to(torch.int8)
    return torch.where(nibbles > 7, nibbles - 16, nibbles)


def scale_of(weight: Tensor, bits: int, group: int | None) -> Tensor:
    return q.scale_of(q.peaks(weight, group), RANGES[bits].levels)


def is_fp16(scale: Tensor) -> bool:
    return bool((scale.to(torch.float16).to(torch.float32) == scale).all())


@given(matrices, st.sampled_from([4, 8]), st.sampled_from([None, 32, 64]))
def test_round_trip_error_is_at_most_half_a_step(weight: Tensor, bits: int, group: int | None) -> None:
    scale = scale_of(weight, bits, group)
    step = q.spread(scale, weight).expand_as(weight)
    integers = q.quantize(weight, step, RANGES[bits])
    error = (q.dequantize(integers, step) - weight).abs()
    assert bool((error <= step * (0.5 + 1e-5)).all())
    assert is_fp16(scale)
    assert bool((scale > 0).all())
    assert int(integers.abs().max()) <= RANGES[bits].high


@given(hnp.arrays(np.int8, st.integers(0, 40), elements=st.integers(-8, 7)).map(torch.from_numpy))
def test_unpacking_undoes_packing(integers: Tensor) -> None:
    packed = q.pack_int4(integers)
    assert packed.numel() == math.ceil(integers.numel() / 2)
    assert torch.equal(unpacked(packed, integers.numel()), integers)


def test_low_half_comes_first() -> None:
    assert q.pack_int4(torch.tensor([1, -1, 7], dtype=torch.int8)).tolist() == [0xF1, 0x07]


def test_packing_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="four bits"):
        q.pack_int4(torch.tensor([8], dtype=torch.int8))


@given(st.floats(2.0**-17, 65000, width=32))
def test_a_bfloat16_scale_is_the_nearest_and_fp16_holds_it(value: float) -> None:
    rounded = q.bfloat16_nearest(torch.tensor([value]))
    assert torch.equal(rounded.to(torch.bfloat16).to(torch.float32), rounded)
    assert is_fp16(rounded)
    assert abs(float(rounded) - value) <= value * 2**-8


@given(st.floats(0, 2.0**-17, width=32))
def test_a_bfloat16_scale_is_never_zero(value: float) -> None:
    assert float(q.bfloat16_nearest(torch.tensor([value]))) == 2.0**-17


@given(matrices)
def test_groups_with_bfloat16_scales_hold_their_largest_weight(weight: Tensor) -> None:
    scale = q.scale_of(q.peaks(weight, 32), 7, q.bfloat16_nearest)
    step = q.spread(scale, weight)
    error = (q.dequantize(q.quantize(weight, step, RANGES[4]), step) - weight).abs()
    assert bool((error <= step * (0.5 + 1e-5)).all())


def test_a_bfloat16_scale_beyond_fp16_is_refused() -> None:
    """65500 is no bfloat16 number: the nearest one is 65536, which FP16 has not."""
    with pytest.raises(ValueError, match="no finite FP16 scale"):
        q.scale_of(torch.tensor([7 * 65500.0]), 7, q.bfloat16_nearest)
    assert float(q.scale_of(torch.tensor([7 * 65000.0]), 7, q.bfloat16_nearest)) == 65024


@given(st.floats(0, 65504, width=32))
def test_fp16_ceil_is_the_smallest_half_not_below(value: float) -> None:
    rounded = float(q.fp16_ceil(torch.tensor([value], dtype=torch.float32)))
    assert float(np.float16(rounded)) == rounded
    assert rounded >= value
    assert float(np.nextafter(np.float16(rounded), np.float16(-np.inf))) < value or value == 0


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_rows_and_groups_stay_zero(bits: int) -> None:
    weight = torch.zeros(2, 64)
    for scale in (scale_of(weight, bits, None), scale_of(weight, bits, 32)):
        assert bool((scale == q.ZERO_SCALE).all())
        assert not bool(q.quantize(weight, q.spread(scale, weight), RANGES[bits]).any())


@pytest.mark.parametrize("value", [1e-30, 6e4 * 7, 1e-7])
def test_extreme_magnitudes_keep_a_usable_scale(value: float) -> None:
    weight = torch.full((1, 32), value)
    scale = scale_of(weight, 4, 32)
    assert is_fp16(scale)
    restored = q.dequantize(q.quantize(weight, scale, RANGES[4]), scale)
    assert float((restored - weight).abs().max()) <= 0.5 * float(scale)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e9])
def test_a_magnitude_without_fp16_scale_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="FP16 scale"):
        scale_of(torch.full((2, 4), value), 8, None)


def test_transposed_convolution_has_its_channels_in_the_second_dimension() -> None:
    weight = torch.arange(24.0).reshape(2, 3, 2, 2)
    peaks = q.peaks(weight, None, axis=1)
    assert peaks.shape == (3,)
    assert q.spread(peaks, weight, axis=1).shape == (1, 3, 1, 1)


def test_a_group_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="groups of 64"):
        q.peaks(torch.zeros(2, 96), 64)


def test_activation_scale_covers_the_range() -> None:
    assert 127 * q.activation_scale(3.7) >= 3.7
    assert q.activation_scale(0.0) == q.ZERO_SCALE
