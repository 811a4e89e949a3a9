"""The model that we measure ourselves against computes the same as ours; otherwise the comparison says nothing."""

from __future__ import annotations

import pytest
import torch
from naive_vggt import OUTPUTS, NaiveVGGT
from torch import Tensor

from vggt_edge.exporter.models.config import InputShape, VGGTConfig
from vggt_edge.exporter.models.vggt import VGGT

TINY = VGGTConfig(
    name="tiny",
    embed_dim=32,
    dino_depth=2,
    depth=4,
    heads=2,
    position_grid=3,
    taps=(0, 1, 2, 3),
    camera_trunk_depth=2,
    camera_heads=4,
    camera_iterations=3,
    dpt_features=16,
    dpt_channels=(8, 16, 24, 24),
    dpt_hidden=8,
)


def randomised(model: VGGT) -> VGGT:
    """Every parameter random, so that none can be left out unseen; matrices of unit gain."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 and name.endswith("weight") else 0.3
        centre = 1.0 if parameter.ndim == 1 and name.endswith(("weight", "gamma")) else 0.0
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = centre + spread * noise
    return model.eval().requires_grad_(False)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / ours.abs().max())


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(2, 42, 42), (3, 56, 42)], ids=["native grid", "interpolated positions"]
)
def test_gives_the_same_outputs_as_ours_from_the_same_state_dict(frames: int, height: int, width: int) -> None:
    shape = InputShape(frames, height, width)
    ours = randomised(VGGT(TINY, shape))
    naive = NaiveVGGT(TINY, shape).eval()
    naive.load_state_dict(ours.state_dict(), strict=True)
    images = torch.rand(1, frames, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, got = ours(images), naive(images)
    assert ours.output_names == OUTPUTS
    for name, one, other in zip(OUTPUTS, expected, got, strict=True):
        assert one.shape == other.shape, name
        assert difference(one, other) < 1e-4, name
