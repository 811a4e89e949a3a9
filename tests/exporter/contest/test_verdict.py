"""Goals met and missed, on rows made by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from vggt_edge.exporter.contest.columns import COLUMNS, FP32, Row
from vggt_edge.exporter.contest.verdict import Verdict, best_row, judge

AHEAD = "ahead of every other method in every column"
NONE: Mapping[str, float] = {}


def row(scheme: str, method: str, changes: Mapping[str, float] = NONE, spread: float = 0.1, **other: float) -> Row:
    """Every figure 1 (AUC@30: 80) but for ``changes``, every spread the same."""
    mean = {column.key: 1.0 for column in COLUMNS} | {"auc30": 80.0} | dict(changes) | other
    return Row(scheme, method, 3, mean, {column.key: spread for column in COLUMNS})


def better(method: str, scheme: str, auc30: float, spread: float = 0.1) -> Row:
    """Ahead of ``row`` in every column, and with this AUC@30."""
    mean = {column.key: 2.0 if column.higher else 0.5 for column in COLUMNS}
    return row(scheme, method, mean, spread, auc30=auc30)


def goal(rows: list[Row], name: str) -> Verdict:
    (found,) = [one for one in judge([row(FP32, FP32), *rows]) if one.goal.startswith(name)]
    return found


@pytest.mark.parametrize(
    ("scheme", "auc30", "spread", "met", "detail"),
    [
        ("w8a8", 79.9, 0.0, True, "-0.10 against FP32, spread 0.00"),
        ("w8a8", 80.4, 0.0, True, "+0.40 against FP32, spread 0.00"),
        ("w4a16", 79.5, 0.6, True, "-0.50 against FP32, spread 0.60: within the spread"),
        ("w4a16", 79.5, 0.4, False, "-0.50 against FP32, spread 0.40: missed by 0.40"),
        ("w4a8d", 79.5, 0.0, True, "-0.50 against FP32, spread 0.00"),
        ("w4a8d", 79.0, 9.0, False, "-1.00 against FP32, spread 9.00: missed by 0.50"),
    ],
)
def test_near_fp32(scheme: str, auc30: float, spread: float, met: bool, detail: str) -> None:
    """Within so many points, or within the spread where the goal says so; W4A8's does not."""
    found = goal([row(scheme, "ours", spread=spread, auc30=auc30)], "within")
    assert (found.met, found.detail) == (met, detail)


@pytest.mark.parametrize(
    ("auc30", "met", "detail"), [(78.4, True, "98.00 %"), (76.0, False, "95.00 %: missed by 3.00 points")]
)
def test_a_share_of_fp32(auc30: float, met: bool, detail: str) -> None:
    """W4A4 keeps at least 98 %."""
    found = goal([row("w4a4d", "ours", auc30=auc30)], "at least 98 %")
    assert (found.met, found.detail) == (met, detail)


def test_ahead_of_all() -> None:
    """Better than each other method in each column; our own ablations are no competitors."""
    rows = [row("w8a8", "rtn"), row("w8a8", "awq"), better("ours", "w8a8", 81.0), better("ours-all", "w8a8", 99.0)]
    found = goal(rows, AHEAD)
    assert found.met
    assert found.detail == "ahead in 11 of 11"


def test_behind_says_where_by_how_much_and_of_whom() -> None:
    """The best of the others counts, and a lack within the spread is told as one."""
    rows = [row("w8a8", "rtn", auc15=0.5), row("w8a8", "awq", auc15=2.1, abs_rel=0.1), better("ours", "w8a8", 81.0)]
    found = goal(rows, AHEAD)
    assert not found.met
    assert found.detail == (
        "ahead in 9 of 11; not in AUC@15: 2.00 against 2.10 of awq (within the spread); "
        "AbsRel: 0.5000 against 0.1000 of awq"
    )


def test_being_level_is_not_being_ahead() -> None:
    """Equal figures are no win."""
    assert not goal([row("w8a8d", "rtn"), row("w8a8d", "ours")], AHEAD).met


def test_completeness_is_told_but_not_counted() -> None:
    """It can improve under damage."""
    found = goal([row("w8a8", "rtn", completeness=0.1), better("ours", "w8a8", 81.0)], AHEAD)
    assert found.met
    assert found.detail.endswith("(not counted: completeness: 0.5000 against 0.1000 of rtn)")


def test_other_schemes_do_not_compete() -> None:
    """Each scheme is a contest of its own; one without ours has no verdict."""
    rows = [row("w8a8", "rtn"), better("ours", "w8a8", 81.0), better("rtn", "w8a8d", 99.0)]
    assert {one.scheme for one in judge([row(FP32, FP32), *rows])} == {"w8a8"}
    assert goal(rows, AHEAD).met


def test_a_method_that_gives_no_numbers_loses() -> None:
    """Neither ours nor another one wins by collapsing."""
    broken = {column.key: math.nan for column in COLUMNS}
    (auc30,) = [column for column in COLUMNS if column.key == "auc30"]
    assert best_row(auc30, [row("w8a8", "rtn", broken), row("w8a8", "awq")]).method == "awq"
    verdicts = judge([row(FP32, FP32), row("w8a8", "rtn"), row("w8a8", "ours", broken)])
    assert [one.met for one in verdicts] == [False, False]
    assert goal([row("w8a8", "rtn", broken), better("ours", "w8a8", 81.0)], AHEAD).met


def test_a_column_that_no_method_has_is_not_counted() -> None:
    """A model without points has no figures of them."""
    ours, other = better("ours", "w4a4d", 80.0), row("w4a4d", "rtn", auc30=70.0)
    without = [replace(one, mean={**one.mean, "points_sqnr_db": math.nan}) for one in (ours, other)]
    counted = sum(column.counted and column.higher is not None for column in COLUMNS)
    assert goal([ours, other], "ahead").detail == f"ahead in {counted} of {counted}"
    found = goal(without, "ahead")
    assert (found.met, found.detail) == (True, f"ahead in {counted - 1} of {counted - 1}")
