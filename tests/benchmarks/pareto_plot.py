"""The plot of pareto.py: an SVG with a row of panels per family, the same bytes for the same figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pareto_tables import DEPTH, ERROR, EXACT, PROBED, RANDOM, ROUNDINGS, UNIFORM, WIDE, Found, Point

# Text stays text, and every colour is legible on light and on dark pages.
_INK = "#64748b"
_SETTINGS = {
    "svg.hashsalt": "vggt-edge",
    "svg.fonttype": "none",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


@dataclass(frozen=True)
class Look:
    """line, marker: as matplotlib has them."""

    color: str
    line: str
    marker: str
    filled: bool = True


LOOKS: Mapping[str, Look] = {
    RANDOM: Look("#8b93a1", ":", "o"),
    DEPTH: Look("#d97706", "--", "D"),
    UNIFORM: Look("#ef4444", ":", "s"),
    WIDE: Look("#16a34a", "-", "D"),
    PROBED: Look("#3b82f6", "-", "o"),
    EXACT: Look("#d946ef", "--", "s", filled=False),
}


def draw(found: Sequence[Found]) -> str:
    """A row per family, plain rounding on the left and tuned on the right, with axes in common.

    ``ValueError`` for an error that is not above 0: the axis is logarithmic.
    """
    errors = [v for one in found for point in one.points for kind in ROUNDINGS for v in point.values(kind, ERROR)]
    if not all(value > 0 and math.isfinite(value) for value in errors):
        raise ValueError("an error is not a number above 0")
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(10, 1 + 3.6 * len(found)), layout="constrained")
        panels = figure.subplots(len(found), len(ROUNDINGS), sharex=True, sharey=True, squeeze=False)
        for one, row in zip(found, panels, strict=True):
            for rounding, panel in zip(ROUNDINGS, row, strict=True):
                _panel(panel, one, rounding)
            row[0].set_ylabel("output error (dimensionless)")
        for panel in panels[-1]:
            panel.set_xlabel("weights, MB")
        figure.legend(*panels[-1][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()


def _panel(panel: Axes, found: Found, rounding: str) -> None:
    panel.set_title(f"{found.family.title}: {rounding}")
    panel.set_yscale("log")
    panel.grid(alpha=0.4)
    for way in LOOKS:
        points = sorted((point for point in found.points if point.way == way), key=lambda point: point.weight_bytes)
        if points:
            # One legend for all families, which differ in what is wide.
            title = f"FP16 or {found.family.title_of(way)}" if way == WIDE else found.family.title_of(way)
            _line(panel, points, rounding, title, LOOKS[way])


def _line(panel: Axes, points: Sequence[Point], rounding: str, title: str, look: Look) -> None:
    """Means joined by a line; of several seeds, a bar from the least to the largest error."""
    sizes = [point.weight_bytes / 1e6 for point in points]
    values = [point.values(rounding, ERROR) for point in points]
    means = [fmean(each) for each in values]
    bars = [(mean - min(each), max(each) - mean) for mean, each in zip(means, values, strict=True)]
    panel.errorbar(
        sizes,
        means,
        yerr=list(zip(*bars, strict=True)),
        color=look.color,
        linestyle=look.line,
        marker=look.marker,
        markersize=4,
        markerfacecolor=look.color if look.filled else "none",
        label=title,
    )
    for point, size, mean in zip(points, sizes, means, strict=True):
        panel.annotate(point.label, (size, mean), xytext=(6, 5), textcoords="offset points")
