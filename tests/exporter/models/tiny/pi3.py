"""A tiny Pi3 with seeded weights, for tests and for ``tests/benchmarks/model_targets.py``."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from vggt_edge.exporter.models.config import PATCH
from vggt_edge.exporter.models.pi3_layers import Pi3Config

CONFIG = Pi3Config("tiny", 32, 2, 4, 2, 48, 3, 2, 16, 3)
FRAMES = 2
# The last linears of what is added without LayerScale, and the linears that depth is an exponential of.
_WEAK = ("attn.proj.weight", "mlp.fc2.weight")
_HEADS = ("point_head.", "conf_head.")


def drawn(name: str, like: Tensor) -> Tensor:
    """Norm weights and LayerScale around 1, matrices of unit gain or less, the rest small.

    The slopes of a patch grow across it, so that focal lengths are positive.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    spread = like[0].numel() ** -0.5 if name.endswith("weight") and like.ndim > 1 else 0.3
    spread *= 0.1 if name.startswith(_HEADS) else 0.3 if "_decoder.blocks" in name and name.endswith(_WEAK) else 1.0
    centre = 1.0 if like.ndim == 1 and name.endswith(("weight", "gamma")) else 0.0
    value = centre + spread * torch.randn(like.shape, generator=generator, dtype=torch.float64)
    if name == "point_head.proj.bias":
        across = torch.linspace(-0.3, 0.3, PATCH, dtype=torch.float64).expand(PATCH, PATCH)
        value += torch.stack([across, across.T, torch.zeros_like(across)]).flatten()
    return value
