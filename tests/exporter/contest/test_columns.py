"""Means, spreads, and which of two values is the better one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.exporter.contest.columns import COLUMNS, Column, cell, summarize

HIGHER = Column("auc30", "AUC@30", "{:.2f}", higher=True)
LOWER = Column("abs_rel", "AbsRel", "{:.4f}", higher=False)
NUMBERS = st.floats(-1e6, 1e6)


def figures(value: float) -> dict[str, float]:
    return {column.key: value for column in COLUMNS}


def test_the_mean_and_the_sample_deviation_over_seeds() -> None:
    """Of 1, 2 and 6: mean 3, deviation sqrt((4 + 1 + 9) / 2)."""
    row = summarize("w8a8", "rtn", [figures(1.0), figures(2.0), figures(6.0)])
    assert (row.seeds, row.mean["auc30"]) == (3, 3.0)
    assert row.spread["auc30"] == pytest.approx(math.sqrt(7))
    assert set(row.mean) == set(row.spread) == {column.key for column in COLUMNS}
    assert cell(HIGHER, row) == "3.00 ± 2.65"


def test_one_seed_has_no_spread() -> None:
    """A spread of zero would claim that nothing varies."""
    row = summarize("fp32", "fp32", [figures(81.37)])
    assert row.spread == {}
    assert cell(HIGHER, row) == "81.37"


def test_a_seed_without_a_value_leaves_the_column_without_one() -> None:
    """A mean over the seeds that happened to work would flatter the method."""
    row = summarize("w4a4d", "rtn", [figures(1.0), figures(math.nan)])
    assert math.isnan(row.mean["auc30"])
    assert math.isnan(row.spread["auc30"])
    assert cell(HIGHER, row) == "- ± -"


@given(NUMBERS, NUMBERS)
def test_what_one_gains_the_other_loses(first: float, second: float) -> None:
    """Whichever way a column counts."""
    assert HIGHER.gain(first, second) == -HIGHER.gain(second, first) == LOWER.gain(second, first)
    assert (HIGHER.gain(first, second) > 0) == (first > second)


@pytest.mark.parametrize("column", [HIGHER, LOWER])
def test_no_value_is_worse_than_any(column: Column) -> None:
    """Not a number must neither win nor hide a loss."""
    assert column.gain(math.nan, 1.0) == column.gain(math.nan, math.nan) == -math.inf
    assert column.gain(1.0, math.nan) == math.inf
