"""The whole recipe: a copy that is quantized, and parts that each make a difference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.observation.collect import calibrate, images_of, layers_of
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.linear import HalfLayer, PaletteLayer, QuantLayer
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.calibration.tuning.method import ABLATIONS, SplitLinear, quantize, split_scales, uniform
from vggt_edge.calibration.tuning.tokens import TokenScales, token_scales
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.vggt import VGGT


def outputs(model: Callable[[Tensor], Sequence[Tensor]], scene: Scene) -> Sequence[Tensor]:
    with torch.inference_mode():
        return model(images_of(scene))


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconstruction takes two steps: enough to leave where it began."""
    monkeypatch.setattr("vggt_edge.calibration.tuning.reconstruct.STEPS", 2)


@pytest.fixture(scope="module")
def ours(make_small: Callable[..., VGGT], scenes: tuple[Scene, ...]) -> VGGT:
    """The recipe for the camera alone in w8a8, of which every part has a say."""
    return quantize(make_small(outputs=("camera",)), scenes[:1], SCHEMES["w8a8"], 0, "balanced")


@pytest.mark.parametrize("name", ["w8a8", "w4a16"])
def test_quantizes_a_copy(name: str, small: VGGT, scenes: tuple[Scene, ...]) -> None:
    """Every linear and convolution of a block is replaced, outputs are finite, and the model is as it was."""
    before = {key: value.clone() for key, value in small.state_dict().items()}
    modules = dict(small.named_modules())
    wanted = outputs(small, scenes[2])
    copied = quantize(small, scenes[:1], SCHEMES[name], 0, "fast")
    for block_name, block in copied.blocks().items():
        assert not layers_of(block), block_name
        forms = [module for module in block.modules() if isinstance(module, QuantLayer | PaletteLayer)]
        assert len(forms) == len(layers_of(small.blocks()[block_name]))
        assert not any(isinstance(module, HalfLayer) for module in block.modules())
    got = outputs(copied, scenes[2])
    assert all(bool(torch.isfinite(value).all()) for value in got)
    assert not torch.equal(got[0], wanted[0])
    assert all(small.get_submodule(path) is module for path, module in modules.items() if path)
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
    assert all(torch.equal(one, other) for one, other in zip(outputs(small, scenes[2]), wanted, strict=True))


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_part_makes_a_difference(name: str, camera: VGGT, ours: VGGT, scenes: tuple[Scene, ...]) -> None:
    """An ablation that computes what the whole does would be a row that says nothing."""
    if name == "ours-shift":  # of ranges that are found at run time
        ours = quantize(camera, scenes[:1], SCHEMES["w8a8d"], 0, "balanced")
    other = ABLATIONS[name](camera, scenes[:1], SCHEMES["w8a8d" if name == "ours-shift" else "w8a8"], 0, "balanced")
    (value,), (wanted,) = outputs(other, scenes[2]), outputs(ours, scenes[2])
    assert bool(torch.isfinite(value).all())
    assert not torch.equal(value, wanted)


def test_the_whole_gives_the_same_twice(camera: VGGT, ours: VGGT, scenes: tuple[Scene, ...]) -> None:
    """To the byte, of all buffers; another seed turns other ways."""
    again = quantize(camera, scenes[:1], SCHEMES["w8a8"], 0, "balanced").state_dict()
    other = quantize(camera, scenes[:1], SCHEMES["w8a8"], 1, "balanced").state_dict()
    assert list(again) == list(ours.state_dict())
    assert all(torch.equal(value, again[key]) for key, value in ours.state_dict().items())
    assert any(not torch.equal(value, other[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize(
    "parts",
    [
        {"rotate": False, "heads": True, "tokens": "designed", "reconstruction": True, "special_scales": True},
        {"balance": False, "task": False, "tokens": "filtered", "smoothing": False, "compensation": False},
    ],
)
def test_every_part_gives_the_same_twice(parts: dict[str, Any], camera: VGGT, scenes: tuple[Scene, ...]) -> None:
    """All that draws numbers or learns, added; and all that can be left out, left out."""
    one, other = (quantize(camera, scenes[:1], SCHEMES["w8a8"], 0, "balanced", **parts) for _ in range(2))
    again = other.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in one.state_dict().items())
    assert torch.equal(outputs(one, scenes[2])[0], outputs(other, scenes[2])[0])


def test_no_scenes_are_refused(small: VGGT) -> None:
    with pytest.raises(InputError, match="no scenes"):
        quantize(small, [], SCHEMES["w8a8"], 0, "fast")


@pytest.mark.parametrize("name", ["w8a8", "w4a16", "w4a4d", "fp16"])
def test_plans_give_every_block_one_scheme(name: str, small: VGGT) -> None:
    """Groups are of the scheme's own size."""
    plan = uniform(small, SCHEMES[name], "model", "stats")
    plan.check_total(small.blocks())
    for assignment in plan.assignments:
        assert assignment.scheme == name
    assert plan.group_size == (SCHEMES[name].group_size or 64)
    assert (plan.model_digest, plan.stats_digest, plan.rest_scheme) == ("model", "stats", "fp16")


def test_special_tokens_get_a_scale_of_their_own(camera: VGGT, ours: VGGT, scenes: tuple[Scene, ...]) -> None:
    """The larger of both is the scale that tuning found; the ratio is that of the statistics."""
    stats, model = calibrate(camera, scenes[:1]), copy.deepcopy(ours)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, QuantLayer)}
    scales = {name: module.input_scale for name, module in linears.items()}
    split_scales(model, stats)
    split = {name: module for name, module in model.named_modules() if isinstance(module, SplitLinear)}
    assert split.keys() == {name for name, scale in scales.items() if isinstance(scale, float)}
    for name, module in split.items():
        found = token_scales(stats, name.removeprefix("aggregator."))
        assert max(module.scales.patch, module.scales.special) == pytest.approx(scales[name])
        assert module.scales.patch / module.scales.special == pytest.approx(found.patch / found.special)


def test_equal_special_scales_are_one_scale(scenes: tuple[Scene, ...]) -> None:
    """What a split layer computes is then what the quantized one does, to the bit."""
    torch.manual_seed(0)
    source, x = nn.Linear(32, 8), torch.randn(18, 32)
    layer = QuantLayer(source, Form.of(SCHEMES["w8a8"], LayerShape.of(source)), input_scale=0.05)
    assert torch.equal(SplitLinear(layer, TokenScales(0.05, 0.05), 9, 5)(x), layer(x))
    apart = SplitLinear(layer, TokenScales(0.05, 0.2), 9, 5)(x)
    special = torch.arange(18) % 9 < 5
    assert torch.equal(apart[~special], layer(x)[~special])
    assert not torch.equal(apart[special], layer(x)[special])
