"""Each quantized layer against the same computation written out with plain tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration import quantize as q
from vggt_edge.calibration.linear import (
    HalfConv2d,
    HalfConvTranspose2d,
    HalfLinear,
    QuantConv2d,
    QuantConvTranspose2d,
    QuantLinear,
)

SCALE = 0.03125


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def restored(weight: Tensor, bits: int, group: int | None = None, axis: int = 0) -> Tensor:
    scale = q.channel_scale(weight, bits, axis) if group is None else q.group_scale(weight, bits, group)
    spread = q.spread(scale, weight, axis)
    return q.dequantize(q.quantize(weight, spread, q.WEIGHT_RANGES[bits]), spread)


def on_grid(x: Tensor) -> Tensor:
    return (x / SCALE).round().clamp(-128, 127) * SCALE


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 32), (4, 64), (4, 128), (8, 64)])
def test_weight_only_linear(bits: int, group: int | None) -> None:
    source, x = nn.Linear(128, 16), torch.randn(2, 5, 128)
    expected = functional.linear(x, restored(source.weight, bits, group), source.bias)
    torch.testing.assert_close(QuantLinear(source, bits=bits, group_size=group)(x), expected)


def test_static_int8_linear_quantizes_and_saturates_its_input() -> None:
    source, x = nn.Linear(64, 8, bias=False), 3 * torch.randn(1, 7, 64)
    assert float(x.abs().max()) > 128 * SCALE
    expected = functional.linear(on_grid(x), restored(source.weight, 8))
    torch.testing.assert_close(QuantLinear(source, bits=8, input_scale=SCALE)(x), expected)


@pytest.mark.parametrize("scale", [None, SCALE])
def test_convolution(scale: float | None) -> None:
    source, x = nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(2, 4, 9, 9)
    inputs = x if scale is None else on_grid(x)
    expected = functional.conv2d(inputs, restored(source.weight, 8), source.bias, stride=2, padding=1)
    torch.testing.assert_close(QuantConv2d(source, input_scale=scale)(x), expected)


@pytest.mark.parametrize("scale", [None, SCALE])
def test_transposed_convolution_scales_its_output_channels(scale: float | None) -> None:
    source, x = nn.ConvTranspose2d(4, 6, 4, stride=4), torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        source.weight *= torch.logspace(-2, 2, 6)[None, :, None, None]
    inputs = x if scale is None else on_grid(x)
    expected = functional.conv_transpose2d(inputs, restored(source.weight, 8, axis=1), source.bias, stride=4)
    torch.testing.assert_close(QuantConvTranspose2d(source, input_scale=scale)(x), expected)


@pytest.mark.parametrize(
    ("source", "form", "x"),
    [
        (nn.Linear(8, 4), HalfLinear, torch.ones(1, 3, 8)),
        (nn.Conv2d(2, 4, 3, padding=1), HalfConv2d, torch.ones(1, 2, 5, 5)),
        (nn.ConvTranspose2d(2, 4, 2, stride=2), HalfConvTranspose2d, torch.ones(1, 2, 5, 5)),
    ],
)
def test_half_layers_store_fp16_and_compute_fp32(source: nn.Module, form: type[nn.Module], x: Tensor) -> None:
    half = form(source)
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
        HalfLinear(source)


def test_padding_that_runtimes_lack_is_refused() -> None:
    with pytest.raises(ValueError, match="padding"):
        QuantConv2d(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
