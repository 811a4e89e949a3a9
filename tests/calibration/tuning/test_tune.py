"""Tuning of a whole model: better than plain rounding, the same bytes twice, and nothing strange on strange scenes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.apply import apply_plan
from vggt_edge.calibration.observation.collect import calibrate, images_of, layers_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.quantization.tuned import any_tuned
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.sensitivity.ablation import output_errors, weighted
from vggt_edge.calibration.sensitivity.probes import Seen, pulled_back
from vggt_edge.calibration.stages.walk import Stage, StageTime
from vggt_edge.calibration.tuning.collected import SAMPLED_PLACES, Collected
from vggt_edge.calibration.tuning.parts import EFFORTS, Parts, Tokens
from vggt_edge.calibration.tuning.tune import Tuner, tune, tuned_from
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.vggt import VGGT

Plan = Callable[..., PrecisionPlan]
MakeSmall = Callable[..., VGGT]


def error(model: nn.Module, reference: VGGT, scenes: Sequence[Scene]) -> float:
    total = 0.0
    with torch.inference_mode():
        for scene in scenes:
            ours, wanted = (
                dict(zip(reference.output_names, one(images_of(scene)), strict=True)) for one in (model, reference)
            )
            total += weighted(reference.outputs, output_errors(reference.outputs, ours, wanted))
    return total


def rounded(model: VGGT, plan: PrecisionPlan, stats: CalibrationStats) -> VGGT:
    copied = copy.deepcopy(model)
    apply_plan(copied, plan, stats)
    return copied


def found_by(model: VGGT) -> tuple[dict[str, Tensor], list[tuple[str, float | None]]]:
    """All that tuning decides: weights, and what is kept at the layers."""
    tensors, others = dict(model.state_dict()), []
    for name, module in model.named_modules():
        if (tuned := any_tuned(module)) is not None:
            grids = {"scale": tuned.weight_scale, "table": tuned.weight_table}
            tensors |= {f"{name}|{key}": value for key, value in grids.items() if value is not None}
            others.append((f"{name} {tuned.scheme}", tuned.input_scale))
    return tensors, others


def assert_same(one: VGGT, other: VGGT) -> None:
    (tensors, figures), (wanted, expected) = found_by(one), found_by(other)
    assert list(tensors) == list(wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors.items())
    assert figures == expected
    assert figures


@pytest.mark.parametrize("scheme", ["w4a16", "w4a8d"])
def test_the_outputs_change_less_than_with_plain_rounding(
    scheme: str, small: VGGT, scenes: tuple[Scene, ...], small_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    """By the error that is tuned for, over the calibration scenes."""
    plan, tuned = uniform_plan(small, scheme), copy.deepcopy(small)
    tune(tuned, plan, small_stats, scenes)
    ours, plain = (error(rounded(one, plan, small_stats), small, scenes) for one in (tuned, small))
    assert ours < 0.7 * plain


@pytest.mark.parametrize(("effort", "outputs"), [("balanced", ("camera", "depth")), ("max", ("camera",))])
def test_the_same_bytes_twice(
    effort: str,
    outputs: tuple[str, ...],
    make_small: MakeSmall,
    scenes: tuple[Scene, ...],
    small_stats: CalibrationStats,
    uniform_plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights, grids and input scales; nothing that belongs to an inference alone."""
    monkeypatch.setattr("vggt_edge.calibration.tuning.reconstruct.STEPS", 2)
    one, other = make_small(outputs=outputs), make_small(outputs=outputs)
    for tuned in (one, other):
        tune(tuned, uniform_plan(tuned, "w8a8"), small_stats, scenes[:1], parts=EFFORTS[effort].parts)
    assert_same(one, other)
    assert not any(tensor.is_inference() for tensor in found_by(one)[0].values())


def test_another_seed_is_another_probe(
    camera: VGGT, scenes: tuple[Scene, ...], camera_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    one, other = camera, copy.deepcopy(camera)
    for seed, tuned in enumerate((one, other)):
        tune(tuned, uniform_plan(tuned, "w4a16"), camera_stats, scenes[:1], seed=seed)
    weights = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert any(not torch.equal(first, second) for first, second in weights)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16", "w4a8d", "p4a16"])
def test_whoever_quantizes_takes_what_was_tuned(
    scheme: str, camera: VGGT, scenes: tuple[Scene, ...], camera_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    """Every linear of a block restores the tuned weights to the bit."""
    plan = uniform_plan(camera, scheme)
    tune(camera, plan, camera_stats, scenes[:1])
    forms = rounded(camera, plan, camera_stats).blocks()
    checked = 0
    for name, block in camera.blocks().items():
        for path, layer in layers_of(block).items():
            if isinstance(layer, nn.Linear):
                restored = forms[name].get_submodule(path).dequantized()  # type: ignore[operator]
                checked += torch.equal(restored, layer.weight) and any_tuned(layer) is not None
    # Linears with fewer than 4097 weights have no palette; their grid of 8 bits is as well found again.
    assert checked == 4 * 4


@pytest.mark.parametrize("scheme", ["w4a16", "w8a8"])
def test_excluded_layers_stay_as_they_are(
    scheme: str, camera: VGGT, scenes: tuple[Scene, ...], camera_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    """Whether tuning would round them, or smoothing scale what they read or write."""
    excluded = ("attn.qkv", "mlp.fc1", "mlp.fc2")
    block = camera.blocks()["frame_blocks.0"]
    before = dict(block.named_parameters())
    tune(camera, uniform_plan(camera, scheme, excluded=excluded), camera_stats, scenes[:1])
    for path in excluded:
        layer = block.get_submodule(path)
        assert all(parameter is before[f"{path}.{kind}"] for kind, parameter in layer.named_parameters())
        assert any_tuned(layer) is None
    assert any_tuned(block.get_submodule("attn.proj")) is not None


def test_ranges_are_those_of_all_calibration_scenes(
    camera: VGGT, scenes: tuple[Scene, ...], uniform_plan: Plan
) -> None:
    """Tuned on one scene, while others reached further."""
    few, many = calibrate(camera, scenes[:1]), calibrate(camera, scenes)
    shares: dict[str, list[float]] = {"few": [], "many": []}
    for name, stats in (("few", few), ("many", many)):
        tuned = copy.deepcopy(camera)
        tune(tuned, uniform_plan(tuned, "w8a8"), stats, scenes[:1], parts=Parts(smoothing=False))
        for block, module in tuned.blocks().items():
            for path, layer in module.named_modules():
                if (found := any_tuned(layer)) is not None and found.input_scale is not None:
                    peak = max(float(many.channel_absmax[one.key].max()) for one in many.of_layer(f"{block}.{path}"))
                    shares[name].append(127 * found.input_scale / peak)
    assert all(0.39 < share < 1.01 for share in shares["many"])  # the smallest shrink is 0.4
    pairs = list(zip(shares["few"], shares["many"], strict=True))
    assert sum(one < all_of_them for one, all_of_them in pairs) > len(pairs) / 2


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
def test_blocks_that_are_not_quantized_stay_as_they_are(
    scheme: str, camera: VGGT, scenes: tuple[Scene, ...], camera_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    """A mixed plan has such blocks."""
    before = dict(camera.named_parameters())
    tune(camera, uniform_plan(camera, scheme), camera_stats, scenes[:1])
    assert all(parameter is before[name] for name, parameter in camera.named_parameters())


def test_stages_are_told_from_the_last_to_the_first(
    small: VGGT, scenes: tuple[Scene, ...], small_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    """Each once, when all its layers are tuned and none of an earlier stage is. Progress counts to its end."""
    told: list[int] = []
    times: list[StageTime] = []
    stages, blocks = small.stages(), small.blocks()

    def on_tuned(index: int, stage: Stage) -> None:
        told.append(index)
        for place, other in enumerate(stages):
            for name in other.blocks:
                tuned = [any_tuned(layer) is not None for layer in layers_of(blocks[name]).values()]
                assert all(tuned) if place >= index else not any(tuned)

    tune(small, uniform_plan(small, "w8a8"), small_stats, scenes[:1], on_tuned=on_tuned, on_stage=times.append)
    assert told == sorted(set(told), reverse=True)
    assert {block for index in told for block in stages[index].blocks} == set(blocks)
    assert [time.done for time in times] == list(range(1, 2 * len(stages) + 1))
    assert {time.total for time in times} == {2 * len(stages)}


def test_what_came_into_one_stage_is_dropped_before_the_next(
    small: VGGT, small_stats: CalibrationStats, scenes: tuple[Scene, ...], uniform_plan: Plan
) -> None:
    """Hessians of a large model would not fit in memory together."""
    left: list[int] = []
    plan = uniform_plan(small, "w4a16")
    tuner = Tuner(small, plan, small_stats, 2, lambda index, stage: left.append(len(tuner.collected)), Parts())

    def finished(index: int, stage: Stage) -> None:
        blocks = small.blocks()
        layers = {f"{name}.{path}" for name in stage.blocks for path in layers_of(blocks[name])}
        assert set(tuner.collected) == layers
        tuner.finished(index, stage)

    for _ in pulled_back(small, scenes[:2], tuner.seen, finished, seed=0):
        pass
    assert left
    assert set(left) == {0}


class KilledError(Exception):
    """In place of a signal."""


@pytest.mark.parametrize("at", ["camera_head", "frame_blocks.0"])
def test_a_killed_tuning_goes_on(
    at: str,
    camera: VGGT,
    scenes: tuple[Scene, ...],
    camera_stats: CalibrationStats,
    uniform_plan: Plan,
    tmp_path: Path,
) -> None:
    """To the very bytes of one that was not killed, even where a stage was told but not booked."""
    whole, killed, resumed = (copy.deepcopy(camera) for _ in range(3))
    plan, stages = uniform_plan(whole, "w8a8"), whole.stages()
    tune(whole, plan, camera_stats, scenes[:2])

    def kill(index: int, stage: Stage) -> None:
        if stage.name == at:
            raise KilledError

    assert tuned_from(tmp_path / "none", len(stages)) == len(stages)
    with pytest.raises(KilledError):
        tune(killed, plan, camera_stats, scenes[:2], folder=tmp_path / "state", on_tuned=kill)
    done = tuned_from(tmp_path / "state", len(stages))
    assert stages[done - 1].name == at
    kept = {id(killed.blocks()[name]) for stage in stages[done:] for name in stage.blocks}
    for unit in resumed.wiring().units:
        if id(killed.get_submodule(unit.path)) in kept:
            resumed.set_submodule(unit.path, killed.get_submodule(unit.path))
    told: list[int] = []
    tune(
        resumed,
        plan,
        camera_stats,
        scenes[:2],
        folder=tmp_path / "state",
        on_tuned=lambda index, stage: told.append(index),
    )
    assert told[0] == done - 1
    assert_same(resumed, whole)


def test_no_scenes_are_refused(small: VGGT, small_stats: CalibrationStats, uniform_plan: Plan) -> None:
    """There is nothing to tune on."""
    with pytest.raises(InputError, match="no scenes"):
        tune(small, uniform_plan(small, "w8a8"), small_stats, [])


def test_a_plan_for_another_model_is_refused(
    small: VGGT, scenes: tuple[Scene, ...], small_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    """Before anything is computed."""
    plan = uniform_plan(small, "w8a8")
    with pytest.raises(InputError, match="does not match the model"):
        tune(small, replace(plan, assignments=plan.assignments[1:]), small_stats, scenes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_named(
    value: float, small: VGGT, scenes: tuple[Scene, ...], small_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    """Not a tuning of garbage."""
    images = scenes[1].images.copy()
    images[0, 0, 0, 0] = value
    with pytest.raises(InputError, match="noise-1 are not finite"):
        tune(small, uniform_plan(small, "w8a8"), small_stats, [scenes[0], replace(scenes[1], images=images)])


@pytest.mark.parametrize(
    "tensor",
    [
        "aggregator.frame_blocks.0.attn.qkv.weight",
        "aggregator.global_blocks.0.norm2.weight",
        "aggregator.camera_token",
        "camera_head.trunk.0.mlp.fc2.bias",
        "point_head.scratch.output_conv2.2.weight",
    ],
)
def test_a_weight_that_is_not_finite_is_named(
    tensor: str, small: VGGT, scenes: tuple[Scene, ...], small_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    """Wherever it is; NaN has reached all outputs by the time anything is tuned."""
    small.get_parameter(tensor).data.view(-1)[-1] = np.nan
    with pytest.raises(InputError, match=f"{tensor.removeprefix('aggregator.')} holds NaN") as caught:
        tune(small, uniform_plan(small, "w8a8"), small_stats, scenes[:1])
    assert "broken" in caught.value.remedy


def test_activations_that_overflow_are_refused(
    camera: VGGT, scenes: tuple[Scene, ...], camera_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    """Every weight is finite, and what they compute is not."""
    camera.get_parameter("aggregator.frame_blocks.0.norm1.weight").data.fill_(1e38)
    camera.get_parameter("aggregator.frame_blocks.0.attn.qkv.weight").data.mul_(1e10)
    with pytest.raises(InputError, match="not finite") as caught:
        tune(camera, uniform_plan(camera, "w8a8"), camera_stats, scenes[:1])
    assert "check the checkpoint" in caught.value.remedy


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16", "w4a8d", "p4a16"])
def test_weights_beyond_fp16_are_refused(
    scheme: str, camera: VGGT, scenes: tuple[Scene, ...], camera_stats: CalibrationStats, uniform_plan: Plan
) -> None:
    """Their scales, or the values of their palettes, have no FP16 number; the block is named."""
    camera.get_parameter("camera_head.trunk.0.attn.qkv.bias").data.fill_(0)
    camera.get_parameter("camera_head.trunk.0.attn.qkv.weight").data[0, 0] = 1e9
    with pytest.raises(InputError, match=r"camera_head\.trunk\.0 cannot be tuned") as caught:
        tune(camera, uniform_plan(camera, scheme), camera_stats, scenes[:1])
    assert "--exclude camera_head.trunk.0" in caught.value.remedy


@pytest.mark.parametrize(("value", "scheme"), [(0.0, "w8a8"), (1.0, "w4a8d"), (0.5, "p4a16")])
def test_constant_images_leave_the_model_finite(
    value: float, scheme: str, small: VGGT, scenes: tuple[Scene, ...], uniform_plan: Plan
) -> None:
    """All patches alike: most directions of the inputs were never seen."""
    flat = [replace(scenes[0], images=np.full_like(scenes[0].images, value))]
    stats, plan = calibrate(small, flat), uniform_plan(small, scheme)
    tuned = copy.deepcopy(small)
    tune(tuned, plan, stats, flat)
    assert np.isfinite(error(rounded(tuned, plan, stats), small, scenes))


@pytest.mark.parametrize("outputs", [("camera",), ("depth",)])
def test_a_single_head_is_enough(
    outputs: tuple[str, ...], make_small: MakeSmall, scenes: tuple[Scene, ...], uniform_plan: Plan
) -> None:
    """What the others would read is of no weight then, and there need be no points for a scale."""
    model = make_small(outputs=outputs)
    stats, plan, tuned = calibrate(model, scenes[:1]), uniform_plan(model, "w4a16"), copy.deepcopy(model)
    tune(tuned, plan, stats, scenes[:1])
    ours, plain = (error(rounded(one, plan, stats), model, scenes[:1]) for one in (tuned, model))
    assert ours < plain


@pytest.mark.parametrize("tokens", ["all", "filtered", "designed"])
def test_one_frame_is_enough(
    tokens: Tokens, make_small: MakeSmall, scenes: tuple[Scene, ...], uniform_plan: Plan
) -> None:
    """One camera token, and nine tokens for 64 channels."""
    single, one = make_small(1, ("camera",)), [replace(scenes[0], images=scenes[0].images[:1])]
    stats, plan = calibrate(single, one), uniform_plan(single, "w8a8")
    tuned = copy.deepcopy(single)
    tune(tuned, plan, stats, one, parts=Parts(tokens=tokens))
    assert error(rounded(tuned, plan, stats), single, one) < 1


def test_a_dead_input_leaves_its_layer_usable(camera: VGGT, scenes: tuple[Scene, ...], uniform_plan: Plan) -> None:
    """What fc2 reads is always zero: it gets no scale from tuning, and one from the statistics."""
    fc1 = camera.get_submodule("aggregator.frame_blocks.0.mlp.fc1")
    for parameter in fc1.parameters():
        parameter.data.fill_(0)
    stats, plan = calibrate(camera, scenes[:1]), uniform_plan(camera, "w8a8")
    tuned = copy.deepcopy(camera)
    tune(tuned, plan, stats, scenes[:1])
    found = any_tuned(tuned.get_submodule("aggregator.frame_blocks.0.mlp.fc2"))
    assert found is not None
    assert found.input_scale is None
    assert np.isfinite(error(rounded(tuned, plan, stats), camera, scenes))


def seen_of(rows: Tensor, layer: nn.Module) -> Seen:
    """The gradients of the sum of what the layer puts out."""
    x = rows.clone().requires_grad_(True)
    out = layer(x)
    (by_input,) = torch.autograd.grad(out.sum(), x)
    return Seen(rows, by_input, torch.ones_like(out))


def test_collected_scenes_are_one() -> None:
    """The Hessian is a sum, peaks are the largest, and every scene has its share of the sample."""
    layer, rows = nn.Linear(8, 4), torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    parts, whole = Collected("layer", 2, Parts()), Collected("layer", 1, Parts())
    for half in rows.split(1500):
        parts.add(layer, seen_of(half, layer))
    whole.add(layer, seen_of(rows, layer))
    one, other = parts.evidence(layer), whole.evidence(layer)
    assert one.hessian is not None
    assert other.hessian is not None
    centred = rows - rows.mean(dim=0)
    torch.testing.assert_close(one.hessian, centred.T @ centred, rtol=1e-3, atol=1e-1)
    assert one.mean is not None
    torch.testing.assert_close(one.mean, rows.mean(dim=0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.hessian, other.hessian, rtol=1e-4, atol=1e-3)
    assert torch.equal(one.channel_absmax, rows.abs().amax(dim=0))
    assert len(one.sample.x) == 2 * 1024
    assert one.sample.share == pytest.approx(1024 / 1500)


def test_tokens_count_by_what_their_outputs_mean() -> None:
    """A token whose output has twice the gradient weighs four times as much. Without a bias Hessians are about 0."""
    layer, rows = nn.Linear(8, 4, bias=False), torch.eye(8)[:2]
    collected = Collected("layer", 1, Parts())
    collected.add(layer, Seen(rows, torch.ones(2, 8), torch.tensor([[1.0] * 4, [2.0] * 4])))
    hessian = collected.evidence(layer).hessian
    assert hessian is not None
    assert hessian.diagonal().tolist() == [1, 4, 0, 0, 0, 0, 0, 0]


def test_maps_have_their_channels_in_the_second_dimension() -> None:
    """No Hessian for a convolution."""
    conv, maps = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    collected = Collected("conv", 1, Parts())
    collected.add(conv, seen_of(maps, conv))
    evidence = collected.evidence(conv)
    assert evidence.hessian is None
    assert torch.equal(evidence.channel_absmax, maps.abs().amax(dim=(0, 2, 3)))
    assert torch.equal(evidence.sample.x, maps)


@pytest.mark.parametrize("scenes", [4, 64])
def test_what_is_kept_of_maps_does_not_grow_with_the_scenes(scenes: int) -> None:
    """Places of both frames, from all over the map, with the gradients of the same places."""
    conv, generator = nn.Conv2d(3, 2, 1), torch.Generator().manual_seed(0)
    collected = Collected("conv", scenes, Parts())
    for _ in range(scenes):
        x = torch.rand(2, 3, 80, 100, generator=generator) + torch.arange(80.0)[:, None]  # row + [0, 1)
        collected.add(conv, Seen(x, -x, torch.ones(2, 2, 80, 100)))
    sample = collected.evidence(conv).sample
    places = sample.x.shape[0] * sample.x.shape[3]
    assert places == pytest.approx(SAMPLED_PLACES, rel=0.05)
    assert sample.share == pytest.approx(places / (scenes * 2 * 8000))
    assert torch.equal(sample.slopes, -sample.x)
    of_each_row = torch.histc(sample.x[:2, :1], bins=80, min=0, max=80)
    assert bool((of_each_row > 0).all()) if scenes == 4 else float((of_each_row > 0).float().mean()) > 0.5


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4, bias=False), (40, 6)),
        (nn.Conv2d(6, 4, 1), (2, 6, 5, 5)),
        (nn.ConvTranspose2d(6, 4, 1), (2, 6, 5, 5)),
    ],
)
@pytest.mark.parametrize(("task", "gradient"), [(False, 100.0), (True, 0.0)], ids=["no-task", "no-weighted-output"])
def test_without_the_task_an_input_means_what_it_does_to_the_layer(
    layer: nn.Module, shape: tuple[int, ...], task: bool, gradient: float
) -> None:
    """The slope of a channel is the norm of the weights that read it, with random signs; all tokens weigh the same."""
    collected, x = Collected("layer", 1, Parts(task=task)), torch.ones(shape)
    seen = seen_of(x, layer)
    collected.add(layer, Seen(seen.x, gradient * seen.by_input, gradient * seen.by_output))
    evidence = collected.evidence(layer)
    weight = layer.get_parameter("weight").detach()
    columns = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
    norms = columns.flatten(2).sum(dim=2).norm(dim=0) if weight.ndim == 4 else columns.norm(dim=0)
    slopes = evidence.sample.slopes
    torch.testing.assert_close(slopes.abs().amax(dim=[axis for axis in range(x.ndim) if axis != 1]), norms)
    assert bool((slopes < 0).any())
    assert bool((slopes > 0).any())
    if evidence.hessian is not None:
        torch.testing.assert_close(evidence.hessian, torch.full((6, 6), 40.0))


def test_efforts_are_named_as_the_command_names_them() -> None:
    """From little to much."""
    assert tuple(EFFORTS) == ("fast", "balanced", "max")
    assert EFFORTS["max"].parts == replace(Parts(), reconstruction=True)
