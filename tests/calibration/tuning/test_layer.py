"""Tuning of single layers: never behind rounding to nearest, and what is left to others is left to them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.linear import PaletteLayer, QuantLayer
from vggt_edge.calibration.quantization.tuned import any_tuned, tuned_of
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.calibration.tuning.gptq import compensated
from vggt_edge.calibration.tuning.grids import palette_grid, uniform_grids
from vggt_edge.calibration.tuning.input_scale import Sample, best_input_scale
from vggt_edge.calibration.tuning.layer import WEIGHT_SHRINKS, Evidence, tune_layer

GROUP = 32
UNIFORM = ("w8a16", "w8a8", "w8a8d", "w4a16", "w4a8d", "w4a4d", "fp8", "nvfp4")
PALETTES = ("p4a16", "p6a16")
SCHEME = st.sampled_from(UNIFORM)

MakeLayer = Callable[..., nn.Linear]
MakeEvidence = Callable[[Tensor], Evidence]


def form_of(layer: nn.Module, name: str) -> Form:
    return Form.of(SCHEMES[name], LayerShape.of(layer), GROUP)


def restored(layer: nn.Linear, name: str) -> Tensor:
    """What the quantized form of the layer computes with."""
    form = quantized(layer, form_of(layer, name), 0.05)
    assert isinstance(form, QuantLayer | PaletteLayer)
    return form.dequantized()


def row_errors(weight: Tensor, stored: Tensor, hessian: Tensor) -> Tensor:
    """(out,), in double: the error of each output over the inputs of a Hessian."""
    deviation = (stored - weight).double()
    return ((deviation @ hessian.double()) * deviation).sum(dim=1)


@pytest.mark.parametrize("name", [*UNIFORM, *PALETTES])
def test_rounding_again_changes_nothing(
    name: str, inputs: Tensor, make_layer: MakeLayer, evidence_of: MakeEvidence
) -> None:
    """The tuned weight is on the grid that ``apply`` finds again, to the last bit."""
    layer = make_layer()
    tune_layer(layer, form_of(layer, name), evidence_of(inputs))
    assert tuned_of(layer, name) is not None
    assert not torch.equal(layer.weight, make_layer().weight)
    assert torch.equal(restored(layer, name), layer.weight)


@pytest.mark.parametrize("name", ["w4a16", "w4a8d", "p4a16"])
def test_the_output_changes_less_than_with_rounding_to_nearest(
    name: str, inputs: Tensor, make_layer: MakeLayer, evidence_of: MakeEvidence
) -> None:
    """Over the very inputs, by a half at least."""
    layer, plain = make_layer(), make_layer()
    wanted = inputs @ plain.weight.T
    about_zero = replace(evidence_of(inputs), hessian=inputs.T @ inputs, mean=None)
    tune_layer(layer, form_of(layer, name), about_zero)
    ours = float((inputs @ layer.weight.T - wanted).square().mean())
    assert ours < 0.5 * float((inputs @ restored(plain, name).T - wanted).square().mean())


def drawn(seed: int, tokens: int, correlated: bool) -> tuple[nn.Linear, Evidence]:
    """A layer and what came into it, of fewer tokens than channels or of more, rows of any size."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(32, 16).requires_grad_(False)
    rows = torch.exp(2 * torch.randn(16, 1, generator=generator))
    layer.weight = nn.Parameter(rows * torch.randn(16, 32, generator=generator), requires_grad=False)
    x = torch.randn(tokens, 32, generator=generator)
    x = x @ torch.randn(32, 32, generator=generator) if correlated else x
    return layer, Evidence(x.T @ x, Sample(x, torch.ones_like(x), 1.0), x.abs().amax(dim=0))


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), tokens=st.sampled_from((1, 7, 200)), correlated=st.booleans(), name=SCHEME)
def test_no_row_is_behind_rounding_to_nearest(seed: int, tokens: int, correlated: bool, name: str) -> None:
    """Compensation alone loses now and then: it is greedy, and goes by a damped Hessian."""
    layer, evidence = drawn(seed, tokens, correlated)
    assert evidence.hessian is not None
    weight, nearest = layer.weight.clone(), restored(layer, name)
    tune_layer(layer, form_of(layer, name), evidence)
    ours = row_errors(weight, layer.weight, evidence.hessian)
    plain = row_errors(weight, nearest, evidence.hessian)
    # What single precision can tell apart.
    smallest = 1e-6 * (weight.square().sum(dim=1) * evidence.hessian.diagonal().sum())
    assert bool((ours <= plain * (1 + 1e-4) + smallest).all())


def test_a_row_that_compensation_makes_worse_is_rounded_to_nearest() -> None:
    """Among 2000 rows there are some, and all of them are caught."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(32, 2000).requires_grad_(False)
    layer.weight = nn.Parameter(torch.randn(2000, 32, generator=generator), requires_grad=False)
    x = torch.randn(100, 32, generator=generator)
    hessian = x.T @ x
    grid = next(uniform_grids(layer, form_of(layer, "w4a16"), (1.0,)))
    weight, plain = layer.weight.clone(), grid.rounded(layer.weight)
    alone = row_errors(weight, compensated(weight, hessian, grid.nearest), hessian)
    assert bool((alone > row_errors(weight, plain, hessian)).any())
    tune_layer(layer, form_of(layer, "w4a16"), Evidence(hessian, Sample(x, x, 1.0), x.abs().amax(dim=0)))
    assert bool((row_errors(weight, layer.weight, hessian) <= row_errors(weight, plain, hessian) * 1.0001).all())


def test_scales_of_fp4_chosen_on_the_way_are_ahead_of_those_of_plain_rounding(
    inputs: Tensor, make_layer: MakeLayer, evidence_of: MakeEvidence
) -> None:
    """The Hessian's error is smaller than that of compensation with six or four by plain squared errors."""
    layer, weight, evidence = make_layer(), make_layer().weight, evidence_of(inputs)
    assert evidence.hessian is not None
    (plain,) = uniform_grids(layer, form_of(layer, "nvfp4"), (1.0,))
    before = compensated(weight, evidence.hessian, plain.nearest)
    tune_layer(layer, form_of(layer, "nvfp4"), evidence)
    ours = row_errors(weight, layer.weight, evidence.hessian).sum()
    assert float(ours) < 0.9 * float(row_errors(weight, before, evidence.hessian).sum())


def test_palettes_are_not_behind_their_own_nearest_values(make_layer: MakeLayer, inputs: Tensor) -> None:
    """With the very table that was found."""
    layer, x = make_layer(), inputs[:40]
    weight, hessian = layer.weight.clone(), x.T @ x
    tune_layer(layer, form_of(layer, "p4a16"), Evidence(hessian, Sample(x, x, 1.0), x.abs().amax(dim=0)))
    found = any_tuned(layer)
    assert found is not None
    diagonal = hessian.diagonal()
    grid = palette_grid(make_layer(), form_of(make_layer(), "p4a16"), diagonal + diagonal.mean() * 1e-3)
    assert found.weight_table is not None
    assert torch.equal(found.weight_table, grid.table)
    plain = row_errors(weight, grid.rounded(weight), hessian)
    assert bool((row_errors(weight, layer.weight, hessian) <= plain * 1.0001).all())


@pytest.mark.parametrize("name", [name for name in UNIFORM if name != "nvfp4"])
def test_each_row_takes_the_shrink_that_serves_it_best(
    name: str, inputs: Tensor, make_layer: MakeLayer, evidence_of: MakeEvidence
) -> None:
    """Against every shrink for all rows: no row is behind its best one."""
    layer, weight, evidence = make_layer(), make_layer().weight, evidence_of(inputs)
    assert evidence.hessian is not None
    tune_layer(layer, form_of(layer, name), evidence)
    ours = row_errors(weight, layer.weight, evidence.hessian)
    for grid in uniform_grids(make_layer(), form_of(make_layer(), name), WEIGHT_SHRINKS):
        whole = compensated(weight, evidence.hessian, grid.nearest)
        assert bool((ours <= row_errors(weight, whole, evidence.hessian) * 1.001).all())


@pytest.mark.parametrize("name", ["w4a16", "w8a8", "w8a8d", "w4a8d", "w4a4d", "p4a16"])
def test_the_mean_error_goes_into_the_bias(
    name: str, inputs: Tensor, make_layer: MakeLayer, evidence_of: MakeEvidence
) -> None:
    """On the sample nothing of it is left in what the quantized layer puts out."""
    layer, plain = make_layer(), make_layer()
    tune_layer(layer, form_of(layer, name), evidence_of(inputs))
    found = tuned_of(layer, name)
    form = quantized(layer, form_of(layer, name), found.input_scale if found else None)
    mean = (form(inputs) - plain(inputs)).mean(dim=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=3e-6, rtol=0)
    assert not torch.equal(layer.bias, plain.bias)


def test_parts_can_be_switched_off(inputs: Tensor, make_layer: MakeLayer, evidence_of: MakeEvidence) -> None:
    """Bias correction; and compensation, without which the weight is left, but the input scale searched."""
    unbiased, plain, whole = make_layer(), make_layer(), make_layer()
    tune_layer(unbiased, form_of(unbiased, "w8a8"), replace(evidence_of(inputs), mean=None))
    tune_layer(plain, form_of(plain, "w8a8"), evidence_of(inputs), compensation=False)
    tune_layer(whole, form_of(whole, "w8a8"), evidence_of(inputs))
    assert torch.equal(unbiased.bias, make_layer().bias)
    assert torch.equal(unbiased.weight, whole.weight)
    assert torch.equal(plain.weight, make_layer().weight)
    assert torch.equal(plain.bias, make_layer().bias)
    assert [found.input_scale for layer in (plain, whole) if (found := any_tuned(layer))] == [
        best_input_scale(evidence_of(inputs).sample, float(inputs.abs().max()), form_of(plain, "w8a8"))
    ] * 2


def test_a_layer_without_bias_gets_none(inputs: Tensor, evidence_of: MakeEvidence) -> None:
    """The camera head's turn has none."""
    layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
    tune_layer(layer, form_of(layer, "w8a8"), evidence_of(inputs))
    assert layer.bias is None


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_wide_schemes_leave_the_layer_alone(
    name: str, inputs: Tensor, make_layer: MakeLayer, evidence_of: MakeEvidence
) -> None:
    """Nothing is rounded there, and nothing is noted."""
    layer = make_layer()
    before = layer.weight, layer.bias
    tune_layer(layer, form_of(layer, name), evidence_of(inputs))
    assert layer.weight is before[0]
    assert layer.bias is before[1]
    assert any_tuned(layer) is None


def test_another_scheme_takes_nothing_of_what_was_tuned(
    inputs: Tensor, make_layer: MakeLayer, evidence_of: MakeEvidence
) -> None:
    """A scale of four bits is none of eight."""
    layer = make_layer()
    tune_layer(layer, form_of(layer, "w4a16"), evidence_of(inputs))
    forgotten = copy.deepcopy(layer)
    vars(forgotten).pop("vggt_edge_tuned")
    assert torch.equal(restored(layer, "w8a16"), restored(forgotten, "w8a16"))


@pytest.mark.parametrize("name", [*UNIFORM, *PALETTES])
def test_an_input_that_is_always_zero_gets_no_scale(
    name: str, make_layer: MakeLayer, evidence_of: MakeEvidence
) -> None:
    """There is no scale of 0: the statistics decide. The weight is on its grid all the same."""
    layer, x = make_layer(), torch.zeros(32, 64)
    tune_layer(layer, form_of(layer, name), evidence_of(x))
    found = tuned_of(layer, name)
    assert found is not None
    assert found.input_scale is None
    assert torch.equal(restored(layer, name), layer.weight)
    form = quantized(layer, form_of(layer, name), q.activation_scale(0.0))
    assert torch.equal(form(x), make_layer()(x))


@pytest.mark.parametrize("make", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolution_keeps_its_weight(make: Callable[..., nn.Module], inputs: Tensor) -> None:
    """Only the scale of its input is searched."""
    conv = make(4, 8, 3).requires_grad_(False)
    before, x = conv.get_parameter("weight"), inputs.reshape(8, 4, 32, 32)
    sample = Sample(x, torch.ones_like(x), 1.0)
    tune_layer(conv, form_of(conv, "w8a8"), Evidence(None, sample, x.abs().amax(dim=(0, 2, 3))))
    found = tuned_of(conv, "w8a8")
    assert conv.get_parameter("weight") is before
    assert found is not None
    assert found.input_scale == best_input_scale(sample, float(x.abs().max()), form_of(conv, "w8a8"))


def test_weights_are_replaced_and_not_written_to(
    inputs: Tensor, make_layer: MakeLayer, evidence_of: MakeEvidence
) -> None:
    """They may be mapped from a file."""
    layer = make_layer()
    old, kept = (layer.weight, layer.bias), (layer.weight.clone(), layer.bias.clone())
    tune_layer(layer, form_of(layer, "w8a8"), evidence_of(inputs))
    assert layer.weight is not old[0]
    assert layer.bias is not old[1]
    assert all(torch.equal(one, other) for one, other in zip(old, kept, strict=True))
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("spoilt", ["hessian", "slopes", "absmax", "mean"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_evidence_knows_whether_it_is_finite(
    spoilt: str, value: float, inputs: Tensor, evidence_of: MakeEvidence
) -> None:
    evidence = evidence_of(inputs.clone())
    assert evidence.is_finite
    assert evidence.hessian is not None
    assert evidence.mean is not None
    parts = {"hessian": evidence.hessian, "slopes": evidence.sample.slopes}
    parts |= {"absmax": evidence.channel_absmax, "mean": evidence.mean}
    parts[spoilt].view(-1)[3] = value
    assert not evidence.is_finite
