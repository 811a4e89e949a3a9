"""Smoothing: exact, only where it helps, and never on what is excluded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.observation.collect import images_of, layers_of
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.operators import fake_quantize_dynamic, fake_quantize_static
from vggt_edge.calibration.quantization.quantize import activation_scale
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import SCHEMES, Activation
from vggt_edge.calibration.sensitivity.probes import Seen, pulled_back
from vggt_edge.calibration.transforms.plant import plant
from vggt_edge.calibration.transforms.wiring import Unit
from vggt_edge.calibration.tuning.collected import Collected
from vggt_edge.calibration.tuning.grids import uniform_grids
from vggt_edge.calibration.tuning.input_scale import predicted_error
from vggt_edge.calibration.tuning.layer import Evidence
from vggt_edge.calibration.tuning.parts import Parts
from vggt_edge.calibration.tuning.smooth import COMPENSATED, LARGEST, divided, links, shifted, smooth
from vggt_edge.exporter.models.vggt import VGGT

FRAME, CAMERA, HEAD = BLOCKS = ("frame_blocks.0", "camera_head.trunk.0", "depth_head")
LINKS = [*((block, index) for block in (FRAME, CAMERA) for index in range(3)), *((HEAD, index) for index in range(9))]
"""Norm, norm, values of a block; norm and eight pairs of convolutions of a head."""
SHIFTED = [(block, index) for block in (FRAME, CAMERA) for index in range(3)]
PLANTED = ("attn.qkv", "mlp.fc1", "attn.proj")


def observed(model: VGGT, scenes: Sequence[Scene]) -> dict[str, Evidence]:
    collected: dict[str, Collected] = {}
    layers: dict[str, nn.Module] = {}

    def finish(name: str, layer: nn.Module, seen: Seen) -> None:
        layers[name] = layer
        collected.setdefault(name, Collected(name, len(scenes), Parts())).add(layer, seen)

    for _ in pulled_back(model, scenes, finish, lambda index, stage: None, seed=0):
        pass
    return {name: found.evidence(layers[name]) for name, found in collected.items()}


def of_block(evidence: Mapping[str, Evidence], model: VGGT, block: str) -> dict[str, Evidence]:
    return {path: evidence[f"{block}.{path}"] for path in layers_of(model.blocks()[block])}


@pytest.fixture(scope="module")
def plain_evidence(make_small: Callable[..., VGGT], scenes: tuple[Scene, ...]) -> dict[str, Evidence]:
    return observed(make_small(), scenes)


@pytest.fixture(scope="module")
def planted_evidence(make_small: Callable[..., VGGT], scenes: tuple[Scene, ...]) -> dict[str, Evidence]:
    return observed(plant(make_small(), 0), scenes)


@pytest.fixture
def planted(small: VGGT) -> VGGT:
    """With outliers in what every block reads."""
    return plant(small, 0)


def unit_of(model: VGGT, block: str) -> Unit:
    module = model.blocks()[block]
    return next(unit for unit in model.wiring().units if model.get_submodule(unit.path) is module)


def forms_of(model: VGGT, block: str, name: str) -> dict[str, Form]:
    layers = layers_of(model.blocks()[block])
    return {path: Form.of(SCHEMES[name], LayerShape.of(layer), 32) for path, layer in layers.items()}


def calls_of(model: VGGT, block: str, scene: Scene) -> list[tuple[Any, Tensor]]:
    """What the block is given, and what it puts out, over one forward."""
    seen: list[tuple[Any, Tensor]] = []
    handle = model.blocks()[block].register_forward_hook(lambda _, given, output: seen.append((given, output)))
    with torch.no_grad():
        model(images_of(scene))
    handle.remove()
    return seen


def assert_computes(block: nn.Module, calls: Sequence[tuple[Any, Tensor]]) -> None:
    """The recorded outputs, to 1e-5 of the largest."""
    assert calls
    for given, wanted in calls:
        with torch.no_grad():
            difference = float((block(*given) - wanted).abs().max())
        assert difference <= 1e-5 * float(wanted.abs().max())


def prediction(layer: nn.Module, form: Form, evidence: Evidence) -> float:
    """What the layer's rounding adds to the error of the outputs, written out once more."""
    x, limits = evidence.sample.x, form.input_range
    if form.activation is Activation.DYNAMIC_TOKEN:
        block = [1, *x.shape[1:]]  # a token, or an image
        rounded = fake_quantize_dynamic(x, block, limits)
    else:
        rounded = fake_quantize_static(x, activation_scale(evidence.absmax), limits)
    error = predicted_error(evidence.sample, rounded - x) / evidence.sample.share
    if isinstance(layer, nn.Linear):
        assert evidence.hessian is not None
        (grid,) = uniform_grids(layer, form, (1.0,))
        lost = grid.rounded(layer.weight) - layer.weight
        error += COMPENSATED * float(torch.trace(lost @ evidence.hessian @ lost.T))
    return error


@pytest.mark.parametrize(("block", "index"), LINKS)
def test_every_link_divides_exactly(block: str, index: int, small: VGGT, scenes: tuple[Scene, ...]) -> None:
    """Whatever the factors are: what is read is divided, and what the block puts out stays."""
    module, calls = small.blocks()[block], calls_of(small, block, scenes[0])
    found = list(links(module, unit_of(small, block)))
    assert len(found) == sum(name == block for name, _ in LINKS)
    link = found[index]
    channels = module.get_submodule(link.readers[0]).get_parameter("weight").shape[1]
    factors = torch.exp2(4 * torch.rand(channels, generator=torch.Generator().manual_seed(index)) - 2)
    seen: list[Tensor] = []
    hooks = [
        module.get_submodule(path).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for path in link.readers
    ]
    assert_computes(module, calls[:1])
    link.divide(factors)
    assert_computes(module, calls[:1])
    for hook in hooks:
        hook.remove()
    along = factors[:, None, None] if seen[0].ndim == 4 else factors
    for before, after in zip(seen[: len(link.readers)], seen[len(link.readers) :], strict=True):
        torch.testing.assert_close(after, before / along, rtol=1e-4, atol=1e-5 * float(before.abs().max()))


@pytest.mark.parametrize("outliers", [False, True])
@pytest.mark.parametrize(
    ("block", "name"), [(FRAME, "w8a8"), (FRAME, "w4a4d"), (CAMERA, "w4a8d"), (HEAD, "w8a8"), (HEAD, "w8a8d")]
)
def test_predictions_never_grow_and_outputs_stay(
    block: str, name: str, outliers: bool, scenes: tuple[Scene, ...], request: pytest.FixtureRequest
) -> None:
    """Link after link, in the very figure that is searched by, with outliers and without."""
    model: VGGT = request.getfixturevalue("planted" if outliers else "small")
    seen: dict[str, Evidence] = request.getfixturevalue("planted_evidence" if outliers else "plain_evidence")
    module, forms = model.blocks()[block], forms_of(model, block, name)
    calls, evidence = calls_of(model, block, scenes[0]), of_block(seen, model, block)
    for part in one_link_each(unit_of(model, block)):
        (link,) = links(module, part)
        readers = {path: module.get_submodule(path) for path in link.readers}
        before = sum(prediction(layer, forms[path], evidence[path]) for path, layer in readers.items())
        smooth(module, part, forms, evidence)
        after = sum(prediction(layer, forms[path], evidence[path]) for path, layer in readers.items())
        assert after <= before * 1.001, link.readers
    assert_computes(module, calls)


def one_link_each(unit: Unit) -> Iterator[Unit]:
    bare = replace(unit, reads=(), values=None, rectified=())
    yield from (replace(bare, reads=(read,)) for read in unit.reads if read.norm is not None)
    yield from (replace(bare, values=values) for values in (unit.values,) if values is not None)
    yield from (replace(bare, rectified=(pair,)) for pair in unit.rectified)


@pytest.mark.parametrize(("name", "factor"), [("w8a8", 20), ("w4a8d", 5), ("w4a4d", 5)])
def test_planted_outliers_are_levelled(
    name: str, factor: float, planted: VGGT, planted_evidence: dict[str, Evidence]
) -> None:
    """Where they were planted, the predicted error falls to a fraction, and the peaks come near the others."""
    module, forms = planted.blocks()[FRAME], forms_of(planted, FRAME, name)
    evidence = of_block(planted_evidence, planted, FRAME)
    before = dict(evidence)
    figures = [prediction(module.get_submodule(path), forms[path], before[path]) for path in PLANTED]
    smooth(module, unit_of(planted, FRAME), forms, evidence)
    after = [prediction(module.get_submodule(path), forms[path], evidence[path]) for path in PLANTED]
    assert sum(after) * factor < sum(figures)
    for path in PLANTED:
        assert prominence(evidence[path]) < 0.5 * prominence(before[path]), path


def prominence(evidence: Evidence) -> float:
    return evidence.absmax / float(evidence.channel_absmax.median())


def test_evidence_is_what_the_smoothed_block_reads(
    planted: VGGT, planted_evidence: dict[str, Evidence], scenes: tuple[Scene, ...]
) -> None:
    """Observations follow without another forward: observing the smoothed model finds the same.

    To a hundredth, since walks back compute in BF16 where they can.
    """
    evidence = of_block(planted_evidence, planted, FRAME)
    smooth(planted.blocks()[FRAME], unit_of(planted, FRAME), forms_of(planted, FRAME, "w8a8"), evidence)
    again = of_block(observed(planted, scenes), planted, FRAME)
    for path in PLANTED:
        one, other = evidence[path], again[path]
        torch.testing.assert_close(one.channel_absmax, other.channel_absmax, rtol=1e-2, atol=0)
        torch.testing.assert_close(one.sample.x, other.sample.x, rtol=0, atol=1e-2 * one.absmax)


@pytest.mark.parametrize("name", ["w4a16", "w8a16", "p4a16"])
def test_weight_only_forms_are_not_smoothed(name: str, small: VGGT, plain_evidence: dict[str, Evidence]) -> None:
    """Compensation does there what smoothing would."""
    for block in BLOCKS:
        own = of_block(plain_evidence, small, block)
        module, known = small.blocks()[block], dict(own)
        before = dict(module.named_parameters())
        smooth(module, unit_of(small, block), forms_of(small, block, name), own)
        assert all(parameter is before[path] for path, parameter in module.named_parameters())
        assert own == known


@pytest.mark.parametrize(("kept", "untouched"), [("attn.qkv", "attn.proj"), ("attn.proj", ""), ("mlp.fc1", "norm2")])
def test_links_of_an_excluded_layer_stay(
    kept: str, untouched: str, planted: VGGT, planted_evidence: dict[str, Evidence]
) -> None:
    """Neither what it reads nor what it writes is scaled; the others are."""
    module, forms = planted.blocks()[FRAME], forms_of(planted, FRAME, "w8a8")
    evidence = of_block(planted_evidence, planted, FRAME)
    del forms[kept]
    before = dict(module.named_parameters())
    smooth(module, unit_of(planted, FRAME), forms, evidence)
    changed = {path for path, parameter in module.named_parameters() if parameter is not before[path]}
    assert changed
    assert not any(path.startswith((kept, untouched or kept)) for path in changed)


def test_a_writing_convolution_that_is_excluded_stays(small: VGGT, plain_evidence: dict[str, Evidence]) -> None:
    """Of a pair around a ReLU."""
    module, forms = small.blocks()[HEAD], forms_of(small, HEAD, "w8a8")
    evidence = of_block(plain_evidence, small, HEAD)
    writer = next(link.writers[0] for link in links(module, unit_of(small, HEAD)) if link.writers)
    del forms[writer]
    before = module.get_submodule(writer).get_parameter("weight")
    smooth(module, unit_of(small, HEAD), forms, evidence)
    assert module.get_submodule(writer).get_parameter("weight") is before


def test_divided_evidence_predicts_the_same_for_the_same_deviation(
    inputs: Tensor, evidence_of: Callable[[Tensor], Evidence]
) -> None:
    """The Hessian, the inputs and the slopes, each in its own unit."""
    one, by = evidence_of(inputs), torch.rand(64, generator=torch.Generator().manual_seed(0)) + 0.5
    after = divided(one, by)
    assert one.hessian is not None
    assert after.hessian is not None
    torch.testing.assert_close(after.hessian, about_mean(inputs / by), rtol=1e-3, atol=1)
    torch.testing.assert_close(after.sample.x * after.sample.slopes, one.sample.x * one.sample.slopes)
    torch.testing.assert_close(after.channel_absmax, (inputs / by).abs().amax(dim=0))


def about_mean(tokens: Tensor) -> Tensor:
    centred = (tokens - tokens.mean(dim=0)).double()
    return (centred.T @ centred).float()


def test_shifted_evidence_is_that_of_shifted_inputs(inputs: Tensor, evidence_of: Callable[[Tensor], Evidence]) -> None:
    """The Hessian is about the mean, and stays."""
    one, by = evidence_of(inputs), torch.randn(64, generator=torch.Generator().manual_seed(0))
    after, again = shifted(one, by), evidence_of(inputs - by)
    assert one.mean is not None
    assert after.mean is not None
    assert again.mean is not None
    torch.testing.assert_close(after.mean, again.mean)
    torch.testing.assert_close(after.sample.x, again.sample.x)
    torch.testing.assert_close(after.channel_absmax, again.channel_absmax)
    wider = shifted(replace(one, channel_absmax=one.channel_absmax + 2), by)
    torch.testing.assert_close(wider.channel_absmax, again.channel_absmax + 2)
    assert after.hessian is one.hessian
    assert again.hessian is not None
    torch.testing.assert_close(again.hessian, about_mean(inputs), rtol=1e-3, atol=1e-1)


@pytest.mark.parametrize(("block", "index"), SHIFTED)
def test_every_shift_is_exact(block: str, index: int, small: VGGT, scenes: tuple[Scene, ...]) -> None:
    """What is read is shifted, and what the block puts out stays."""
    module, calls = small.blocks()[block], calls_of(small, block, scenes[0])
    link = list(links(module, unit_of(small, block)))[index]
    reader = module.get_submodule(link.readers[0])
    assert isinstance(reader, nn.Linear)
    by = torch.randn(reader.in_features, generator=torch.Generator().manual_seed(index))
    seen: list[Tensor] = []
    handle = reader.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert_computes(module, calls[:1])
    assert link.shift is not None
    link.shift(by)
    assert_computes(module, calls[:1])
    handle.remove()
    torch.testing.assert_close(seen[1], seen[0] - by, rtol=1e-4, atol=1e-5 * float(seen[0].abs().max()))


@pytest.mark.parametrize(("name", "takes"), [("w8a8", False), ("w4a8d", True), ("w4a4d", True), ("nvfp4", False)])
def test_means_are_taken_out_of_what_is_scaled_at_run_time(
    name: str, takes: bool, small: VGGT, plain_evidence: dict[str, Evidence]
) -> None:
    """Inputs of LayerNorms' readers and of values lose their means; other forms, and an ablation, leave them."""
    module, forms = small.blocks()[FRAME], forms_of(small, FRAME, name)
    evidence = {path: with_common_part(one) for path, one in of_block(plain_evidence, small, FRAME).items()}
    twin, alike = copy.deepcopy(module), dict(evidence)
    smooth(module, unit_of(small, FRAME), forms, evidence)
    smooth(twin, unit_of(small, FRAME), forms, alike, shifts=False)
    for path in PLANTED:
        means = [
            float(one.sample.x.mean(dim=0).square().mean() / one.sample.x.square().mean())
            for one in (evidence[path], alike[path])
        ]
        assert means[1] > 0.5
        assert (means[0] < 0.2) == takes, path


def test_the_error_of_fp8_falls_with_the_mean(small: VGGT, plain_evidence: dict[str, Evidence]) -> None:
    """The known answer: without a common part of 3 in every channel, the inputs are as good as they were before it."""
    module, forms = small.blocks()[FRAME], forms_of(small, FRAME, "fp8")
    plain = of_block(plain_evidence, small, FRAME)
    evidence = {path: with_common_part(one) for path, one in plain.items()}
    before = {path: input_error(evidence[path], forms[path]) for path in PLANTED}
    smooth(module, unit_of(small, FRAME), forms, evidence)
    for path in PLANTED:
        assert input_error(evidence[path], forms[path]) < 0.5 * before[path], path
        assert input_error(evidence[path], forms[path]) < 1.5 * input_error(plain[path], forms[path]), path


def input_error(evidence: Evidence, form: Form) -> float:
    x = evidence.sample.x
    return predicted_error(evidence.sample, form.fake_quantize_input(x, form.input_scale(evidence.absmax)) - x)


def with_common_part(evidence: Evidence) -> Evidence:
    if evidence.mean is None:
        return evidence
    x = evidence.sample.x + 3.0
    return replace(
        evidence, sample=replace(evidence.sample, x=x), channel_absmax=x.abs().amax(dim=0), mean=evidence.mean + 3.0
    )


def test_dead_channels_are_left_alone(small: VGGT, scenes: tuple[Scene, ...]) -> None:
    """One that is always zero, and one that nobody reads, have no factor of their own; nothing becomes infinite."""
    module = small.blocks()[FRAME]
    qkv, norm = module.get_submodule("attn.qkv"), module.get_submodule("norm1")
    norm.get_parameter("weight").data[3] = norm.get_parameter("bias").data[3] = 0
    qkv.get_parameter("weight").data[:, 5] = 0
    calls, evidence = calls_of(small, FRAME, scenes[0]), of_block(observed(small, scenes), small, FRAME)
    before = norm.get_parameter("weight").clone()
    smooth(module, unit_of(small, FRAME), forms_of(small, FRAME, "w8a8"), evidence)
    factors = before / norm.get_parameter("weight")
    assert float(factors[5]) == 1
    assert float(factors[torch.arange(64) != 3].max()) <= LARGEST * 1.001
    assert all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters())
    assert_computes(module, calls)
