"""A VGGT of four blocks: methods that search or go column by column are run whole on it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vggt_edge.calibration.collect import calibrate
from vggt_edge.calibration.scenes import Scene
from vggt_edge.calibration.stats import CalibrationStats
from vggt_edge.exporter.models.config import InputShape, VGGTConfig
from vggt_edge.exporter.models.vggt import VGGT

SMALL = VGGTConfig(
    name="small",
    embed_dim=64,
    dino_depth=1,
    depth=1,
    heads=2,
    position_grid=2,
    taps=(0, 0, 0, 0),
    camera_trunk_depth=1,
    camera_heads=2,
    camera_iterations=2,
    dpt_features=16,
    dpt_channels=(8, 8, 16, 16),
    dpt_hidden=8,
)


def make_small() -> VGGT:
    """For the noise of ``scenes``. Weights as those of the tiny model: none so small that its block does not matter."""
    torch.manual_seed(0)
    model = VGGT(SMALL, InputShape(2, 28, 28))
    for name, parameter in model.named_parameters():
        if name.endswith("gamma") or not bool(parameter.detach().any()):
            nn.init.normal_(parameter, std=0.3)
    return model.fix_constants()


@pytest.fixture
def small() -> VGGT:
    return make_small()


@pytest.fixture(scope="session")
def small_stats(scenes: tuple[Scene, ...]) -> CalibrationStats:
    return calibrate(make_small(), scenes)
