"""Each quantized layer against the same computation written out with plain tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.linear import HalfLayer, QuantLayer, Source, stored_layer
from vggt_edge.calibration.quantization.operators import DYNAMIC_SCALE_MIN, fake_quantize_dynamic
from vggt_edge.calibration.quantization.ranges import INPUT_RANGES, WEIGHT_RANGES
from vggt_edge.calibration.scheme import INT4, INT8, SCHEMES

SCALE = 0.03125


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def restored(weight: Tensor, bits: int, group: int | None = None, axis: int = 0) -> Tensor:
    limits = WEIGHT_RANGES[INT4 if bits == 4 else INT8]
    spread = q.spread(q.scale_of(q.peaks(weight, group, axis), limits.levels), weight, axis)
    return q.dequantize(q.quantize(weight, spread, limits), spread)


def form_of(source: nn.Module, scheme: str, group: int | None = None) -> Form:
    return Form.of(SCHEMES[scheme], LayerShape.of(source), group)


def quantized(source: Source, scheme: str, scale: float | None = None, group: int | None = None) -> QuantLayer:
    return QuantLayer(source, form_of(source, scheme, group), input_scale=scale)


def on_grid(x: Tensor) -> Tensor:
    return (x / SCALE).round().clamp(-128, 127) * SCALE


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 32), (4, 64), (4, 128)])
def test_weight_only_linear(bits: int, group: int | None) -> None:
    source, x = nn.Linear(128, 16), torch.randn(2, 5, 128)
    expected = functional.linear(x, restored(source.weight, bits, group), source.bias)
    torch.testing.assert_close(quantized(source, f"w{bits}a16", group=group)(x), expected)


def test_static_int8_linear_quantizes_and_saturates_its_input() -> None:
    source, x = nn.Linear(64, 8, bias=False), 3 * torch.randn(1, 7, 64)
    assert float(x.abs().max()) > 128 * SCALE
    expected = functional.linear(on_grid(x), restored(source.weight, 8))
    torch.testing.assert_close(quantized(source, "w8a8", SCALE)(x), expected)


@pytest.mark.parametrize("scale", [None, SCALE])
def test_convolution(scale: float | None) -> None:
    source, x = nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(2, 4, 9, 9)
    inputs = x if scale is None else on_grid(x)
    expected = functional.conv2d(inputs, restored(source.weight, 8), source.bias, stride=2, padding=1)
    torch.testing.assert_close(quantized(source, "w8a8" if scale else "w8a16", scale)(x), expected)


@pytest.mark.parametrize("scale", [None, SCALE])
def test_transposed_convolution_scales_its_output_channels(scale: float | None) -> None:
    source, x = nn.ConvTranspose2d(4, 6, 4, stride=4), torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        source.weight *= torch.logspace(-2, 2, 6)[None, :, None, None]
    inputs = x if scale is None else on_grid(x)
    expected = functional.conv_transpose2d(inputs, restored(source.weight, 8, axis=1), source.bias, stride=4)
    torch.testing.assert_close(quantized(source, "w8a8" if scale else "w8a16", scale)(x), expected)


def written_out(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of (rows, n) through int8 and back, asymmetric with zero in its range; and the step of each row."""
    low, high = x.amin(dim=1, keepdim=True).clamp(max=0), x.amax(dim=1, keepdim=True).clamp(min=0)
    step = ((high - low) / 255).clamp(min=DYNAMIC_SCALE_MIN)
    zero = (-128 - (low / step).round()).clamp(-128, 127)
    integers = ((x * (1 / step)).round() + zero).clamp(-128, 127)
    return (integers - zero) * step, step


def per_token(x: Tensor) -> Tensor:
    return form_of(nn.Linear(x.shape[-1], 1), "w8a8d").fake_quantize_input(x, None)


ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(2, 40)), elements=st.floats(-1e6, 1e6, width=32))


@settings(deadline=None, max_examples=60)
@given(ROWS)
@example(np.zeros((3, 8), np.float32))
@example(np.full((2, 4), 3.0, np.float32))
@example(np.full((2, 4), -2.0, np.float32))
@example(np.array([[1e-38, -1e-38], [1e-45, 0.0], [1e6, -1e-6]], np.float32))
def test_a_row_loses_at_most_half_a_step_and_keeps_its_zeros(rows: np.ndarray) -> None:
    x = torch.from_numpy(rows)
    got, (expected, step) = per_token(x), written_out(x)
    assert torch.equal(got, expected)
    # The quotient is rounded before the integer is: a share of the largest of its values.
    assert bool(((got - x).abs() <= step * (0.5 + 255 * 2**-22)).all())
    assert bool((got[x == 0] == 0).all())


@settings(deadline=None, max_examples=20)
@given(ROWS, st.floats(1e3, 2.0**90, width=32))
def test_an_outlier_costs_nobody_but_its_own_token(rows: np.ndarray, outlier: float) -> None:
    x = torch.from_numpy(np.concatenate([rows, rows[:1]]))
    x[0, 0] = outlier
    assert torch.equal(per_token(x)[1:], per_token(x[1:]))


def test_constant_tokens_are_exact_up_to_the_last_bit() -> None:
    """The range is from zero to the constant, so that it lies on an end of the grid."""
    x = torch.tensor([[3.7], [-0.01], [1e-20]]).expand(-1, 16).contiguous()
    torch.testing.assert_close(per_token(x), x, rtol=1e-6, atol=0)


def test_tokens_may_have_any_rank() -> None:
    x = torch.randn(2, 3, 5, 16) * torch.logspace(-3, 3, 30).reshape(2, 3, 5, 1)
    expected, _ = written_out(x.reshape(30, 16))
    assert torch.equal(per_token(x), expected.reshape(x.shape))
    assert torch.equal(per_token(x[0, 0, 0]), expected[0])


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 32)])
def test_dynamic_linear_quantizes_every_token_on_its_own(bits: int, group: int | None) -> None:
    source, x = nn.Linear(64, 8), torch.randn(7, 64) * torch.logspace(-3, 3, 7)[:, None]
    layer = quantized(source, f"w{bits}a8d", group=group)
    expected = functional.linear(written_out(x)[0], layer.dequantized(), source.bias)
    torch.testing.assert_close(layer(x), expected)


def test_group_scales_beside_dynamic_inputs_are_bfloat16_and_the_weights_are_quantized_with_them() -> None:
    source = nn.Linear(128, 16)
    with torch.no_grad():
        source.weight *= torch.logspace(-8, 4, 16)[:, None]
        source.weight[3, 32:64] = 0
    layer = quantized(source, "w4a8d")
    scale = layer.weight_scale
    assert torch.equal(scale.to(torch.bfloat16).to(torch.float32), scale)
    assert bool((scale > 0).all())
    spread = q.spread(scale, source.weight)
    assert torch.equal(layer.weight_q, q.quantize(source.weight.detach(), spread, WEIGHT_RANGES[INT4]))
    assert not torch.equal(scale, quantized(source, "w4a16", group=32).weight_scale)


@pytest.mark.parametrize("channels", [1, 4])
def test_dynamic_convolution_quantizes_every_image_on_its_own(channels: int) -> None:
    source = nn.Conv2d(channels, 6, 3, stride=2, padding=1)
    x = torch.randn(3, channels, 9, 9) * torch.tensor([1e-3, 1.0, 1e3]).reshape(3, 1, 1, 1)
    inputs = written_out(x.flatten(1))[0].reshape(x.shape)
    expected = functional.conv2d(inputs, restored(source.weight, 8), source.bias, stride=2, padding=1)
    torch.testing.assert_close(quantized(source, "w8a8d")(x), expected)
    assert torch.equal(fake_quantize_dynamic(x, [1, *x.shape[1:]], INPUT_RANGES[INT8]), inputs)


def test_dynamic_transposed_convolution() -> None:
    source, x = nn.ConvTranspose2d(4, 6, 4, stride=4), torch.randn(2, 4, 3, 3)
    inputs = written_out(x.flatten(1))[0].reshape(x.shape)
    expected = functional.conv_transpose2d(inputs, restored(source.weight, 8, axis=1), source.bias, stride=4)
    torch.testing.assert_close(quantized(source, "w8a8d")(x), expected)


@pytest.mark.parametrize(
    ("source", "x"),
    [
        (nn.Linear(8, 4), torch.ones(1, 3, 8)),
        (nn.Conv2d(2, 4, 3, padding=1), torch.ones(1, 2, 5, 5)),
        (nn.ConvTranspose2d(2, 4, 2, stride=2), torch.ones(1, 2, 5, 5)),
    ],
)
def test_half_layers_store_fp16_and_compute_fp32(source: nn.Module, x: Tensor) -> None:
    half = stored_layer(source, form_of(source, "fp16"))
    assert isinstance(half, HalfLayer)
    result = half(x)
    assert half.get_buffer("weight_half").dtype == torch.float16
    assert result.dtype == torch.float32
    with torch.no_grad():
        weight = source.get_parameter("weight")
        weight.copy_(weight.to(torch.float16).to(torch.float32))
    torch.testing.assert_close(result, source(x))


def test_a_weight_beyond_fp16_is_refused() -> None:
    source = nn.Linear(2, 2)
    nn.init.constant_(source.weight, 1e5)
    with pytest.raises(ValueError, match="overflows FP16"):
        stored_layer(source, form_of(source, "fp16"))


def test_padding_that_runtimes_lack_is_refused() -> None:
    with pytest.raises(ValueError, match="padding"):
        quantized(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "w8a16")
