"""A tiny MapAnything with seeded weights, for tests and for ``tests/benchmarks/model_targets.py``."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from vggt_edge.exporter.models.mapanything import ARCHITECTURE
from vggt_edge.exporter.models.mapanything_layers import MapAnythingConfig

CONFIG = MapAnythingConfig(
    "tiny",
    embed_dim=32,
    depth=4,
    heads=2,
    encoder_dim=32,
    encoder_depth=3,
    encoder_heads=2,
    taps=(0, 2),
    position_grid=3,
    dpt_features=16,
    dpt_channels=(8, 16, 24, 24),
    pose_width=16,
    scale_width=12,
    native_resolution=42,
)
FRAMES = 2
_LAST = "dense_head.1.conv2.2"


def drawn(name: str, like: Tensor) -> Tensor:
    """Norm weights and LayerScale around 1, matrices of unit gain, the rest small.

    Positions change evenly along rows and columns, and rays point forward: a field of view can be seen in them. Most
    pixels are no sky.
    """
    name = ARCHITECTURE.shared.get(name, name)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    spread = like[0].numel() ** -0.5 if name.endswith("weight") and like.ndim > 1 else 0.3
    centre = 1.0 if like.ndim == 1 and name.endswith(("weight", "gamma")) else 0.0
    values = centre + spread * torch.randn(like.shape, generator=generator, dtype=torch.float64)
    if name == f"{_LAST}.bias":
        values[:] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 2.0])
    if name == f"{_LAST}.weight":
        values[:3] *= torch.tensor([3.0, -1.0, 0.2], dtype=torch.float64)[:, None, None, None]
    if name.endswith("pos_embed"):
        side = torch.arange(3, dtype=torch.float64) - 1
        slopes = 4 * torch.randn(2, like.shape[-1], generator=generator, dtype=torch.float64)
        values[:, 1:] += (side[:, None, None] * slopes[0] + side[:, None] * slopes[1]).flatten(0, 1)
    return values
