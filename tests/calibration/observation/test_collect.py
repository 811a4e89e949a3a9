"""Calibration of a whole (tiny) model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.observation.collect import calibrate, images_of, layers_of, model_digest
from vggt_edge.calibration.observation.observe import PATCH, SPECIAL
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.quantization.attention import OPERANDS, attends_of
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.vggt import VGGT


def test_every_layer_of_every_block_is_observed(model: VGGT, stats: CalibrationStats) -> None:
    """And every operand of every attention."""
    layers = {f"{name}.{path}" for name, block in model.blocks().items() for path in layers_of(block)}
    attentions = {f"{name}.{path}" for name, block in model.blocks().items() for path in attends_of(block)}
    assert {tensor.layer for tensor in stats.tensors} == layers | attentions
    for name in attentions:
        assert {tensor.group for tensor in stats.of_layer(name)} == set(OPERANDS)


def test_the_figures_are_those_of_the_layer_inputs(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats
) -> None:
    seen: list[Tensor] = []
    model.aggregator.global_blocks[1].mlp.fc1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        for scene in scenes:
            model(images_of(scene))
    tokens = torch.cat(seen).reshape(len(scenes), 2, model.shape.tokens, -1)
    by_group = {tensor.group: tensor for tensor in stats.of_layer("global_blocks.1.mlp.fc1")}
    for group, part in ((SPECIAL, tokens[:, :, :5]), (PATCH, tokens[:, :, 5:])):
        figures = by_group[group]
        assert figures.minimum == float(part.min())
        assert figures.maximum == float(part.max())
        assert figures.count == part.numel()
        expected = part.abs().amax(dim=(0, 1, 2))
        assert torch.equal(torch.from_numpy(stats.channel_absmax[figures.key]), expected)


def test_token_groups_follow_the_kind_of_block(stats: CalibrationStats) -> None:
    assert {tensor.group for tensor in stats.of_layer("camera_head.trunk.0.attn.qkv")} == {SPECIAL}
    assert {tensor.group for tensor in stats.of_layer("depth_head.projects.0")} == {PATCH}
    assert {tensor.group for tensor in stats.of_layer("patch_embed.blocks.0.attn.qkv")} == {PATCH, SPECIAL}


def test_calibration_is_deterministic_and_leaves_no_hooks(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats
) -> None:
    assert calibrate(model, scenes).digest == stats.digest
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_samples_are_named_and_hashed(scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    assert [(sample.name, sample.digest) for sample in stats.samples] == [(s.name, s.digest) for s in scenes]


def test_no_scenes_is_an_error(model: VGGT) -> None:
    with pytest.raises(InputError, match="no scenes"):
        calibrate(model, [])


def test_nan_names_the_layer_that_receives_it(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    nn.init.constant_(model.aggregator.frame_blocks[2].norm2.weight, float("nan"))
    with pytest.raises(InputError, match=r"frame_blocks\.2\.mlp\.fc1"):
        calibrate(model, scenes)


def test_nan_outside_the_layers_names_the_output(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    last = model.depth_head.scratch.output_conv2[2]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.constant_(last.bias, float("inf"))
    with pytest.raises(InputError, match="depth"):
        calibrate(model, scenes)


def test_headroom_scan_finds_the_block_that_overflows_fp16(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    with torch.no_grad():
        model.aggregator.frame_blocks[1].mlp.fc1.weight *= 1e5
    stats = calibrate(model, scenes[:1])
    assert "frame_blocks.1" in stats.fp32_blocks()
    assert "patch_embed.blocks.0" not in stats.fp32_blocks()


def test_headroom_scan_sees_what_is_handed_over_between_blocks(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    """A normalisation after the last DINO block reads the residual stream and computes small numbers from it."""
    with torch.no_grad():
        model.aggregator.patch_embed.blocks[-1].ls2.gamma *= 1e7
    wanted = calibrate(model, scenes[:1]).fp32_blocks()
    assert "aggregator.patch_embed.norm" in wanted
    assert "depth_head" not in wanted


def test_headroom_scan_covers_every_module_that_runs(model: VGGT, stats: CalibrationStats) -> None:
    named = {entry.block for entry in stats.block_ranges}
    assert set(model.blocks()) < named
    assert {"model", "aggregator.patch_embed.norm", "aggregator.patch_embed.patch_embed.proj"} <= named


def test_headroom_scan_sees_attention_logits(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    """They never leave the fused operator, and overflow first."""
    attention = model.aggregator.frame_blocks[1].attn
    assert isinstance(attention.q_norm, nn.LayerNorm)
    nn.init.constant_(attention.q_norm.weight, 1e4)
    ranges = {entry.block: entry for entry in calibrate(model, scenes[:1]).block_ranges}
    assert ranges["frame_blocks.1"].operation == "attention logits"


def test_model_digest_depends_on_every_weight(model: VGGT) -> None:
    before = model_digest(model)
    assert before == model_digest(model)
    with torch.no_grad():
        model.camera_head.pose_branch.fc2.bias[0] += 1
    assert model_digest(model) != before
