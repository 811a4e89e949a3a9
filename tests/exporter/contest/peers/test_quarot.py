"""QuaRot where the answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.quantization.quantize import activation_scale
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.exporter.contest.peers import quarot
from vggt_edge.exporter.contest.peers.inputs import quantized_copy, sampled_stages
from vggt_edge.exporter.contest.peers.layer import rounded_weight
from vggt_edge.exporter.contest.peers.quarot import random_hadamard, rotated, shrinks
from vggt_edge.exporter.models.vggt import VGGT

FIRST = "patch_embed.blocks.0"


@given(st.integers(1, 200), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_hadamard_matrices_are_orthogonal_and_flat(width: int, seed: int) -> None:
    """Each input is shared equally among the largest power of two of outputs."""
    matrix, size = random_hadamard(width, seed), width & -width
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(width))
    inside = matrix != 0
    assert bool((inside.sum(dim=0) == size).all())
    torch.testing.assert_close(matrix.abs()[inside], torch.full((width * size,), size**-0.5))


def test_signs_are_seeded() -> None:
    assert torch.equal(random_hadamard(64, 1), random_hadamard(64, 1))
    assert not torch.equal(random_hadamard(64, 1), random_hadamard(64, 2))
    # All columns of an unsigned Hadamard matrix but the first sum to zero.
    assert float(random_hadamard(64, 1).sum(dim=0)[1:].abs().max()) > 0.1


def test_a_planted_outlier_is_shared_by_all_channels() -> None:
    """Alone, to exactly the same magnitude everywhere; among others, max over root mean square falls by much."""
    torch.manual_seed(0)
    alone = torch.zeros(1, 64)
    alone[0, 9] = 16.0
    torch.testing.assert_close((alone @ random_hadamard(64, 0)).abs(), torch.full((1, 64), 2.0))
    x = torch.randn(32, 256)
    x[:, 9] += 100
    ratios = [
        float((values.abs().amax(dim=1) / values.square().mean(dim=1).sqrt()).mean())
        for values in (x, x @ random_hadamard(256, 0))
    ]
    assert ratios[0] > 14
    assert ratios[1] < 2


def test_exact_without_rounding(small: VGGT, small_stats: CalibrationStats, scenes: tuple[Scene, ...]) -> None:
    """Every linear rotated, none quantized: the outputs of the same copy without rotations, within 1e-5."""
    scheme = SCHEMES["fp32"]
    plain = quantized_copy(small, small_stats, scheme, lambda name, layer: layer)
    turned = quarot.quantize(small, scenes[:1], scheme, 3)
    with torch.no_grad():
        pairs = zip(plain(images_of(scenes[1])), turned(images_of(scenes[1])), strict=True)
        for expected, got in pairs:
            assert float((got - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize(("name", "factor"), [("w8a8", 4), ("w8a8d", 2), ("w4a4d", 1.5)])
def test_helps_against_an_outlier_channel(name: str, factor: float) -> None:
    """Against the same weights, compensated alike, without a rotation."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.randn(512, 64)
    x[:, 5] *= 30
    errors = []
    for rotation in (random_hadamard(64, 0), torch.eye(64)):
        inputs = x @ rotation
        ours = rotated(layer, rotation, inputs.T @ inputs, float(inputs.abs().max()), SCHEMES[name])
        errors.append(float((ours(x) - layer(x)).detach().square().mean()))
    assert errors[0] * factor < errors[1]


def test_static_scales_are_those_of_the_rotated_input(small: VGGT, scenes: tuple[Scene, ...]) -> None:
    """Of the first linear, in front of which only the patch embedding is quantized: to FP16, as in every copy."""
    first = quarot.quantize(small, scenes[:2], SCHEMES["w8a8"], 5).blocks()[FIRST].get_submodule("attn.qkv")
    embedding = small.aggregator.patch_embed.patch_embed.proj
    embedding.weight.copy_(embedding.weight.half().float())
    (stage,) = sampled_stages(small, scenes[:2], [f"{FIRST}.attn.qkv"], rows=10_000)
    seen = stage[f"{FIRST}.attn.qkv"].values
    assert first.input_scale == activation_scale(float((seen @ random_hadamard(64, 5)).abs().max()))


@pytest.mark.parametrize(("name", "group"), [("w4a16", 64), ("w4a8d", 32), ("w8a8", 128)])
def test_shrinks_are_the_best_of_all(name: str, group: int) -> None:
    torch.manual_seed(0)
    weight, scheme = torch.randn(8, 128), SCHEMES[name]
    errors = torch.stack(
        [
            (rounded_weight(weight, scheme, 1 - step / 100) - weight).abs().pow(2.4).reshape(8, -1, group).sum(dim=2)
            for step in range(80)
        ]
    )
    torch.testing.assert_close(shrinks(weight, scheme), (1 - errors.argmin(dim=0) / 100).reshape(8, -1).squeeze(1))
