"""What pareto.py found, as markdown: tables of plans, and how far choosing by sensitivity is ahead of not choosing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import spearmanr
from section import table

from vggt_edge.calibration.quantization.form import GROUP_SIZES, Form, LayerShape
from vggt_edge.calibration.scheme import scheme

UNIFORM, PROBED, EXACT, WIDE, DEPTH, RANDOM = "uniform", "probed", "exact", "wide", "depth", "random"
ROUNDINGS = ("plain", "tuned")
COLUMNS = {"auc30": ("AUC@30", "{:.1f}"), "abs_rel": ("AbsRel", "{:.4f}"), "cross_head": ("cross-head", "{:.4f}")}
ERROR = "output_error"

Figures = Mapping[str, float]
Errors = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Family:
    """The schemes that plans are made of. wide: what a block may get where more than two forms are allowed.

    between: compared as uniform plans only. group_size: of 4-bit weights.
    """

    name: str
    title: str
    wide: str
    eight: str
    four: str
    group_size: int
    between: tuple[str, ...] = ()

    def title_of(self, way: str) -> str:
        wide = {"fp16": "FP16", "fp32": "FP32"}[self.wide]
        return {
            UNIFORM: "uniform",
            PROBED: "8 or 4 bits, probed sensitivities",
            EXACT: "8 or 4 bits, exact sensitivities",
            WIDE: f"{wide}, 8 or 4 bits, probed sensitivities",
            DEPTH: "8 bits for the first blocks",
            RANDOM: "8 bits for random blocks",
        }[way]


FAMILIES = (
    Family("weights", "Weights only", "fp16", "w8a16", "w4a16", 64, between=("p6a16",)),
    Family("dynamic", "Activations in 8 bits, dynamic per token", "fp32", "w8a8d", "w4a8d", 32),
)


@dataclass(frozen=True)
class Run:
    """One plan: the bytes it really takes, and its figures by rounding, then by metric."""

    weight_bytes: int
    figures: Mapping[str, Figures]


@dataclass(frozen=True)
class Point:
    """What one way of choosing makes of one budget. label: the scheme of a uniform plan, else empty.

    runs: of each seed, for ways that have one; their mean is what counts.
    """

    way: str
    budget: int
    runs: tuple[Run, ...]
    label: str = ""

    @property
    def weight_bytes(self) -> float:
        return statistics.fmean(run.weight_bytes for run in self.runs)

    def values(self, rounding: str, metric: str) -> list[float]:
        return [run.figures[rounding][metric] for run in self.runs]

    def mean(self, rounding: str, metric: str) -> float:
        return statistics.fmean(self.values(rounding, metric))


@dataclass(frozen=True)
class Sensitivities:
    """By block and scheme, as probed and as ablated one by one, and the seconds that each way took."""

    probed: Errors
    exact: Errors
    probed_s: float
    exact_s: float


@dataclass(frozen=True)
class Found:
    """All of one family. points: by way of choosing, then by budget."""

    family: Family
    fp32_bytes: int
    fp32: Figures
    points: tuple[Point, ...]
    sensitivities: Sensitivities


def front(pairs: Iterable[tuple[float, float]]) -> set[tuple[float, float]]:
    """Of (bytes, error) pairs those that no other beats in one without losing in the other."""
    kept: set[tuple[float, float]] = set()
    least = math.inf
    for size, error in sorted(pairs):
        if error < least:
            kept.add((size, error))
            least = error
    return kept


def spearman(sensitivities: Sensitivities, scheme: str | None = None) -> float:
    """Over the blocks of one scheme, or over all pairs; not a number for a scheme that was not measured."""
    pairs = [pair for pair in sensitivities.exact if scheme in (None, pair[1])]
    if len(pairs) < 2:
        return math.nan
    ours, exact = ([errors[pair] for pair in pairs] for errors in (sensitivities.probed, sensitivities.exact))
    return float(spearmanr(ours, exact).statistic)


def render(found: Sequence[Found]) -> str:
    parts = [ranks(found)]
    for one in found:
        parts.append(f"## {one.family.title}: {one.family.eight} and {one.family.four}\n{plans(one)}")
        parts.append("\n".join(f"- {line}" for line in findings(one)))
    return "\n\n".join(parts)


def ranks(found: Sequence[Found]) -> str:
    """Spearman of probed against exact sensitivities, with the seconds of both."""
    rows = []
    for one in found:
        family, both = one.family, one.sensitivities
        values = [spearman(both, scheme) for scheme in (None, "fp16", family.eight, family.four)]
        cells = ["-" if math.isnan(value) else f"{value:.3f}" for value in values]
        rows.append((family.title, *cells, f"{both.probed_s:.1f}", f"{both.exact_s:.1f}"))
    heads = ("Spearman, probed against exact", "all", "FP16", "8 bits", "4 bits", "probed, s", "exact, s")
    return table(heads, rows)


def plans(found: Found) -> str:
    """A row per plan, the smallest first; errors on the Pareto front of their column in bold."""
    fronts = {rounding: front(_pairs(found.points, rounding)) for rounding in ROUNDINGS}
    rows: list[Sequence[object]] = [("FP32", "", *_sizes(found.fp32_bytes, found), *_fp32_cells(found), "0", "0", "-")]
    for point in sorted(found.points, key=lambda point: (point.weight_bytes, point.way)):
        cells = [_figure(point, metric, rounding) for metric in COLUMNS for rounding in ROUNDINGS]
        errors = [_error(point, rounding, fronts[rounding]) for rounding in ROUNDINGS]
        title = found.family.title_of(point.way)
        rows.append((title, point.label, *_sizes(point.weight_bytes, found), *cells, *errors, _seconds(point, found)))
    titles = [title for title, _ in COLUMNS.values()] + ["output error"]
    heads = [f"{title}, {rounding}" for title in titles for rounding in ROUNDINGS]
    return table(("chosen", "scheme", "MB", "FP32 / bytes", *heads, "sensitivity, s"), rows)


def _pairs(points: Sequence[Point], rounding: str) -> list[tuple[float, float]]:
    return [(point.weight_bytes, point.mean(rounding, ERROR)) for point in points]


def _sizes(weight_bytes: float, found: Found) -> tuple[str, str]:
    return f"{weight_bytes / 1e6:.2f}", f"{found.fp32_bytes / weight_bytes:.2f}"


def _fp32_cells(found: Found) -> list[str]:
    return [form.format(found.fp32[metric]) for metric, (_, form) in COLUMNS.items() for _ in ROUNDINGS]


def _figure(point: Point, metric: str, rounding: str) -> str:
    return _with_spread(COLUMNS[metric][1], point.values(rounding, metric))


def _error(point: Point, rounding: str, best: set[tuple[float, float]]) -> str:
    text = _with_spread("{:.2e}", point.values(rounding, ERROR))
    return f"**{text}**" if (point.weight_bytes, point.mean(rounding, ERROR)) in best else text


def _with_spread(form: str, values: Sequence[float]) -> str:
    """Mean, and standard deviation over the seeds where there are some."""
    text = form.format(statistics.fmean(values))
    return f"{text} ± {form.format(statistics.stdev(values))}" if len(values) > 1 else text


def _seconds(point: Point, found: Found) -> str:
    seconds = {
        PROBED: found.sensitivities.probed_s,
        WIDE: found.sensitivities.probed_s,
        EXACT: found.sensitivities.exact_s,
    }
    return f"{seconds[point.way]:.1f}" if point.way in seconds else "-"


def findings(found: Found) -> list[str]:
    """What the table says, in ratios of output errors at equal budgets."""
    lines = [_against(found, way) for way in (EXACT, DEPTH, RANDOM)]
    lines += [_against_uniform(found, point) for point in found.points if point.way == UNIFORM]
    return [line for line in lines if line]


def _against(found: Found, way: str) -> str:
    """Geometric mean, over the budgets, of the error of ``way`` by that of probed sensitivities."""
    shown = []
    for rounding in ROUNDINGS:
        theirs, ours = (_by_budget(found.points, one, rounding) for one in (way, PROBED))
        ratios = [theirs[budget] / ours[budget] for budget in ours if budget in theirs]
        if not ratios:
            return ""
        mean = statistics.geometric_mean(ratios)
        shown.append(f"{mean:.2f} {rounding} ({min(ratios):.2f} to {max(ratios):.2f})")
    titles = found.family.title_of(way), found.family.title_of(PROBED)
    return f"Error of *{titles[0]}* by that of *{titles[1]}*, geometric mean over budgets: {', '.join(shown)}."


def _by_budget(points: Sequence[Point], way: str, rounding: str) -> dict[int, float]:
    return {point.budget: point.mean(rounding, ERROR) for point in points if point.way == way}


def _against_uniform(found: Found, uniform: Point) -> str:
    """The best mixed plan that takes no more bytes than the uniform one."""
    shown = []
    for rounding in ROUNDINGS:
        fitting = [point for point in found.points if _is_mixed(point) and point.weight_bytes <= uniform.weight_bytes]
        if not fitting:
            return ""
        best = min(fitting, key=lambda point: point.mean(rounding, ERROR))
        ratio = best.mean(rounding, ERROR) / uniform.mean(rounding, ERROR)
        title = f"{found.family.title_of(best.way)}, {best.weight_bytes / 1e6:.2f} MB"
        shown.append(f"{ratio:.2f} {rounding} ({title})")
    size = f"{uniform.weight_bytes / 1e6:.2f} MB"
    return (
        f"Error of the best mixed plan within the {size} of uniform {uniform.label}, by its error: {', '.join(shown)}."
    )


def _is_mixed(point: Point) -> bool:
    return point.way in (PROBED, EXACT, WIDE)


def four_bits_of(family: Family, is_conv: bool) -> str:
    """The narrow form of a block: convolutions keep 8 bits."""
    shape = LayerShape.of_weight((GROUP_SIZES[-1],) * (4 if is_conv else 2))
    return Form.of(scheme(family.four), shape).scheme
