"""The plot of pareto.py, written by hand: an SVG with four panels, the same bytes for the same figures.

Colours of text and grid follow the reader's light or dark page; those of lines are legible on both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from pareto_tables import (
    DEPTH,
    ERROR,
    EXACT,
    PROBED,
    RANDOM,
    ROUNDINGS,
    UNIFORM,
    WIDE,
    Family,
    Found,
    Point,
)

WIDTH, PANEL_WIDTH, PANEL_HEIGHT = 960, 400, 290
LEFT, TOP, GAP_X, GAP_Y = 84, 34, 40, 84
LEGEND_LINE = 20
_STYLE = """
text{font:12px system-ui,sans-serif;fill:#334155}
.title{font-weight:600;font-size:13px}
.grid{stroke:#94a3b8;stroke-opacity:.35}
.frame{stroke:#64748b;fill:none}
@media (prefers-color-scheme:dark){text{fill:#cbd5e1}}
"""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Look:
    """dash: of the line, empty for a solid one. marker: circle, square or diamond. hollow: the page shows inside."""

    color: str
    dash: str
    marker: str
    hollow: bool = False


LOOKS: Mapping[str, Look] = {
    RANDOM: Look("#8b93a1", "2 4", "circle"),
    DEPTH: Look("#d97706", "7 3", "diamond"),
    UNIFORM: Look("#ef4444", "1 5", "square"),
    WIDE: Look("#16a34a", "", "diamond"),
    PROBED: Look("#3b82f6", "", "circle"),
    EXACT: Look("#d946ef", "4 3", "square", hollow=True),
}


@dataclass(frozen=True)
class Axis:
    """Values ``low`` to ``high`` on pixels ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def draw(found: Sequence[Found]) -> str:
    """The whole SVG: a row per family, plain rounding on the left and tuned on the right, with axes in common."""
    points = [point for one in found for point in one.points]
    sizes = [point.weight_bytes / 1e6 for point in points]
    errors = [value for point in points for rounding in ROUNDINGS for value in point.values(rounding, ERROR)]
    x_range, y_range = padded(min(sizes), max(sizes)), decades(errors)
    parts: list[str] = []
    top = TOP
    for one in found:
        for column, rounding in enumerate(ROUNDINGS):
            left = LEFT + column * (PANEL_WIDTH + GAP_X)
            x = Axis(*x_range, left, left + PANEL_WIDTH)
            y = Axis(*y_range, top + PANEL_HEIGHT, top)
            parts += [*_frame(f"{one.family.title}: {rounding}", x, y, labelled=column == 0)]
            parts += [part for way in LOOKS for part in _line(one.points, way, rounding, x, y)]
        top += PANEL_HEIGHT + GAP_Y
    parts += _legend([one.family for one in found], top - GAP_Y + 62)
    height = top - GAP_Y + 62 + LEGEND_LINE * math.ceil(len(LOOKS) / 2)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
    title = "Output error over bytes of weights, by way of choosing the precision of blocks"
    return f"{head}>\n<title>{title}</title>\n<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"


def padded(low: float, high: float) -> tuple[float, float]:
    """A little wider than the values, and of some width where they are one."""
    margin = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
    return low - margin, high + margin


def decades(values: Sequence[float]) -> tuple[float, float]:
    """log10 of the values' range, a little wider. ``ValueError`` for one that is not above 0."""
    if not all(value > 0 and math.isfinite(value) for value in values):
        raise ValueError("an error is not a number above 0")
    return padded(math.log10(min(values)), math.log10(max(values)))


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers within the range, about as many as wanted."""
    raw = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(raw))
    step = unit * next(size for size in (1, 2, 5, 10) if size * unit >= raw)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _frame(title: str, x: Axis, y: Axis, *, labelled: bool) -> Iterator[str]:
    """Grid, tick labels and titles of one panel. labelled: whether the y axis is written out."""
    for value in ticks(x.low, x.high):
        at = x.at(value)
        yield _segment(at, y.start, at, y.end, "grid")
        yield _text(at, y.start + 17, f"{value:g}", "middle")
    for exponent in range(math.ceil(y.low), math.floor(y.high) + 1):
        at = y.at(exponent)
        yield _segment(x.start, at, x.end, at, "grid")
        if labelled:
            yield _text(x.start - 8, at + 4, f"10{str(exponent).translate(_SUPERSCRIPTS)}", "end")
    yield f'<rect class="frame" x="{x.start:.1f}" y="{y.end:.1f}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}"/>'
    yield _text(x.start, y.end - 9, title, "start", "title")
    yield _text((x.start + x.end) / 2, y.start + 36, "weights, MB", "middle")
    if labelled:
        middle, at = (y.start + y.end) / 2, x.start - 58
        yield (
            f'<text x="{at:.1f}" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 {at:.1f} {middle:.1f})">'
            "output error (dimensionless, 0 for FP32)</text>"
        )


def _line(points: Sequence[Point], way: str, rounding: str, x: Axis, y: Axis) -> Iterator[str]:
    """Means joined by a line; of several seeds, a bar from the least to the largest error."""
    mine = sorted((point for point in points if point.way == way), key=lambda point: point.weight_bytes)
    look = LOOKS[way]
    places = [(x.at(point.weight_bytes / 1e6), y.at(math.log10(point.mean(rounding, ERROR)))) for point in mine]
    if len(places) > 1:
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
        yield f'<polyline points="{path}" fill="none" stroke="{look.color}" stroke-width="2"{_dash(look)}/>'
    for point, (left, top) in zip(mine, places, strict=True):
        values = point.values(rounding, ERROR)
        if len(values) > 1:
            low, high = (y.at(math.log10(value)) for value in (min(values), max(values)))
            yield _segment(left, low, left, high, color=look.color)
        yield _marker(look, left, top)
        if point.label:
            yield _text(left + 8, top - 7, point.label, "start")


def _marker(look: Look, left: float, top: float) -> str:
    fill = 'fill="none" stroke-width="1.6"' if look.hollow else f'fill="{look.color}" stroke-width="0"'
    size = 5.0 if look.hollow else 3.6
    if look.marker == "circle":
        return f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{size}" stroke="{look.color}" {fill}/>'
    turn = f' transform="rotate(45 {left:.1f} {top:.1f})"' if look.marker == "diamond" else ""
    place = f'x="{left - size:.1f}" y="{top - size:.1f}" width="{2 * size:g}" height="{2 * size:g}"'
    return f'<rect {place} stroke="{look.color}" {fill}{turn}/>'


def _legend(families: Sequence[Family], top: float) -> Iterator[str]:
    """Two columns; a way that has another name in each family gets all its names."""
    for index, (way, look) in enumerate(LOOKS.items()):
        left = LEFT + (index % 2) * (PANEL_WIDTH + GAP_X)
        at = top + LEGEND_LINE * (index // 2)
        line = f'x1="{left}" y1="{at:.1f}" x2="{left + 34}" y2="{at:.1f}"'
        yield f'<line {line} stroke="{look.color}" stroke-width="2"{_dash(look)}/>'
        yield _marker(look, left + 17, at)
        titles = list(dict.fromkeys(family.title_of(way) for family in families))
        yield _text(left + 44, at + 4, " / ".join(titles[:1] + [title.split(",")[0] for title in titles[1:]]), "start")


def _dash(look: Look) -> str:
    return f' stroke-dasharray="{look.dash}"' if look.dash else ""


def _segment(x1: float, y1: float, x2: float, y2: float, kind: str = "", color: str = "") -> str:
    style = f'class="{kind}"' if kind else f'stroke="{color}" stroke-width="1.2"'
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'
