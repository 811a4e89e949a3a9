"""A tiny monocular Depth Anything 3 with seeded weights, for tests and for ``tests/benchmarks/model_targets.py``."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from vggt_edge.exporter.models.depth_anything_3_mono import DepthAnything3MonoConfig

CONFIG = DepthAnything3MonoConfig("tiny", 32, 4, 2, (0, 1, 2, 3), 3, 16, (8, 16, 24, 24), 42)
FRAMES = 1


def drawn(name: str, like: Tensor) -> Tensor:
    """Norm weights and LayerScale around 1, matrices of unit gain, the rest small."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    spread = like[0].numel() ** -0.5 if name.endswith("weight") and like.ndim > 1 else 0.3
    centre = 1.0 if like.ndim == 1 and name.endswith(("weight", "gamma")) else 0.0
    return centre + spread * torch.randn(like.shape, generator=generator, dtype=torch.float64)
