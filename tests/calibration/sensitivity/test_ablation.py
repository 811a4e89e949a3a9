"""One-block ablation: exact, clean, and blind to nothing that counts."""

from __future__ import annotations

import copy

import pytest
import torch

from vggt_edge.calibration.apply import block_replacements, replace_layers
from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import scheme
from vggt_edge.calibration.sensitivity.ablation import HUBER_DELTA, Sensitivity, measure, output_errors, weighted
from vggt_edge.devices.errors import InputError, UnknownNameError
from vggt_edge.exporter.models.vggt import ARCHITECTURE, VGGT

DECLARED = ARCHITECTURE.outputs
CANDIDATES = {
    "patch_embed.blocks.0": ("w4a16",),
    "global_blocks.2": ("w8a8", "fp16"),
    "camera_head.trunk.0": ("w4a16",),
    "frame_blocks.1": ("w4a8d",),
    "point_head": ("w8a16", "w8a8d"),
}


@pytest.fixture
def measured(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> tuple[Sensitivity, ...]:
    return measure(model, stats, scenes[:2], CANDIDATES, 64)


def test_replayed_blocks_change_nothing(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats, measured: tuple[Sensitivity, ...]
) -> None:
    """Against full forwards of a copy, with no memory of block calls: equal to the last bit."""
    for entry in measured:
        ablated = copy.deepcopy(model)
        block = ablated.blocks()[entry.block]
        replace_layers(block, block_replacements(entry.block, block, scheme(entry.scheme), 64, stats))
        expected = dict.fromkeys(model.output_names, 0.0)
        with torch.inference_mode():
            for scene in scenes[:2]:
                reference = dict(zip(model.output_names, model(images_of(scene)), strict=True))
                outputs = dict(zip(model.output_names, ablated(images_of(scene)), strict=True))
                for name, error in output_errors(model.outputs, outputs, reference).items():
                    expected[name] += error / 2
        assert dict(entry.per_output) == expected
        assert entry.error == weighted(model.outputs, expected)


def test_order_is_that_of_the_candidates(measured: tuple[Sensitivity, ...]) -> None:
    assert [(entry.block, entry.scheme) for entry in measured] == [
        (block, name) for block, names in CANDIDATES.items() for name in names
    ]


def test_a_head_moves_only_its_own_outputs(measured: tuple[Sensitivity, ...]) -> None:
    point_head = measured[-1]
    assert {name for name, error in point_head.per_output.items() if error > 0} == {"points", "points_conf"}


def test_coarser_schemes_hurt_more(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    entries = measure(model, stats, scenes[:1], {"frame_blocks.1": ("fp16", "w8a16", "w4a16")}, 64)
    fp16, w8a16, w4a16 = (entry.error for entry in entries)
    assert 0 < fp16 < w8a16 < w4a16


def test_the_model_is_left_as_it_was(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    modules = dict(model.named_modules())
    measure(model, stats, scenes[:1], CANDIDATES, 64)
    after = dict(model.named_modules())
    assert list(after) == list(modules)
    assert all(after[name] is module for name, module in modules.items())
    assert not any("forward" in module.__dict__ or module._forward_hooks for module in model.modules())


def test_progress_counts_to_the_end(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    seen: list[tuple[int, int]] = []
    measure(
        model,
        stats,
        scenes[:2],
        {"point_head": ("fp16",)},
        64,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]


def test_opposite_quaternions_are_the_same_rotation() -> None:
    pose = torch.randn(1, 3, 9, generator=torch.Generator().manual_seed(0))
    flipped = pose.clone()
    flipped[..., 3:7] *= -1
    assert output_errors(DECLARED, {"pose_enc": flipped}, {"pose_enc": pose}) == {"pose_enc": 0.0}


def test_errors_do_not_depend_on_the_unit_of_length() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1, 2, 4, 4, 3, generator=generator)
    moved = points + 0.01 * torch.randn(points.shape, generator=generator)
    (one,) = output_errors(DECLARED, {"points": moved}, {"points": points}).values()
    (ten,) = output_errors(DECLARED, {"points": 10 * moved}, {"points": 10 * points}).values()
    assert one == pytest.approx(ten, rel=1e-4)


def test_formula_of_a_known_error() -> None:
    depth = torch.full((1, 1, 2, 2), 4.0)
    assert output_errors(DECLARED, {"depth": depth * 1.02}, {"depth": depth})["depth"] == pytest.approx(
        0.02**2 / 2, rel=1e-4
    )
    far = output_errors(DECLARED, {"depth": depth * 2}, {"depth": depth})["depth"]
    assert far == pytest.approx(HUBER_DELTA * (1 - HUBER_DELTA / 2))


def test_unknown_blocks_and_missing_scenes_are_refused(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats
) -> None:
    with pytest.raises(UnknownNameError, match=r"frame_blocks\.99"):
        measure(model, stats, scenes, {"frame_blocks.99": ("fp16",)}, 64)
    with pytest.raises(InputError, match="scenes"):
        measure(model, stats, [], {"point_head": ("fp16",)}, 64)
