"""A tiny VGGT-Omega with seeded weights, for tests and for ``tests/benchmarks/model_targets.py``."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from vggt_edge.exporter.models.vggt_omega_layers import VGGTOmegaConfig

CONFIG = VGGTOmegaConfig("tiny", 32, 2, 4, 2, (1,), (0, 1, 2, 3), 2, 4, 16, (8, 16, 24, 24), 48)
FRAMES = 2


def drawn(name: str, like: Tensor) -> Tensor:
    """Norm weights and LayerScale around 1, matrices of unit gain, fields of view of a radian, the rest small; periods
    as they are.
    """
    if name.endswith("periods"):
        return like
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    spread = like[0].numel() ** -0.5 if name.endswith("weight") and like.ndim > 1 else 0.3
    spread *= 0.1 if name.endswith("camera_branch.2.weight") else 1.0
    centre = 1.0 if like.ndim == 1 and name.endswith(("weight", "gamma", "camera_branch.2.bias")) else 0.0
    return centre + spread * torch.randn(like.shape, generator=generator, dtype=torch.float64)
