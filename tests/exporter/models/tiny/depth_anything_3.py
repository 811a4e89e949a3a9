"""A tiny Depth Anything 3 with seeded weights, for tests and for ``tests/benchmarks/model_targets.py``."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from vggt_edge.exporter.models.depth_anything_3_layers import DepthAnything3Config

CONFIG = DepthAnything3Config("tiny", 32, 6, 2, 2, (2, 3, 4, 5), 3, 16, (8, 16, 24, 24), 42)
FRAMES = 2


def drawn(name: str, like: Tensor) -> Tensor:
    """Norm weights and LayerScale around 1, matrices of unit gain, fields of view of a radian, the rest small."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    spread = like[0].numel() ** -0.5 if name.endswith("weight") and like.ndim > 1 else 0.3
    spread *= 0.1 if name.endswith("fc_fov.0.weight") else 1.0
    centre = 1.0 if like.ndim == 1 and name.endswith(("weight", "gamma", "fc_fov.0.bias")) else 0.0
    return centre + spread * torch.randn(like.shape, generator=generator, dtype=torch.float64)
