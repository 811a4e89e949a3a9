"""The values that a scheme can store for a weight, and the nearest of them, one input column at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.form import Form
from vggt_edge.calibration.quantization.palette import palettize
from vggt_edge.calibration.quantization.ranges import e4m3_unit

BLOCK_PEAKS = (8.0, 7.0, 6.0, 5.0, 4.5, 4.0, 3.5, 3.0)
"""Values that the largest magnitude of an FP4 block may take; beyond 6 it is clipped."""


@dataclass(frozen=True)
class Uniform:
    """Multiples of a scale: (out,) per channel or (out, groups)."""

    scale: Tensor
    columns: int
    form: Form

    def nearest(self, column: Tensor, index: int) -> Tensor:
        scale = self._of_column(index)
        return self.form.range.nearest(column / scale) * scale

    def rounded(self, weight: Tensor) -> Tensor:
        """(out, in), all columns to nearest."""
        return self.form.fake_quantize(weight, self.scale)

    def _of_column(self, index: int) -> Tensor:
        if self.scale.ndim == 1:
            return self.scale
        return self.scale[:, index * self.scale.shape[1] // self.columns]


@dataclass(frozen=True)
class FloatBlocks(Uniform):
    """FP4 in blocks of 16 input channels. ``fit`` gives a block its scales (out,) right before it is rounded.

    unit: the power of two in units of which the scales are E4M3 numbers.
    """

    unit: float

    def fit(self, values: Tensor, costs: Tensor, block: int) -> None:
        """Give each row the scale with the smallest sum of costs * squared error.

        values: (columns, out), of the block. costs: (columns,).
        """
        scales = q.e4m3_nearest(torch.stack([values.abs().amax(dim=0) / peak for peak in BLOCK_PEAKS]), self.unit)
        lost = self.form.range.nearest(values / scales[:, None]) * scales[:, None] - values
        best = torch.einsum("sio,i->so", lost.square(), costs).argmin(dim=0, keepdim=True)
        self.scale[:, block] = scales.gather(0, best)[0]


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


def uniform_grids(layer: nn.Linear, form: Form, shrinks: tuple[float, ...]) -> Iterator[Uniform]:
    """The grid of the largest magnitudes, and smaller ones, which clip them and are finer for the others."""
    widest = form.scale_of(layer.weight)
    for shrink in shrinks:
        scale = widest if shrink == 1 else form.stored_scale((widest * shrink).clamp(min=q.FP16_MIN))
        yield Uniform(scale, layer.in_features, form)


def block_grid(layer: nn.Linear, form: Form) -> FloatBlocks:
    """A grid whose scales are those of plain rounding until they are fitted."""
    scale = form.scale_of(layer.weight)
    return FloatBlocks(scale, layer.in_features, form, e4m3_unit(float(scale.max())))


def palette_grid(layer: nn.Linear, form: Form, importance: Tensor) -> Palette:
    """importance: (in,), what a squared error in each input channel weighs."""
    return Palette(palettize(layer.weight, form.weight.bits, form.axis, importance)[1])
