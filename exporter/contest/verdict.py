"""Which goals a contest has met, and by how much the others were missed. Rows decide; nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vggt_edge.exporter.contest.columns import COLUMNS, FP32, Column, Row
from vggt_edge.exporter.contest.methods import OURS, is_ours

_GOAL = "auc30"
_POINTS_BELOW = {"w8a8": 0.1, "w4a16": 0.1, "w4a8d": 0.5}  # of AUC@30, against FP32
_OR_WITHIN_SPREAD = ("w8a8", "w4a16")
_SHARE = {"w4a4d": 0.98}  # of FP32's AUC@30
_EQUAL = 1e-9  # the goals are decimals, which floating-point numbers are not


@dataclass(frozen=True)
class Verdict:
    """One goal of the contest: whether it was met, and by how much it was missed."""

    scheme: str
    goal: str
    met: bool
    detail: str


def judge(rows: Sequence[Row]) -> tuple[Verdict, ...]:
    """The goals of every scheme that has a row of ours. rows: FP32's among them."""
    fp32 = next(row for row in rows if row.method == FP32)
    ours = [row for row in rows if row.method == OURS]
    return tuple(verdict for row in ours for verdict in _of_scheme(row, fp32, rows))


def _of_scheme(ours: Row, fp32: Row, rows: Sequence[Row]) -> Iterable[Verdict]:
    if ours.scheme in _POINTS_BELOW:
        yield _near(ours, fp32, _POINTS_BELOW[ours.scheme], or_spread=ours.scheme in _OR_WITHIN_SPREAD)
    if ours.scheme in _SHARE:
        yield _share(ours, fp32, _SHARE[ours.scheme])
    others = [row for row in rows if row.scheme == ours.scheme and not is_ours(row.method)]
    if others:
        yield _ahead(ours, others)


def _near(ours: Row, fp32: Row, limit: float, *, or_spread: bool) -> Verdict:
    drop, spread = fp32.mean[_GOAL] - ours.mean[_GOAL], ours.spread.get(_GOAL, 0.0)
    goal = f"within {limit} AUC@30 of FP32" + ", or within the spread over seeds" * or_spread
    found = f"{-drop:+.2f} against FP32, spread {spread:.2f}"
    if drop <= limit + _EQUAL:
        return Verdict(ours.scheme, goal, True, found)
    if or_spread and drop <= spread:
        return Verdict(ours.scheme, goal, True, f"{found}: within the spread")
    return Verdict(ours.scheme, goal, False, f"{found}: missed by {drop - limit:.2f}")


def _share(ours: Row, fp32: Row, limit: float) -> Verdict:
    share = ours.mean[_GOAL] / fp32.mean[_GOAL] if fp32.mean[_GOAL] else math.nan
    missed = "" if share >= limit else f": missed by {100 * (limit - share):.2f} points"
    return Verdict(
        ours.scheme, f"at least {100 * limit:g} % of FP32's AUC@30", not missed, f"{100 * share:.2f} %{missed}"
    )


def _ahead(ours: Row, others: Sequence[Row]) -> Verdict:
    given = [column for column in COLUMNS if not all(math.isnan(row.mean[column.key]) for row in (ours, *others))]
    competed = [column for column in given if column.higher is not None]
    counted = [column for column in competed if column.counted]
    behind = {column: text for column in competed if (text := _behind(column, ours, others))}
    missed = [column for column in counted if column in behind]
    detail = f"ahead in {len(counted) - len(missed)} of {len(counted)}"
    if missed:
        detail += "; not in " + "; ".join(behind[column] for column in missed)
    uncounted = [behind[column] for column in behind if column not in counted]
    if uncounted:
        detail += " (not counted: " + "; ".join(uncounted) + ")"
    return Verdict(ours.scheme, "ahead of every other method in every column", not missed, detail)


def _behind(column: Column, ours: Row, others: Sequence[Row]) -> str:
    """How ours stands in a column that it does not lead; empty where it does."""
    best = best_row(column, others)
    mine, theirs = ours.mean[column.key], best.mean[column.key]
    gain = column.gain(mine, theirs)
    if gain > 0:
        return ""
    text = f"{column.title}: {column.text(mine)} against {column.text(theirs)} of {best.method}"
    return text + " (within the spread)" * (-gain <= _joint_spread(column, ours, best))


def best_row(column: Column, rows: Sequence[Row]) -> Row:
    """Of rows that compete, the one with the best mean; the first of equals."""
    best = rows[0]
    for row in rows[1:]:
        if column.gain(row.mean[column.key], best.mean[column.key]) > 0:
            best = row
    return best


def _joint_spread(column: Column, *rows: Row) -> float:
    """Standard deviation of the difference of two methods, each seed of which stands for itself."""
    return math.hypot(*(row.spread.get(column.key, 0.0) for row in rows))
