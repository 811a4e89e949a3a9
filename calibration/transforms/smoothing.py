"""Exact changes of what a LayerNorm hands to its readers: a scale per channel, and a shift per channel.

Scaling is SmoothQuant's (arXiv 2211.10438, section 4), shifting that of Outlier Suppression+ (arXiv 2304.09145, section
3.1); with values found from statistics they make activations easier to quantize. In place, each rounds once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vggt_edge.calibration.transforms.weights import Layer, columns, put, scale_rows, shift_bias, wide


def divide(norm: nn.LayerNorm, readers: Sequence[Layer], by: Tensor) -> None:
    """Divide each channel of what ``norm`` puts out, ``by`` (in,) and positive; the readers' columns make up for it.

    ``ValueError`` for a factor that is not positive and finite.
    """
    factor = checked_factors(by, len(norm.weight))
    put(norm, "weight", wide(norm.weight) / factor)
    put(norm, "bias", wide(norm.bias) / factor)
    for reader in readers:
        put(reader, "weight", columns(reader) * factor)


def divide_rectified(writer: nn.Conv2d, reader: nn.Conv2d, by: Tensor) -> None:
    """Divide each channel between two convolutions with a ReLU between them, ``by`` (channels,) and positive.

    Cross-layer equalization (arXiv 1906.04721, section 4.1). ``ValueError`` for a factor that is not positive.
    """
    factor = checked_factors(by, len(writer.weight))
    scale_rows(writer, 1 / factor)
    put(reader, "weight", wide(reader.weight) * factor[:, None, None])


def shift(norm: nn.LayerNorm, readers: Sequence[Layer], by: Tensor) -> None:
    """Subtract ``by`` (in,) from what ``norm`` puts out; the readers' biases make up for it."""
    offset = wide(by)
    put(norm, "bias", wide(norm.bias) - offset)
    for reader in readers:
        shift_bias(reader, columns(reader) @ offset)


def checked_factors(factors: Tensor, channels: int) -> Tensor:
    """In float64; ``ValueError`` unless they are one per channel, positive and finite."""
    factor = wide(factors)
    if factor.shape != (channels,):
        raise ValueError(f"factors of shape {tuple(factor.shape)} for {channels} channels")
    if not bool((torch.isfinite(factor) & (factor > 0)).all()):
        raise ValueError(f"a factor of {float(factor.min()):g} to {float(factor.max()):g}: expected positive, finite")
    return factor
