"""Streaming observers of activations: one pass, bounded memory, independent of the order of the samples.

Patch tokens and special tokens (camera, registers) are watched apart, as in QVGGT (arXiv 2605.31124): the few special
tokens are large in every layer and would stretch the range of all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PATCH, SPECIAL = "patch", "special"
CHUNK = 1 << 21

_MANTISSA_BITS = 5
_SHIFT = 23 - _MANTISSA_BITS
_LOWEST, _HIGHEST = 127 - 32, 127 + 32  # IEEE exponents: bins cover 2^-32 to 2^32
_FIRST = _LOWEST << _MANTISSA_BITS
BINS = (_HIGHEST - _LOWEST) << _MANTISSA_BITS


class NonFiniteError(ValueError):
    """An observed tensor holds NaN or Inf."""


def split_tokens(x: Tensor, tokens_per_frame: int, special_tokens: int) -> Iterator[tuple[str, Tensor]]:
    """Yield (group, values), values (..., channels), of one layer input.

    x is (N, C) tokens, or (N, C, H, W) maps, which have no special tokens. Rows behind the last whole frame are
    special: a scale token behind all frames, or the camera tokens of a camera head.
    """
    if x.ndim == 4:
        yield PATCH, x.permute(0, 2, 3, 1)
        return
    if x.ndim != 2:
        yield SPECIAL, x
        return
    whole = len(x) - len(x) % tokens_per_frame
    framed = x[:whole].reshape(-1, tokens_per_frame, x.shape[-1])
    if whole and special_tokens:
        yield SPECIAL, framed[:, :special_tokens]
    if whole:
        yield PATCH, framed[:, special_tokens:]
    if whole < len(x):
        yield SPECIAL, x[whole:]


class MagnitudeHistogram:
    """Counts of |x| in fixed bins, 32 per octave from 2^-32 to 2^32 (16 kB).

    The bin of a value is read off its bit pattern. ``percentile`` returns the upper edge of the bin: at least the true
    percentile, and at most 1/32 (3.2 %) above it.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, dtype=np.int64)

    def add(self, values: Tensor) -> None:
        flat = values.reshape(-1)
        for start in range(0, flat.numel(), CHUNK):
            bits = flat[start : start + CHUNK].abs().to(torch.float32).contiguous().view(torch.int32)
            index = ((bits >> _SHIFT) - _FIRST).clamp(0, BINS - 1)
            self.counts += torch.bincount(index, minlength=BINS).numpy()

    def percentile(self, percent: float) -> float:
        """Upper bound of the magnitude that ``percent`` of the values stay below; 0 when nothing was seen."""
        total = int(self.counts.sum())
        if total == 0:
            return 0.0
        rank = max(1, math.ceil(total * percent / 100))
        index = int(np.searchsorted(np.cumsum(self.counts), rank))
        edge = np.array([(index + 1 + _FIRST) << _SHIFT], dtype=np.int32)
        return float(edge.view(np.float32)[0])


class Observer:
    """Running statistics of one layer input and token group."""

    def __init__(self) -> None:
        self.minimum = math.inf
        self.maximum = -math.inf
        self.count = 0
        self.histogram = MagnitudeHistogram()
        self.channel_absmax: npt.NDArray[np.float32] | None = None

    def update(self, values: Tensor) -> None:
        """values: (..., channels). ``NonFiniteError`` on NaN or Inf."""
        low, high = (float(bound) for bound in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NonFiniteError(f"values from {low} to {high}")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.count += values.numel()
        self.histogram.add(values)
        channels = values.abs().amax(dim=tuple(range(values.ndim - 1))).to(torch.float32).numpy()
        previous = self.channel_absmax
        self.channel_absmax = channels.copy() if previous is None else np.maximum(previous, channels)

    @property
    def absmax(self) -> float:
        return max(abs(self.minimum), abs(self.maximum))

    def percentile(self, percent: float) -> float:
        """As the histogram gives it, but never above the largest magnitude seen."""
        return min(self.histogram.percentile(percent), self.absmax)
