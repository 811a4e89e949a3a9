"""What calibration sees of a VGGT of four blocks, and of one layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.tuning.input_scale import Sample
from vggt_edge.calibration.tuning.layer import Evidence
from vggt_edge.calibration.tuning.moments import Moments
from vggt_edge.exporter.models.vggt import VGGT


@pytest.fixture
def camera(make_small: Callable[..., VGGT]) -> VGGT:
    """Without the dense heads, which take most of the time."""
    return make_small(outputs=("camera",))


@pytest.fixture(scope="session")
def camera_stats(make_small: Callable[..., VGGT], scenes: tuple[Scene, ...]) -> CalibrationStats:
    return calibrate(make_small(outputs=("camera",)), scenes)


@pytest.fixture(scope="session")
def small_stats(make_small: Callable[..., VGGT], scenes: tuple[Scene, ...]) -> CalibrationStats:
    return calibrate(make_small(), scenes)


@pytest.fixture(scope="session")
def inputs() -> Tensor:
    """Correlated tokens (512, 64) whose mean is not zero."""
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(64, 64, generator=generator)
    return torch.randn(512, 64, generator=generator) @ mix * 0.2 + torch.randn(64, generator=generator)


@pytest.fixture(scope="session")
def evidence_of() -> Callable[[Tensor], Evidence]:
    """All tokens weigh the same; slopes are noise."""

    def make(x: Tensor) -> Evidence:
        slopes = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
        moments = Moments.of(x, torch.ones(len(x)))
        return Evidence(moments.about_mean, Sample(x, slopes, 1.0), x.abs().amax(dim=0), moments.mean)

    return make


@pytest.fixture
def make_layer() -> Callable[..., nn.Linear]:
    """``make_layer(inputs=64)``: 96 outputs; 6144 weights are enough for a palette."""

    def make(inputs: int = 64) -> nn.Linear:
        torch.manual_seed(4)
        return nn.Linear(inputs, 96).requires_grad_(False)

    return make
