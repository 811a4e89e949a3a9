"""Grids: what they round to is what a quantized layer finds again, and scales are numbers that a device stores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.linear import PaletteLayer, QuantLayer
from vggt_edge.calibration.quantization.tuned import Tuned, set_tuned
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.calibration.tuning.grids import BLOCK_PEAKS, Palette, Uniform, block_grid, palette_grid, uniform_grids

UNIFORM = ("w8a16", "w8a8", "w8a8d", "w4a16", "w4a8d", "w4a4d", "fp8", "nvfp4")
PALETTES = ("p4a16", "p6a16")
IN_FP16 = (*(name for name in UNIFORM if name != "nvfp4"), *PALETTES)
"""Schemes whose scales or tables are FP16 numbers; those of FP4 are E4M3 numbers in units of their tensor."""
SHRINKS = (1.0, 0.92, 0.5)


def layer_of(seed: int, magnitude: float) -> nn.Linear:
    """Rows of very different sizes, one of them zero."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(96, 64).requires_grad_(False)
    rows = torch.exp(torch.randn(64, 1, generator=generator)) * magnitude
    rows[3] = 0
    layer.weight = nn.Parameter(torch.randn(64, 96, generator=generator) * rows, requires_grad=False)
    return layer


def form_of(layer: nn.Module, name: str) -> Form:
    return Form.of(SCHEMES[name], LayerShape.of(layer), 64)


def restored(layer: nn.Linear, name: str) -> Tensor:
    """What the quantized form computes with."""
    form = quantized(layer, form_of(layer, name), 0.05)
    assert isinstance(form, QuantLayer | PaletteLayer)
    return form.dequantized()


def stored_numbers(grid: Uniform | Palette) -> Tensor:
    return grid.table if isinstance(grid, Palette) else grid.scale


def grids_of(layer: nn.Linear, name: str) -> list[Uniform] | list[Palette]:
    if name in PALETTES:
        return [palette_grid(layer, form_of(layer, name), torch.ones(layer.in_features))]
    return list(uniform_grids(layer, form_of(layer, name), SHRINKS))


def tuned_for(name: str, grid: Uniform | Palette) -> Tuned:
    if isinstance(grid, Palette):
        return Tuned(name, weight_table=grid.table)
    return Tuned(name, weight_scale=grid.scale)


@pytest.mark.parametrize("name", [*UNIFORM, *PALETTES])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), magnitude=st.sampled_from((1e-6, 1e-3, 1.0, 100.0)))
def test_a_quantized_layer_finds_every_value_again(name: str, seed: int, magnitude: float) -> None:
    """To the bit, on every shrink: rounding what is on the grid changes nothing."""
    layer = layer_of(seed, magnitude)
    weight = layer.weight.detach().clone()
    for grid in grids_of(layer, name):
        layer.weight = nn.Parameter(grid.rounded(weight), requires_grad=False)
        set_tuned(layer, tuned_for(name, grid))
        assert torch.equal(restored(layer, name), layer.weight)
        assert torch.equal(grid.rounded(layer.weight), layer.weight)


@pytest.mark.parametrize("name", [*UNIFORM, *PALETTES])
def test_columns_one_by_one_are_the_whole(name: str) -> None:
    """``nearest`` knows the group of a column from its index."""
    layer = layer_of(1, 1.0)
    for grid in grids_of(layer, name):
        columns = [grid.nearest(layer.weight[:, index], index) for index in range(layer.in_features)]
        assert torch.equal(torch.stack(columns, dim=1), grid.rounded(layer.weight))


@pytest.mark.parametrize("name", UNIFORM)
def test_the_widest_grid_is_that_of_plain_quantization(name: str) -> None:
    layer = layer_of(2, 1.0)
    widest = next(uniform_grids(layer, form_of(layer, name), (1.0,)))
    assert torch.equal(widest.rounded(layer.weight), restored(layer, name))


@pytest.mark.parametrize("name", IN_FP16)
@given(seed=st.integers(0, 10**6), magnitude=st.sampled_from((1e-7, 1.0, 1000.0)))
@settings(max_examples=8)
def test_scales_are_numbers_that_a_device_stores(name: str, seed: int, magnitude: float) -> None:
    """FP16, and bfloat16 too where XNNPACK stores the scales of groups so; none is zero."""
    for grid in grids_of(layer_of(seed, magnitude), name):
        numbers = stored_numbers(grid)
        assert torch.equal(numbers, numbers.half().float())
        if name in ("w4a8d", "w4a4d"):
            assert torch.equal(numbers, numbers.bfloat16().float())
        if isinstance(grid, Uniform):
            assert bool((numbers > 0).all())


@pytest.mark.parametrize("name", UNIFORM)
def test_smaller_grids_clip_and_are_finer(name: str, make_layer: Callable[..., nn.Linear]) -> None:
    """By the shrink, up to the rounding of the scale itself."""
    widest, _, half = uniform_grids(make_layer(), form_of(make_layer(), name), SHRINKS)
    torch.testing.assert_close(half.scale, widest.scale / 2, rtol=2**-7, atol=0)
    assert float(half.rounded(make_layer().weight).abs().max()) < float(widest.rounded(make_layer().weight).abs().max())


def test_important_inputs_are_stored_better(make_layer: Callable[..., nn.Linear]) -> None:
    """K-means goes by what an error in each input channel weighs: the small weights of some channels get values."""
    layer, importance = make_layer(), torch.ones(64)
    layer.weight[:, :8] *= 0.05
    importance[:8] = 1000.0
    errors = []
    for weights in (torch.ones(64), importance):
        rounded = palette_grid(layer, form_of(layer, "p4a16"), weights).rounded(layer.weight)
        errors.append(float((rounded - layer.weight)[:, :8].square().sum()))
    assert errors[1] < 0.5 * errors[0]


def test_a_block_of_fp4_takes_the_scale_that_costs_least() -> None:
    """Best of all eight, where both values count and where the 5 alone does: beside a 6 it would round to 4 or 6."""
    layer = nn.Linear(16, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[6.0, 5.0, *[0.0] * 14]]), requires_grad=False)
    grid = block_grid(layer, form_of(layer, "nvfp4"))
    values = layer.weight.T.contiguous()
    for costs in (torch.ones(16), torch.tensor([0.0, 1.0, *[0.0] * 14])):
        grid.fit(values, costs, 0)
        lost = (grid.rounded(layer.weight) - layer.weight).square() @ costs
        for peak in BLOCK_PEAKS:
            scale = torch.full((1, 1), 6.0 / peak).to(torch.float8_e4m3fn).float()
            other = (form_of(layer, "nvfp4").fake_quantize(layer.weight, scale) - layer.weight).square() @ costs
            assert float(lost) <= float(other) + 1e-6
    assert float(lost) < 0.02
