"""A plan, put into a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from vggt_edge.calibration.apply import apply_plan, input_peak, quantized_stage
from vggt_edge.calibration.observation.collect import images_of, layers_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.quantization.attention import Attend, QuantizedAttend
from vggt_edge.calibration.quantization.linear import HalfLayer, QuantLayer, StoredLayer
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import INT4, INT8, Activation
from vggt_edge.calibration.stages.journal import MemoryJournal
from vggt_edge.calibration.stages.walk import walk
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.vggt import VGGT

Plans = Callable[..., PrecisionPlan]


@pytest.mark.parametrize(
    ("scheme", "largest"),
    [
        ("fp32", 0.0),
        ("fp16", 1e-3),
        ("w8a16", 0.05),
        ("w4a16", 0.5),
        ("w8a8", 0.2),
        ("p6a16", 0.2),
        ("p4a16", 0.5),
        ("w8a8d", 0.2),
        ("w4a8d", 0.5),
    ],
)
def test_outputs_stay_near_fp32(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats, uniform_plan: Plans, scheme: str, largest: float
) -> None:
    images = images_of(scenes[0])
    with torch.inference_mode():
        before = model(images)
        apply_plan(model, uniform_plan(model, scheme, rest_scheme="fp32"), stats)
        after = model(images)
    errors = [float((new - old).norm() / old.norm()) for new, old in zip(after, before, strict=True)]
    assert max(errors) <= largest
    assert (max(errors) > 0) == (scheme != "fp32")


def test_every_layer_gets_its_form(model: VGGT, stats: CalibrationStats, uniform_plan: Plans) -> None:
    apply_plan(model, uniform_plan(model, "w8a8"), stats)
    assert not layers_of(model)
    block = model.aggregator.frame_blocks[0]
    assert isinstance(block.attn.qkv, QuantLayer)
    peak = input_peak(stats, "frame_blocks.0.attn.qkv", INT8)
    assert block.attn.qkv.input_scale == block.attn.qkv.form.input_scale(peak)
    assert isinstance(model.depth_head.projects[0], QuantLayer)
    assert isinstance(model.aggregator.patch_embed.patch_embed.proj, HalfLayer)
    assert isinstance(model.camera_head.pose_branch.fc1, HalfLayer)


def test_four_bits_fall_back_where_there_are_none(model: VGGT, stats: CalibrationStats, uniform_plan: Plans) -> None:
    apply_plan(model, uniform_plan(model, "w4a16"), stats)
    assert {
        (module.form.weight.bits, module.form.group_size)
        for name, module in model.named_modules()
        if isinstance(module, QuantLayer) and "head.s" not in name
    } == {(4, 64), (8, None)}


def test_dynamic_schemes_need_no_statistics(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats, uniform_plan: Plans
) -> None:
    """Not even outside the blocks, where calibration does not look."""
    nothing = replace(stats, tensors=(), channel_absmax={})
    apply_plan(model, uniform_plan(model, "w4a8d", rest_scheme="w8a8d"), nothing)
    assert not layers_of(model)
    stored = [module for module in model.modules() if isinstance(module, StoredLayer)]
    assert {(layer.form.activation, layer.input_scale) for layer in stored} == {(Activation.DYNAMIC_TOKEN, None)}
    assert model.camera_head.pose_branch.fc1.form.weight == INT8
    assert model.aggregator.frame_blocks[0].mlp.fc1.form.weight == INT4
    with torch.inference_mode():
        assert all(bool(torch.isfinite(output).all()) for output in model(images_of(scenes[0])))


@pytest.mark.parametrize("rest_scheme", ["fp16", "w8a16", "w8a8d"])
def test_excluded_layers_get_the_kept_scheme_whatever_the_rest_gets(
    model: VGGT, stats: CalibrationStats, uniform_plan: Plans, rest_scheme: str
) -> None:
    apply_plan(model, uniform_plan(model, "w4a16", rest_scheme=rest_scheme, excluded=("mlp.fc2",)), stats)
    for block in model.aggregator.global_blocks:
        assert isinstance(block.mlp.fc2, HalfLayer)
        assert isinstance(block.mlp.fc1, QuantLayer)


def test_an_unknown_exclusion_is_named(model: VGGT, stats: CalibrationStats, uniform_plan: Plans) -> None:
    with pytest.raises(InputError, match=r"mlp\.fc9"):
        apply_plan(model, uniform_plan(model, "w8a8", excluded=("mlp.fc9",)), stats)


def test_nan_weights_are_named_and_leave_the_model_alone(
    model: VGGT, stats: CalibrationStats, uniform_plan: Plans
) -> None:
    with torch.no_grad():
        model.aggregator.frame_blocks[3].mlp.fc2.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"frame_blocks\.3\.mlp\.fc2\.weight"):
        apply_plan(model, uniform_plan(model, "w8a16"), stats)
    assert not any(isinstance(module, StoredLayer) for module in model.modules())


def test_huge_weights_are_named(model: VGGT, stats: CalibrationStats, uniform_plan: Plans) -> None:
    nn.init.constant_(model.camera_head.embed_pose.weight, 1e6)
    with pytest.raises(InputError, match=r"camera_head\.embed_pose\.weight"):
        apply_plan(model, uniform_plan(model, "w8a16"), stats)


def test_statistics_of_another_model_are_refused(model: VGGT, stats: CalibrationStats, uniform_plan: Plans) -> None:
    fewer = replace(stats, tensors=tuple(t for t in stats.tensors if not t.layer.startswith("global_blocks.2")))
    with pytest.raises(InputError, match=r"global_blocks\.2"):
        apply_plan(model, uniform_plan(model, "w8a8"), fewer)


def test_a_plan_of_another_model_is_refused(model: VGGT, stats: CalibrationStats, uniform_plan: Plans) -> None:
    plan = uniform_plan(model, "fp16")
    with pytest.raises(InputError, match="does not match"):
        apply_plan(model, replace(plan, assignments=plan.assignments[1:]), stats)


@pytest.mark.parametrize("excluded", [("attn.qkv",), ("attn.proj",), ("attn",), ("attn.qkv", "attn.proj", "mlp.fc2")])
def test_attention_beside_an_excluded_layer_stays_in_floats(
    uniform_plan: Plans, model: VGGT, excluded: tuple[str, ...]
) -> None:
    """Whoever keeps a layer of an attention does not want its products in 8 bits."""
    block = next(name for name in model.blocks() if "blocks" in name)
    plan = uniform_plan(model, "w8a8-mha", excluded=excluded)
    assert plan.attention_of(block, "attn.products") is None
    assert uniform_plan(model, "w8a8-mha", excluded=("mlp.fc2",)).attention_of(block, "attn.products") == INT8
    assert uniform_plan(model, "w8a8").attention_of(block, "attn.products") is None


@pytest.mark.parametrize(("excluded", "kind"), [((), QuantizedAttend), (("attn.qkv",), Attend)])
def test_the_products_of_attention_follow_the_plan(
    model: VGGT, stats: CalibrationStats, uniform_plan: Plans, excluded: tuple[str, ...], kind: type[nn.Module]
) -> None:
    apply_plan(model, uniform_plan(model, "w8a8-mha", excluded=excluded), stats)
    block = model.aggregator.frame_blocks[0]
    assert type(block.attn.products) is kind


def test_excluded_layers_can_stay_in_fp32(model: VGGT, stats: CalibrationStats, uniform_plan: Plans) -> None:
    apply_plan(
        model, uniform_plan(model, "w4a8d", rest_scheme="w8a8d", kept_scheme="fp32", excluded=("mlp.fc2",)), stats
    )
    for block in model.aggregator.global_blocks:
        assert type(block.mlp.fc2) is nn.Linear
        assert isinstance(block.mlp.fc1, QuantLayer)


def test_the_rest_cannot_have_static_activations(model: VGGT, stats: CalibrationStats, uniform_plan: Plans) -> None:
    with pytest.raises(InputError, match="rest_scheme"):
        apply_plan(model, uniform_plan(model, "fp16", rest_scheme="w8a8"), stats)


@pytest.mark.parametrize("scheme", ["fp16", "w8a8", "w4a16", "p4a16", "w8a8d", "w4a8d"])
def test_one_stage_at_a_time_computes_the_same_as_all_at_once(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats, uniform_plan: Plans, scheme: str
) -> None:
    plan = uniform_plan(model, scheme)
    journal = MemoryJournal()
    images = images_of(scenes[0])
    list(walk(model, [images], journal, around=lambda stage: quantized_stage(model, stage, plan, stats)))
    apply_plan(model, plan, stats)
    for name, expected in zip(model.output_names, model(images), strict=True):
        assert torch.equal(journal.get(0, name), expected), name


def test_a_stage_gets_its_own_layers_back(model: VGGT, stats: CalibrationStats, uniform_plan: Plans) -> None:
    before = dict(model.named_modules())
    for stage in model.stages():
        with quantized_stage(model, stage, uniform_plan(model, "w8a8"), stats):
            pass
    assert all(module is before[name] for name, module in model.named_modules())
