"""Narrow floats, number by number against ml_dtypes, and the scales of FP4 blocks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vggt_edge.calibration.quantization.form import Form, Kind, LayerShape
from vggt_edge.calibration.quantization.operators import fp4_blocks
from vggt_edge.calibration.quantization.ranges import BLOCK, E2M1, E4M3, Range, e4m3_unit
from vggt_edge.calibration.scheme import SCHEMES

Floats = npt.NDArray[np.float32]
TYPES = [(E4M3(), ml_dtypes.float8_e4m3fn), (E2M1(), ml_dtypes.float4_e2m1fn)]
values = hnp.arrays(np.float32, 64, elements=st.floats(-1000, 1000, width=32))


@pytest.mark.parametrize(("numbers", "dtype"), TYPES)
@given(values)
def test_the_nearest_number_is_that_of_ml_dtypes(numbers: Range, dtype: type, given_values: Floats) -> None:
    """Between the largest numbers; what lies outside is clipped."""
    clipped = given_values.clip(numbers.low, numbers.high)
    expected = clipped.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(numbers.nearest(torch.from_numpy(given_values)).numpy(), expected)


@pytest.mark.parametrize(("numbers", "dtype"), TYPES)
def test_every_number_and_every_middle_between_two(numbers: Range, dtype: type) -> None:
    """All codes are numbers of their own; a tie goes to the even code, as IEEE 754 has it."""
    codes = np.arange(256 if dtype is ml_dtypes.float8_e4m3fn else 16, dtype=np.uint8)
    every = codes.view(ml_dtypes.float8_e4m3fn) if len(codes) == 256 else codes.astype(np.uint8).view(dtype)
    exact = np.unique(every.astype(np.float32)[np.isfinite(every.astype(np.float32))])
    assert (exact.min(), exact.max()) == (numbers.low, numbers.high)
    np.testing.assert_array_equal(numbers.nearest(torch.from_numpy(exact)).numpy(), exact)
    middles = (exact[1:] + exact[:-1]) / 2
    expected = middles.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(numbers.nearest(torch.from_numpy(middles)).numpy(), expected)


@given(hnp.arrays(np.float32, (3, 4 * BLOCK), elements=st.floats(-8, 8, width=32)), st.integers(-12, 3))
def test_fp4_weights_are_numbers_of_the_format(weight: Floats, exponent: int) -> None:
    """Codes are E2M1, scales E4M3 in units of a power of two, and no value is off by more than half a gap of 2."""
    form = Form.of(SCHEMES["nvfp4"], LayerShape(Kind.LINEAR, 4 * BLOCK, 3, weight.size))
    original = torch.from_numpy(weight) * 2.0**exponent
    scale = form.scale_of(original)
    units = scale / e4m3_unit(float(scale.max()))
    assert torch.equal(units, E4M3().nearest(units))
    assert torch.equal(form.stored_scale(scale), scale)
    codes = form.quantize(original, scale).float() / 2
    assert torch.equal(codes, E2M1().nearest(codes))
    restored = form.fake_quantize(original, scale)
    # Half of the widest gap, and what a scale that was rounded down clips.
    assert bool(((restored - original).abs() <= form.spread(scale, original) * 1.4).all())


def test_four_over_six_takes_what_rounds_better() -> None:
    """A block of 4s and 3s is exact where its largest value becomes 4, and is not where it becomes 6."""
    block = torch.tensor([[4.0, 3.0] * 8])
    form = Form.of(SCHEMES["nvfp4"], LayerShape(Kind.LINEAR, BLOCK, 1, BLOCK))
    assert torch.equal(form.fake_quantize(block, form.scale_of(block)), block)
    assert float(form.scale_of(block)) == 1.0


@given(hnp.arrays(np.float32, (2, 2 * BLOCK), elements=st.floats(-100, 100, width=32)), st.integers(-9, 0))
def test_blocks_of_an_input(x: Floats, exponent: int) -> None:
    numbers, scales = fp4_blocks(torch.from_numpy(x), torch.tensor(2.0**exponent))
    assert torch.equal(numbers, E2M1().nearest(numbers))
    assert torch.equal(scales, E4M3().nearest(scales))
    assert scales.shape == (2, 2)


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 1.0, 448.0, 449.0, 3e38])
def test_the_unit_is_a_normal_power_of_two_that_reaches_the_largest(largest: float) -> None:
    unit = e4m3_unit(largest)
    assert unit == 2.0 ** round(np.log2(unit))
    assert np.float32(unit) >= np.finfo(np.float32).smallest_normal
    assert E4M3().high * unit >= largest


def test_a_width_that_sixteen_does_not_divide_gets_eight_bits() -> None:
    assert Form.of(SCHEMES["nvfp4"], LayerShape(Kind.LINEAR, 40, 8, 320)).scheme == "fp8"
    assert Form.of(SCHEMES["nvfp4a16"], LayerShape(Kind.LINEAR, 40, 8, 320)).scheme == "w8a16"
    assert Form.of(SCHEMES["nvfp4"], LayerShape(Kind.CONVOLUTION, 64, 8, 512)).scheme == "fp16"
    assert Form.of(SCHEMES["nvfp4"], LayerShape(Kind.LINEAR, 128, 8, 1024), 128).group_size == BLOCK
