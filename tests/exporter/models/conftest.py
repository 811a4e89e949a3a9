"""A VGGT small enough to run many times in a test, with every parameter random so that none can be left out unseen."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import pytest
import torch

from vggt_edge.exporter.models.config import OUTPUTS, InputShape, VGGTConfig
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


@pytest.fixture(scope="session")
def tiny_config() -> VGGTConfig:
    return TINY


@pytest.fixture(scope="session")
def build_tiny() -> Callable[..., VGGT]:
    """``build_tiny(frames, height, width)``: float64, same weights for every shape, not yet fixed."""

    def build(frames: int, height: int, width: int, outputs: Sequence[str] = OUTPUTS, kind: type[VGGT] = VGGT) -> VGGT:
        model = kind(TINY, InputShape(frames, height, width), outputs).double().eval().requires_grad_(False)
        for name, parameter in sorted(model.named_parameters()):
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            # Norm weights and LayerScale around 1, matrices of unit gain, the rest small.
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            spread = fan_in**-0.5 if name.endswith("weight") and parameter.ndim > 1 else 0.3
            centre = 1.0 if parameter.ndim == 1 and name.endswith(("weight", "gamma")) else 0.0
            parameter.copy_(centre + spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return model

    return build


@pytest.fixture(scope="session")
def random_images() -> Callable[..., torch.Tensor]:
    def draw(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw
