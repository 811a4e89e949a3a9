"""A VGGT small enough to run many times in a test, with every parameter random so that none can be left out unseen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from vggt_edge.exporter.models.config import OUTPUTS, InputShape, VGGTConfig
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.runtimes.common.kit import script_module

tiny = script_module(Path(__file__).parent / "tiny" / "vggt.py", "tiny.vggt")
TINY = tiny.CONFIG


@pytest.fixture(scope="session")
def tiny_config() -> VGGTConfig:
    return TINY


@pytest.fixture(scope="session")
def build_tiny() -> Callable[..., VGGT]:
    """``build_tiny(frames, height, width)``: float64, same weights for every shape, not yet fixed."""

    def build(frames: int, height: int, width: int, outputs: Sequence[str] = OUTPUTS, kind: type[VGGT] = VGGT) -> VGGT:
        model = kind(TINY, InputShape(frames, height, width), outputs).double().eval().requires_grad_(False)
        for name, parameter in sorted(model.named_parameters()):
            parameter.copy_(tiny.drawn(name, parameter))
        return model

    return build


@pytest.fixture(scope="session")
def random_images() -> Callable[..., torch.Tensor]:
    def draw(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw
