"""What calibration sees of a VGGT of four blocks: methods that search or go column by column are run whole on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.exporter.models.vggt import VGGT


@pytest.fixture(scope="session")
def small_stats(make_small: Callable[..., VGGT], scenes: tuple[Scene, ...]) -> CalibrationStats:
    return calibrate(make_small(), scenes)
