"""Fold LayerNorm's affine into what reads it and LayerScale into what it scales: fewer nodes, the same function.

What is left of a norm commutes with the rotations of rotation.py (as in SliceGPT, arXiv 2401.15024, section 3.1); its
affine stays, as 1 and 0, and can carry smoothing later.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vggt_edge.calibration.transforms.weights import (
    Layer,
    columns,
    layer_at,
    norm_at,
    put,
    scale_rows,
    shift_bias,
    wide,
)
from vggt_edge.calibration.transforms.wiring import Unit


def fold(module: nn.Module, unit: Unit) -> None:
    """All of one unit, in place. A norm whose reader is still an ``nn.Identity`` stays as it is."""
    for read in unit.reads:
        if read.norm is not None and not any(_is_absent(module, path) for path in read.readers):
            fold_norm(norm_at(module, read.norm), [layer_at(module, path) for path in read.readers])
    for write in unit.writes:
        if write.scale is not None and not _is_absent(module, write.scale):
            scale_rows(layer_at(module, write.writer), wide(module.get_parameter(f"{write.scale}.gamma")))
            module.set_submodule(write.scale, nn.Identity())


def fold_norm(norm: nn.LayerNorm, readers: Sequence[Layer]) -> None:
    """Move weight and bias of ``norm`` into all that reads it; they become 1 and 0."""
    gain, offset = wide(norm.weight), wide(norm.bias)
    for reader in readers:
        weight = columns(reader)
        shift_bias(reader, weight @ offset)
        put(reader, "weight", weight * gain)
    put(norm, "weight", torch.ones_like(gain))
    put(norm, "bias", torch.zeros_like(offset))


def _is_absent(module: nn.Module, path: str) -> bool:
    return isinstance(module.get_submodule(path), nn.Identity)
