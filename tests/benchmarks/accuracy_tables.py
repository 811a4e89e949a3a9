"""The tables of docs/benchmarks/methods.md, made from what the contests found."""

from __future__ import annotations

from collections.abc import Sequence

from section import table

from vggt_edge.exporter.contest.columns import COLUMNS, FP32, Column, Row, cell
from vggt_edge.exporter.contest.harness import PLANTED, SCHEMES, Accuracy
from vggt_edge.exporter.contest.verdict import best_row

BEGIN, END = "<!-- accuracy:begin -->", "<!-- accuracy:end -->"
TITLE = "# Methods against each other"
TITLES = {
    "w8a8": "W8A8, static per tensor",
    "w8a8d": "W8A8, dynamic per token",
    "w4a16": "W4A16, groups of 64",
    "w4a8d": "W4A8, dynamic per token, groups of 32",
    "w4a4d": "W4A4, dynamic per token, groups of 32",
}
NAMES = {
    FP32: "FP32",
    "rtn": "RTN",
    "smoothquant": "SmoothQuant",
    "awq": "AWQ",
    "gptq": "GPTQ",
    "quarot": "QuaRot",
    "quantvggt": "QuantVGGT",
    "qvggt": "QVGGT",
}
_VARIANT = {PLANTED: "outliers planted"}


def render(contests: Sequence[Accuracy], ablations: Sequence[Accuracy]) -> str:
    """Markdown: what was measured, the goals, a table per variant and scheme, then the ablations."""
    tables = [part for found in contests for part in schemes(found)]
    tables += [part for found in ablations for part in schemes(found, "Ablation: ")]
    first = lead([*contests, *ablations][0])
    if contests and ablations and ablations[0].seeds != contests[0].seeds:
        first += f" Ablations: {ablations[0].seeds} of these seeds."
    return "\n\n".join([first, f"## Goals\n{goals(contests)}", *tables])


def lead(found: Accuracy) -> str:
    spread = f"mean ± standard deviation over {found.seeds} seeds" if found.seeds > 1 else "one seed"
    text = (
        f"{found.model}, {found.scene_count} held-out rooms of {found.frames} frames, {spread}; a seed chooses the "
        f"{found.calibration_scenes} rooms to calibrate on, none of which is held out or another seed's. Every linear "
        "and convolution of every block is quantized, by each method alike, convolutions with 8 bits; the rest is "
        f"FP16. Ours with `--effort {found.effort}`. *Output error* and *dB* (SQNR) are against FP32, *seconds* those "
        "to quantize. Best of a column in bold. Completeness can improve under damage, so no goal counts it."
    )
    return text + f" Weights are **random** ({found.random_weights})." * bool(found.random_weights)


def goals(contests: Sequence[Accuracy]) -> str:
    rows = [
        (f"{TITLES[one.scheme]}{_suffix(found)}", one.goal, "met" if one.met else "**missed**", one.detail)
        for found in contests
        for one in found.verdicts
    ]
    return table(("scheme", "goal", "", "found"), rows) if rows else "No goal is judged without rows of ours."


def schemes(found: Accuracy, prefix: str = "") -> list[str]:
    """A table for each scheme that has rows."""
    fp32 = next(row for row in found.rows if row.method == FP32)
    parts = []
    for scheme in SCHEMES:
        rows = [row for row in found.rows if row.scheme == scheme]
        if rows:
            parts.append(f"## {prefix}{TITLES[scheme]}{_suffix(found)}\n{scheme_table(fp32, rows)}")
    return parts


def scheme_table(fp32: Row, rows: Sequence[Row]) -> str:
    """FP32 first, which does not compete; the best mean of each column in bold, and those that read the same."""
    lines = [(NAMES[FP32], *(cell(column, fp32) if _has(column) else "-" for column in COLUMNS))]
    lines += [(NAMES.get(row.method, row.method), *(_marked(column, row, rows) for column in COLUMNS)) for row in rows]
    return table(("", *(f"{column.title}{_arrow(column)}" for column in COLUMNS)), lines)


def _marked(column: Column, row: Row, rows: Sequence[Row]) -> str:
    if column.higher is None or len(rows) < 2:
        return cell(column, row)
    best = column.text(best_row(column, rows).mean[column.key])
    mine = column.text(row.mean[column.key])
    return f"**{cell(column, row)}**" if mine == best != column.text(float("nan")) else cell(column, row)


def _has(column: Column) -> bool:
    """FP32 has no distance from itself, and takes no time to quantize."""
    return column.key not in ("output_error", "pose_sqnr_db", "points_sqnr_db", "seconds")


def _arrow(column: Column) -> str:
    return "" if column.higher is None else " ↑" if column.higher else " ↓"


def _suffix(found: Accuracy) -> str:
    return f", {_VARIANT[found.variant]}" if found.variant in _VARIANT else ""
