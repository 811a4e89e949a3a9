"""What a layer gets, by the laws that every form keeps and by the cases that ``Form.of`` alone knows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vggt_edge.calibration.quantization.form import (
    PALETTE_FROM_WEIGHTS,
    Form,
    Kind,
    LayerShape,
    scheme_with,
    weight_numbers,
)
from vggt_edge.calibration.quantization.linear import PaletteLayer, QuantLayer, stored_layer
from vggt_edge.calibration.quantization.quantize import pack_int4
from vggt_edge.calibration.quantization.ranges import ScaleNumbers
from vggt_edge.calibration.scheme import FP4, FP16, FP32, INT4, INT8, SCHEMES, Activation

NAMES = sorted(SCHEMES)
shapes = st.builds(
    lambda kind, inputs, outputs: LayerShape(kind, inputs, outputs, inputs * outputs),
    st.sampled_from(Kind),
    st.integers(1, 300),
    st.integers(1, 300),
)


def linear(inputs: int, outputs: int) -> LayerShape:
    return LayerShape(Kind.LINEAR, inputs, outputs, inputs * outputs)


@given(st.sampled_from(NAMES), shapes, st.sampled_from([None, 32, 64, 128]))
def test_what_a_layer_gets_it_gets_again(name: str, shape: LayerShape, group: int | None) -> None:
    """The form of a form's own scheme is that form, and it has the numbers of that scheme."""
    form = Form.of(SCHEMES[name], shape, group)
    assert Form.of(SCHEMES[form.scheme], shape, group) == form
    assert form.matches(SCHEMES[form.scheme].weight, SCHEMES[form.scheme].activation)
    assert form.weight.bits >= SCHEMES[name].weight.bits
    # Floats leave their activations as well: for those of convolutions, and of layers that no block fits.
    others = {SCHEMES[one].activation for one in (SCHEMES[name].convolutions, SCHEMES[name].otherwise) if one}
    assert form.activation is SCHEMES[name].activation or (others and form.activation in others)


@given(st.sampled_from(NAMES), shapes, st.sampled_from(["fp16", "fp32"]))
def test_a_kept_layer_stays_what_it_is_kept_at(name: str, shape: LayerShape, kept: str) -> None:
    assert Form.of(SCHEMES[name], shape, 64, SCHEMES[kept]).scheme == kept


@pytest.mark.parametrize(
    ("inputs", "asked", "group"), [(128, 128, 128), (192, 128, 64), (96, 64, 32), (64, 32, 32), (96, None, 32)]
)
def test_the_group_falls_back_to_the_largest_that_divides(inputs: int, asked: int | None, group: int) -> None:
    form = Form.of(SCHEMES["w4a16"], linear(inputs, 8), asked)
    assert (form.weight, form.group_size) == (INT4, group)


@pytest.mark.parametrize(
    ("layer", "group", "got"),
    [
        (nn.Conv2d(64, 8, 1), 32, "w8a8d"),
        (nn.ConvTranspose2d(64, 8, 2), 32, "w8a8d"),
        (nn.Linear(9, 8), 32, "w8a8d"),
        (nn.Linear(48, 8), 32, "w8a8d"),
        (nn.Linear(96, 8), 32, "w4a8d"),
        (nn.Linear(96, 8), 64, "w4a8d"),
        (nn.Linear(96, 8), 16, "w8a8d"),
    ],
)
def test_four_bits_keep_their_activations_where_they_fall_back(layer: nn.Module, group: int, got: str) -> None:
    shape = LayerShape.of(layer)
    assert Form.of(SCHEMES["w4a8d"], shape, group).scheme == got
    assert Form.of(SCHEMES["w4a16"], shape, group).scheme == got.replace("a8d", "a16")
    assert Form.of(SCHEMES["w8a8d"], shape, group).scheme == "w8a8d"


def test_small_layers_have_no_palette() -> None:
    small = LayerShape(Kind.CONVOLUTION, 32, 4, PALETTE_FROM_WEIGHTS - 1)
    assert Form.of(SCHEMES["p4a16"], small).scheme == "w8a16"
    assert Form.of(SCHEMES["p4a16"], replace(small, weights=PALETTE_FROM_WEIGHTS)).scheme == "p4a16"


def test_group_scales_beside_dynamic_inputs_are_bfloat16() -> None:
    forms = {name: Form.of(SCHEMES[name], linear(64, 8)) for name in ("w4a16", "w4a8d", "w8a8d", "fp16")}
    assert {name: form.scale for name, form in forms.items()} == {
        "w4a16": ScaleNumbers.FP16,
        "w4a8d": ScaleNumbers.BFLOAT16,
        "w8a8d": ScaleNumbers.FP16,
        "fp16": None,
    }


@pytest.mark.parametrize(
    "layer", [nn.Linear(96, 80), nn.Linear(9, 8), nn.Conv2d(32, 48, 3), nn.ConvTranspose2d(32, 48, 2)], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_those_of_what_is_stored(layer: nn.Module, name: str) -> None:
    """Scales in FP32 per channel and FP16 per group, tables in FP16, 4 bytes for the scale of a static input.

    Blocks of FP4: scales of one byte, 4 bytes for their unit.
    """
    shape = LayerShape.of(layer)
    form = Form.of(SCHEMES[name], shape)
    stored = stored_layer(layer, form, input_scale=0.1)
    expected = shape.weights * form.weight.bits // 8
    if isinstance(stored, QuantLayer):
        is_packed = form.weight in (INT4, FP4)
        numbers = pack_int4(stored.weight_q.clamp(-8, 7)).numel() if is_packed else stored.weight_q.numel()
        expected = numbers + stored.weight_scale.numel() * (2 if form.group_size else 4)
        if form.scale is ScaleNumbers.E4M3:
            expected = numbers + stored.weight_scale.numel() + 4
    if isinstance(stored, PaletteLayer):
        expected += 2 * stored.weight_table.numel()
    expected += 4 if form.activation.is_calibrated else 0
    assert form.stored_bytes(shape) == expected


@pytest.mark.parametrize("name", [name for name in NAMES if SCHEMES[name].weight in (INT4, INT8)])
@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 8), lambda: nn.ConvTranspose2d(4, 6, 2)])
def test_rounding_twice_is_rounding_once(name: str, make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layer = make()
    form, weight = Form.of(SCHEMES[name], LayerShape.of(layer)), layer.get_parameter("weight").detach()
    scale = form.scale_of(weight)
    rounded = form.fake_quantize(weight, scale)
    assert torch.equal(form.fake_quantize(rounded, scale), rounded)
    assert torch.equal(form.stored_scale(scale), scale)
    assert torch.equal(form.quantize(weight, scale).float() * form.spread(scale, weight), rounded)
    assert float(form.fake_quantize(weight, scale).sub(weight).abs().max()) <= 0.501 * float(scale.max())


def test_an_input_is_quantized_as_the_form_says() -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    forms = {name: Form.of(SCHEMES[name], linear(64, 8)) for name in ("w8a16", "w8a8", "w8a8d", "w4a4d")}
    assert forms["w8a16"].fake_quantize_input(x, None) is x
    assert torch.equal(forms["w8a8"].fake_quantize_input(x, 0.05), (x / 0.05).round().clamp(-128, 127) * 0.05)
    errors = [float((forms[name].fake_quantize_input(x, None) - x).abs().max()) for name in ("w8a8d", "w4a4d")]
    assert 0 < errors[0] < 0.05 < errors[1]


def test_forms_that_store_a_weight_alike_have_one_storage() -> None:
    forms = {name: Form.of(SCHEMES[name], linear(64, 128), 32) for name in NAMES}
    assert forms["w8a16"].storage == forms["w8a8"].storage == forms["w8a8d"].storage
    assert len({forms[name].storage for name in ("w4a16", "w4a8d", "w8a16", "p4a16", "fp16")}) == 5


def test_what_a_file_holds_is_compared_and_named() -> None:
    form = Form.of(SCHEMES["w8a8"], linear(64, 8))
    assert form.matches(INT8, Activation.STATIC_TENSOR)
    assert not form.matches(INT8, Activation.NONE)
    assert not form.matches(None, Activation.STATIC_TENSOR)
    assert scheme_with(FP32, Activation.NONE) == "fp32"
    assert scheme_with(FP16, Activation.STATIC_TENSOR) == "w16a8"
    assert [weight_numbers(-8, 7), weight_numbers(-127, 127)] == [INT4, INT8]
