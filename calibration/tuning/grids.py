"""The values that a scheme can store for a weight, and the nearest of them, one input column at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.linear import default_scale, group_rounding
from vggt_edge.calibration.quantization.palette import palettize
from vggt_edge.calibration.scheme import Activation, Scheme


@dataclass(frozen=True)
class Uniform:
    """Multiples of a scale: (out,) per channel or (out, groups)."""

    scale: Tensor
    columns: int
    integers: q.IntRange

    def nearest(self, column: Tensor, index: int) -> Tensor:
        scale = self._of_column(index)
        return (column / scale).round().clamp(self.integers.low, self.integers.high) * scale

    def rounded(self, weight: Tensor) -> Tensor:
        """(out, in), all columns to nearest."""
        scale = q.spread(self.scale, weight)
        return (weight / scale).round().clamp(self.integers.low, self.integers.high) * scale

    def _of_column(self, index: int) -> Tensor:
        if self.scale.ndim == 1:
            return self.scale
        return self.scale[:, index * self.scale.shape[1] // self.columns]


@dataclass(frozen=True)
class Palette:
    """Values of tables (tables, values), ascending, each for an equal share of the rows."""

    table: Tensor

    def nearest(self, column: Tensor, index: int) -> Tensor:
        return self.rounded(column)

    def rounded(self, weight: Tensor) -> Tensor:
        """(out, in) or (out,), to nearest."""
        rows = weight.reshape(len(self.table), -1).contiguous()
        found = torch.searchsorted((self.table[:, 1:] + self.table[:, :-1]) / 2, rows)
        return self.table.gather(1, found).reshape(weight.shape)


def uniform_grids(
    layer: nn.Linear, scheme: Scheme, group_size: int | None, shrinks: tuple[float, ...]
) -> Iterator[Uniform]:
    """The grid of the largest magnitudes, and smaller ones, which clip them and are finer for the others."""
    weight = layer.weight.detach().float()
    dynamic = scheme.activation is Activation.DYNAMIC_TOKEN
    group = None if scheme.group_size is None or group_size is None else q.usable_group(layer.in_features, group_size)
    widest = default_scale(weight, scheme.weight_bits, group, dynamic=dynamic)
    rounded = group_rounding(dynamic) if group else q.fp16_ceil
    for shrink in shrinks:
        scale = widest if shrink == 1 else rounded((widest * shrink).clamp(min=q.FP16_MIN))
        yield Uniform(scale, layer.in_features, q.WEIGHT_RANGES[scheme.weight_bits])


def palette_grid(layer: nn.Linear, scheme: Scheme, importance: Tensor) -> Palette:
    """importance: (in,), what a squared error in each input channel weighs."""
    return Palette(palettize(layer.weight, scheme.weight_bits, 0, importance)[1])
