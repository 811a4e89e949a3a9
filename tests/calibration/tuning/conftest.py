"""A VGGT of four blocks, which is tuned in a fraction of a second, and what calibration would see of one layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.collect import calibrate
from vggt_edge.calibration.scenes import Scene
from vggt_edge.calibration.stats import CalibrationStats
from vggt_edge.calibration.tuning.input_scale import Sample
from vggt_edge.calibration.tuning.layer import Evidence
from vggt_edge.exporter.models.config import OUTPUTS, InputShape, VGGTConfig
from vggt_edge.exporter.models.vggt import VGGT

SIDE = 28
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


@pytest.fixture(scope="session")
def make_small() -> Callable[..., VGGT]:
    """``make_small(frames=2, outputs=OUTPUTS)``: as the tiny model, but of one frame block and one global block."""

    @cache
    def build(frames: int, outputs: tuple[str, ...]) -> VGGT:
        torch.manual_seed(0)
        small = VGGT(SMALL, InputShape(frames, SIDE, SIDE), outputs)
        for name, parameter in small.named_parameters():
            if name.endswith("gamma") or not bool(parameter.detach().any()):
                nn.init.normal_(parameter, std=0.3)
        return small.fix_constants()

    return lambda frames=2, outputs=OUTPUTS: copy.deepcopy(build(frames, outputs))


@pytest.fixture
def small(make_small: Callable[..., VGGT]) -> VGGT:
    return make_small()


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
        return Evidence(x.T @ x, Sample(x, slopes, 1.0), x.abs().amax(dim=0))

    return make


@pytest.fixture
def make_layer() -> Callable[..., nn.Linear]:
    """``make_layer(inputs=64)``: 96 outputs; 6144 weights are enough for a palette."""

    def make(inputs: int = 64) -> nn.Linear:
        torch.manual_seed(4)
        return nn.Linear(inputs, 96).requires_grad_(False)

    return make
