"""Palettes: a weight as indices into small tables of FP16 values, found by k-means in one dimension.

Core ML calls this palettization; one table serves ``TABLE_ROWS`` output channels (its "per grouped channel" form, which
the Neural Engine runs). Values lie on a line, so a sort and running sums make every step of Lloyd's algorithm (Lloyd,
IEEE Trans. Inf. Theory 1982) a few binary searches: minutes for a billion weights, no copy per cluster.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vggt_edge.calibration.quantization.form import table_count

STEPS = 12  # 30 more gain 0.01 dB on weights of vggt-mini


def palettize(weight: Tensor, bits: int, axis: int = 0, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(index, table) of ``weight``, whose output channels run along ``axis``.

    index: uint8, the weight's shape. table: float32 (tables, 2**bits), ascending, every value an FP16 number.
    importance: of each input channel of a linear, (in,), what a squared error there weighs; all the same by default.
    ``ValueError`` for a weight that FP16 cannot hold.
    """
    moved = weight.detach().to(torch.float32).movedim(axis, 0)
    rows = moved.reshape(table_count(moved.shape[0]), -1)
    if not bool(torch.isfinite(rows.to(torch.float16)).all()):
        raise ValueError(f"absolute maximum {float(rows.abs().max()):g} overflows FP16")
    masses = torch.ones_like(rows) if importance is None else importance.repeat(rows.numel() // len(importance))
    table = _centres(rows, masses.view_as(rows), 1 << bits).to(torch.float16).to(torch.float32)
    return nearest_index(weight, table, axis), table


def nearest_index(weight: Tensor, table: Tensor, axis: int = 0) -> Tensor:
    """Indices, uint8 and of the shape of ``weight``, of the nearest values in ``table`` (tables, values), ascending."""
    moved = weight.detach().to(torch.float32).movedim(axis, 0)
    rows = moved.reshape(len(table), -1)
    index = torch.searchsorted((table[:, 1:] + table[:, :-1]) / 2, rows.contiguous())
    return index.to(torch.uint8).reshape(moved.shape).movedim(0, axis).contiguous()


def _centres(rows: Tensor, masses: Tensor, count: int) -> Tensor:
    """The centres of ``count`` clusters of each row, (rows, n) to (rows, count), ascending."""
    ordered, order = rows.sort(dim=1)
    masses = masses.gather(1, order).to(torch.float64)
    mass = functional.pad(masses.cumsum(dim=1), (1, 0))
    moment = functional.pad((masses * ordered).cumsum(dim=1), (1, 0))
    # The best quantizer puts its levels as the cube root of the density lies (Panter and Dite, Proc. IRE 1951): for a
    # normal one these are its quantiles, a root of 3 farther out. From the plain quantiles 64 levels end up 6 dB worse.
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count * mass[:, -1:]
    quantiles = ordered.gather(1, torch.searchsorted(mass[:, 1:].contiguous(), shares).clamp(max=rows.shape[1] - 1))
    mean = (moment[:, -1:] / mass[:, -1:]).to(rows.dtype)
    centres = (mean + 3**0.5 * (quantiles - mean)).clamp(ordered[:, :1], ordered[:, -1:])
    for _ in range(STEPS):
        moved = _step(ordered, mass, moment, centres)
        if bool((moved == centres).all()):
            break
        centres = moved
    return centres


def _step(ordered: Tensor, mass: Tensor, moment: Tensor, centres: Tensor) -> Tensor:
    """Every centre to the mean of the values nearest to it; one without any stays."""
    inner = torch.searchsorted(ordered, (centres[:, 1:] + centres[:, :-1]) / 2)
    ends = inner.new_full((len(ordered), 1), ordered.shape[1])
    borders = torch.cat([torch.zeros_like(ends), inner, ends], dim=1)
    weights = mass.gather(1, borders).diff(dim=1)
    means = moment.gather(1, borders).diff(dim=1) / weights.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(weights > 0, means.to(ordered.dtype), centres)
