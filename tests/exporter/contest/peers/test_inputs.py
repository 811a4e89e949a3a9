"""What the methods of the comparison are given, on a tiny VGGT."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.apply import apply_plan
from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import SCHEMES, Scheme
from vggt_edge.devices.errors import InputError, UnknownNameError
from vggt_edge.exporter.contest.peers.inputs import (
    ROWS,
    Rows,
    block_linears,
    block_order,
    channel_peaks,
    quantized_copy,
    quantized_in_order,
    sampled_stages,
)
from vggt_edge.exporter.contest.peers.layer import SimulatedLinear, rounded_weight
from vggt_edge.exporter.models.vggt import VGGT

NAME, CAMERA = "global_blocks.1.attn.qkv", "camera_head.trunk.0.mlp.fc2"


def rounded(scheme: Scheme) -> Callable[[str, nn.Linear], nn.Module]:
    return lambda name, layer: SimulatedLinear(layer, rounded_weight(layer.weight, scheme), scheme)


def layer_rows(
    model: VGGT, scenes: Sequence[Scene], names: Iterable[str], rows: int = ROWS, seed: int = 0
) -> dict[str, Rows]:
    """The samples of ``sampled_stages``, for all stages at once."""
    return {name: found for stage in sampled_stages(model, scenes, names, rows, seed) for name, found in stage.items()}


def whole_input(model: VGGT, layer: nn.Module, scenes: tuple[Scene, ...]) -> Tensor:
    """Every row that goes into ``layer``, by plain forwards."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        for scene in scenes:
            model(images_of(scene))
    handle.remove()
    return torch.cat(seen)


def test_all_rows_in_order_where_they_fit(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    """The camera trunk sees camera tokens alone, once per refinement."""
    found = layer_rows(model, scenes, [CAMERA, NAME], rows=10_000)
    assert list(found) == [NAME, CAMERA]
    linears = block_linears(model)
    for name, rows in found.items():
        assert torch.equal(rows.values, whole_input(model, linears[name], scenes))
    frames, tokens = 3 * model.shape.frames, model.shape.tokens
    assert torch.equal(found[NAME].special, (torch.arange(tokens) < model.special_tokens).repeat(frames))
    assert bool(found[CAMERA].special.all())
    assert len(found[CAMERA].values) == frames * 2


def test_a_draw_is_seeded_and_keeps_both_groups(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    everything = layer_rows(model, scenes, [NAME], rows=10_000)[NAME].values
    one, same, other = (layer_rows(model, scenes, [NAME], rows=30, seed=seed)[NAME] for seed in (0, 0, 1))
    assert len(one.values) == 30
    assert torch.equal(one.values, same.values)
    assert not torch.equal(one.values, other.values)
    assert 0 < int(one.special.sum()) < 30
    assert all(bool((everything == row).all(dim=1).any()) for row in one.values)
    assert torch.equal(layer_rows(model, scenes, [NAME], rows=30)[NAME].values, one.values)


def test_draws_do_not_depend_on_other_layers(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    alone = layer_rows(model, scenes, [NAME], rows=9)[NAME].values
    assert torch.equal(layer_rows(model, scenes, block_linears(model), rows=9)[NAME].values, alone)


def test_samples_come_stage_by_stage_and_may_carry_gradients(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    stages = list(sampled_stages(model, scenes, block_linears(model), rows=4))
    assert [len(stage) for stage in stages] == [4] * 10
    assert not next(iter(stages[0].values())).values.is_inference()


def test_refuses_no_scenes_and_unknown_layers(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    with pytest.raises(InputError, match="no scenes"):
        layer_rows(model, [], [NAME])
    with pytest.raises(InputError, match="no scenes"):
        quantized_in_order(model, stats, SCHEMES["w4a16"], [], lambda name, x: None, rounded(SCHEMES["w4a16"]))
    with pytest.raises(UnknownNameError, match="depth_head"):
        layer_rows(model, scenes, ["depth_head.norm"])


def test_block_order(model: VGGT) -> None:
    order = block_order(model)
    assert list(order) == [name for name in model.blocks() if not name.endswith("_head")]
    assert order["frame_blocks.0"] == tuple(
        f"frame_blocks.0.{path}" for path in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    )


def test_channel_peaks(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    rows = whole_input(model, block_linears(model)[NAME], scenes)
    torch.testing.assert_close(channel_peaks(stats, NAME), rows.abs().amax(dim=0))


@pytest.mark.parametrize("name", ["w4a16", "w8a8d", "w4a8d", "w4a4d"])
def test_rounding_to_nearest_is_what_a_plan_gives(
    model: VGGT,
    scenes: tuple[Scene, ...],
    stats: CalibrationStats,
    uniform_plan: Callable[..., PrecisionPlan],
    name: str,
) -> None:
    """Bit for bit with the export's own layers, convolutions and the rest included; the model is left as it is."""
    scheme, before = SCHEMES[name], {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        copied = quantized_copy(model, stats, scheme, rounded(scheme))
        ours = copied(images_of(scenes[0]))
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        apply_plan(model, replace(uniform_plan(model, name), group_size=scheme.group_size or 64), stats)
        theirs = model(images_of(scenes[0]))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_in_order_shows_each_block_what_the_quantized_ones_before_give(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats
) -> None:
    """The first block is shown what the FP32 model gives it, later ones the inputs of the finished copy."""
    scheme = SCHEMES["w4a16"]
    shown: dict[str, list[Tensor]] = {}

    def see(name: str, x: Tensor) -> None:
        shown.setdefault(name, []).append(x.clone())

    copied = quantized_in_order(model, stats, scheme, scenes, see, rounded(scheme))
    assert list(shown) == list(block_linears(model))
    for name in (NAME, "patch_embed.blocks.0.attn.qkv"):
        block, path = name.split(".attn.")
        layer = copied.blocks()[block].get_submodule(f"attn.{path}")
        assert torch.equal(torch.cat(shown[name]), whole_input(copied, layer, scenes))
    # Within a block, other linears are not quantized yet: fc2 sees an FP32 fc1 there.
    fc2 = copied.blocks()["frame_blocks.2"].get_submodule("mlp.fc2")
    assert not torch.equal(torch.cat(shown["frame_blocks.2.mlp.fc2"]), whole_input(copied, fc2, scenes))
    direct = quantized_copy(model, stats, scheme, rounded(scheme))
    with torch.no_grad():
        both = [one(images_of(scenes[0])) for one in (copied, direct)]
    assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))


def test_one_by_one_shows_each_linear_what_the_quantized_ones_before_give(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats
) -> None:
    scheme = SCHEMES["w4a16"]
    shown: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        shown[name] = x.clone()

    copied = quantized_in_order(model, stats, scheme, scenes[:1], see, rounded(scheme), one_by_one=True)
    fc2 = copied.blocks()["frame_blocks.2"].get_submodule("mlp.fc2")
    assert torch.equal(shown["frame_blocks.2.mlp.fc2"], whole_input(copied, fc2, scenes[:1]))
