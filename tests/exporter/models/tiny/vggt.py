"""A tiny VGGT with seeded weights, for tests and for ``tests/benchmarks/model_targets.py``."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from vggt_edge.exporter.models.config import VGGTConfig

CONFIG = VGGTConfig(
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
FRAMES = 2


def drawn(name: str, like: Tensor) -> Tensor:
    """Norm weights and LayerScale around 1, matrices of unit gain, the rest small."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    spread = like[0].numel() ** -0.5 if name.endswith("weight") and like.ndim > 1 else 0.3
    centre = 1.0 if like.ndim == 1 and name.endswith(("weight", "gamma")) else 0.0
    return centre + spread * torch.randn(like.shape, generator=generator, dtype=torch.float64)
