"""A VGGT small enough that a forward takes milliseconds, and scenes of noise for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.exporter.models.vggt import VGGT

FRAMES, SIDE = 2, 28


@pytest.fixture
def model(make_small: Callable[..., VGGT]) -> VGGT:
    return make_small(FRAMES, depth=4)


@pytest.fixture(scope="session")
def scenes() -> tuple[Scene, ...]:
    rng = np.random.default_rng(0)
    images = rng.random((3, FRAMES, 3, SIDE, SIDE), dtype=np.float32)
    return tuple(Scene(f"noise-{index}", image, ("a", "b")) for index, image in enumerate(images))


@pytest.fixture(scope="session")
def stats(make_small: Callable[..., VGGT], scenes: tuple[Scene, ...]) -> CalibrationStats:
    return calibrate(make_small(FRAMES, depth=4), scenes)


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
