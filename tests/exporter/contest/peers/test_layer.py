"""The simulated linear of the comparison against the layers that exports are made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.operators import fake_quantize_dynamic
from vggt_edge.calibration.quantization.ranges import INPUT_RANGES, Range
from vggt_edge.calibration.scheme import INT4, SCHEMES
from vggt_edge.devices.errors import UsageError
from vggt_edge.exporter.contest.peers.layer import SimulatedLinear, form_of, grid, rounded_weight, static_scale

SCALE = 0.03125


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ["fp32", "fp16", "w8a16", "w8a8", "w8a8d", "w4a16", "w4a8d", "w4a4d"])
@pytest.mark.parametrize("width", [128, 96, 40])
def test_computes_what_an_export_computes(name: str, width: int) -> None:
    """Bit for bit, rounded to nearest; a width of 40 has no groups and so 8 bits in every integer scheme."""
    source, x, scheme = nn.Linear(width, 24), 3 * torch.randn(2, 7, width), SCHEMES[name]
    real = quantized(source, Form.of(scheme, LayerShape.of(source)), SCALE if name == "w8a8" else None)
    ours = SimulatedLinear(source, rounded_weight(source.weight, scheme), scheme, input_scale=SCALE)
    assert torch.equal(ours(x), real(x))


def test_divides_then_rotates_then_quantizes() -> None:
    source, x, scheme = nn.Linear(32, 8), torch.randn(5, 32), SCHEMES["w8a8"]
    divisor, rotation = torch.rand(32) + 0.5, torch.linalg.qr(torch.randn(32, 32)).Q
    weight = (source.weight.detach() * divisor) @ rotation
    layer = SimulatedLinear(source, weight, scheme, input_scale=SCALE, divisor=divisor, rotation=rotation)
    expected = (((x / divisor) @ rotation / SCALE).round().clamp(-128, 127) * SCALE) @ weight.T + source.bias
    torch.testing.assert_close(layer(x), expected)
    plain = SimulatedLinear(source, weight, SCHEMES["fp32"], divisor=divisor, rotation=rotation)
    torch.testing.assert_close(plain(x), source(x), rtol=1e-5, atol=1e-5)


def test_clip_narrows_the_dynamic_range_of_each_token() -> None:
    """15 steps from half the smallest to half the largest value, zero among them; what lies beyond saturates."""
    source, scheme = nn.Linear(32, 32, bias=False), SCHEMES["w4a4d"]
    x = torch.randn(6, 32)
    layer = SimulatedLinear(source, torch.eye(32), scheme, clip=0.5)
    low, high = x.min(dim=1, keepdim=True).values / 2, x.max(dim=1, keepdim=True).values / 2
    step = (high - low) / 15
    inside = (x > low) & (x < high)
    error = (layer(x) - x).abs()
    assert bool((error <= step * 0.501)[inside].all())
    assert bool((layer(x) <= high + step / 2).all())
    assert bool((layer(x) >= low - step / 2).all())


@pytest.mark.parametrize("name", ["w8a8", "w8a8d"])
def test_channel_grids(name: str) -> None:
    """One scale per output channel, and as far as ``clip`` says."""
    weight = torch.randn(6, 64)
    scale, limits = grid(weight, SCHEMES[name], clip=torch.tensor([1.0, 0.5] * 3))
    assert limits == Range(-127, 127)
    expected = q.fp16_ceil(weight.abs().amax(dim=1) * torch.tensor([1.0, 0.5] * 3) / 127)
    assert torch.equal(scale, expected[:, None])


@pytest.mark.parametrize(("name", "group"), [("w4a16", 64), ("w4a8d", 32), ("w4a4d", 32)])
def test_group_grids(name: str, group: int) -> None:
    """One scale per group, FP16 for weights alone and bfloat16 beside dynamic activations."""
    weight, clip = torch.randn(6, 128), torch.rand(6, 128 // group) / 2 + 0.5
    scale, limits = grid(weight, SCHEMES[name], clip)
    rounding = q.fp16_ceil if name == "w4a16" else q.bfloat16_nearest
    expected = rounding(weight.reshape(6, -1, group).abs().amax(dim=2) * clip / 7)
    assert limits == Range(-8, 7)
    assert torch.equal(scale, expected.repeat_interleave(group, dim=1))


def test_clipping_saturates_weights() -> None:
    weight = torch.randn(6, 64)
    stored = rounded_weight(weight, SCHEMES["w4a16"], 0.5)
    assert bool((stored.abs().amax(dim=1) <= weight.abs().amax(dim=1) * 0.5 * 8 / 7 * 1.001).all())


def test_zeros_stay_zeros() -> None:
    weight = torch.zeros(4, 64)
    for name in ("w8a8", "w4a16", "w4a8d"):
        assert torch.equal(rounded_weight(weight, SCHEMES[name]), weight)


def test_static_scales_reach_the_peak() -> None:
    assert static_scale(SCHEMES["w8a8"], 127.0) == 1.0
    assert static_scale(SCHEMES["w8a8d"], 127.0) is None
    with pytest.raises(UsageError, match="no input_scale"):
        SimulatedLinear(nn.Linear(32, 8), torch.zeros(8, 32), SCHEMES["w8a8"])


def test_no_palettes() -> None:
    with pytest.raises(UsageError, match="p4a16"):
        form_of(torch.zeros(128, 128), SCHEMES["p4a16"])


def test_unclipped_inputs_are_those_of_an_export() -> None:
    x = torch.randn(5, 32)
    layer = SimulatedLinear(nn.Linear(32, 32, bias=False), torch.eye(32), SCHEMES["w4a4d"])
    torch.testing.assert_close(layer(x), fake_quantize_dynamic(x, [1, 32], INPUT_RANGES[INT4]))
