"""What a method is judged by, and what becomes of several seeds: a mean and a spread per column."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FP32 = "fp32"


@dataclass(frozen=True)
class Column:
    """One figure. higher: whether more is better; None for what is told but not competed in.

    counted: whether the goal "ahead in every column" counts it.
    """

    key: str
    title: str
    form: str
    higher: bool | None
    counted: bool = True

    def gain(self, ours: float, other: float) -> float:
        """By how much ``ours`` is better; below 0 where it is worse. Having no value is worse than any."""
        if math.isnan(ours) or math.isnan(other):
            return -math.inf if math.isnan(ours) else math.inf
        return ours - other if self.higher else other - ours

    def text(self, value: float) -> str:
        return "-" if math.isnan(value) else self.form.format(value)


COLUMNS = (
    Column("auc30", "AUC@30", "{:.2f}", higher=True),
    Column("auc15", "AUC@15", "{:.2f}", higher=True),
    Column("auc5", "AUC@5", "{:.2f}", higher=True),
    Column("abs_rel", "AbsRel", "{:.4f}", higher=False),
    Column("delta125", "delta<1.25", "{:.4f}", higher=True),
    Column("accuracy", "point accuracy", "{:.4f}", higher=False),
    # Damage scatters points, and scattered points come nearer to more of the surface: it can improve the figure.
    Column("completeness", "completeness", "{:.4f}", higher=False, counted=False),
    Column("normal_consistency", "normals", "{:.4f}", higher=True),
    Column("cross_head", "cross-head", "{:.4f}", higher=False),
    Column("output_error", "output error", "{:.2e}", higher=False),
    Column("pose_sqnr_db", "pose, dB", "{:.2f}", higher=True),
    Column("points_sqnr_db", "points, dB", "{:.2f}", higher=True),
    Column("seconds", "seconds", "{:.1f}", higher=None, counted=False),
)


@dataclass(frozen=True)
class Row:
    """One method at one scheme. mean, spread: by column key; spread is the sample standard deviation over the seeds.

    Without a second seed there is no spread: the mapping is empty.
    """

    scheme: str
    method: str
    seeds: int
    mean: Mapping[str, float]
    spread: Mapping[str, float] = field(default_factory=dict)


def summarize(scheme: str, method: str, figures: Sequence[Mapping[str, float]]) -> Row:
    """figures: of each seed, by column key. A seed without a value leaves the whole column without one."""
    columns = {column.key: [one.get(column.key, math.nan) for one in figures] for column in COLUMNS}
    spread = {key: _spread(values) for key, values in columns.items()} if len(figures) > 1 else {}
    return Row(scheme, method, len(figures), {key: math.fsum(v) / len(v) for key, v in columns.items()}, spread)


def _spread(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else statistics.stdev(values)


def cell(column: Column, row: Row) -> str:
    """``81.94 +- 0.12``, with the plus-minus sign; the mean alone where there is no spread."""
    text = column.text(row.mean[column.key])
    return f"{text} ± {column.text(row.spread[column.key])}" if row.spread else text
