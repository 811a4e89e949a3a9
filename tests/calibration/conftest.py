"""A VGGT small enough that a forward takes milliseconds, and scenes of noise for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from vggt_edge.calibration.collect import calibrate
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.scenes import Scene
from vggt_edge.calibration.stats import CalibrationStats
from vggt_edge.exporter.models.config import InputShape, VGGTConfig
from vggt_edge.exporter.models.vggt import VGGT

FRAMES, SIDE = 2, 28
CONFIG = VGGTConfig(
    name="tiny",
    embed_dim=64,
    dino_depth=1,
    depth=4,
    heads=2,
    position_grid=2,
    taps=(0, 1, 2, 3),
    camera_trunk_depth=1,
    camera_heads=2,
    camera_iterations=2,
    dpt_features=16,
    dpt_channels=(8, 8, 16, 16),
    dpt_hidden=8,
)


def make_model() -> VGGT:
    """Random weights, none of them zero or tiny, so that every block matters to the outputs."""
    torch.manual_seed(0)
    model = VGGT(CONFIG, InputShape(FRAMES, SIDE, SIDE))
    for name, parameter in model.named_parameters():
        if name.endswith("gamma") or not bool(parameter.detach().any()):
            nn.init.normal_(parameter, std=0.3)
    return model.fix_constants()


@pytest.fixture
def model() -> VGGT:
    return make_model()


@pytest.fixture(scope="session")
def scenes() -> tuple[Scene, ...]:
    rng = np.random.default_rng(0)
    images = rng.random((3, FRAMES, 3, SIDE, SIDE), dtype=np.float32)
    return tuple(Scene(f"noise-{index}", image, ("a", "b")) for index, image in enumerate(images))


@pytest.fixture(scope="session")
def stats(scenes: tuple[Scene, ...]) -> CalibrationStats:
    return calibrate(make_model(), scenes)


@pytest.fixture
def uniform_plan() -> Callable[..., PrecisionPlan]:
    """A plan that gives every block of the model the same scheme."""

    def make(model: VGGT, scheme: str, *, rest_scheme: str = "fp16", excluded: tuple[str, ...] = ()) -> PrecisionPlan:
        assignments = tuple(
            Assignment(name, scheme, "test", 0.0, 0, 0.0, excluded if "blocks" in name else ())
            for name in model.blocks()
        )
        return PrecisionPlan("model", "stats", "none", 64, assignments, rest_scheme=rest_scheme)

    return make
