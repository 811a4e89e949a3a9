"""What was measured once is not measured again, and what cannot be read is not trusted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.contest.results import Figures, Results


class Counter:
    """Gives another figure each time that it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Figures:
        self.calls += 1
        return {"auc30": float(self.calls), "cross_head": math.nan}


def test_a_result_is_kept_under_what_it_depends_on(tmp_path: Path) -> None:
    """The same inputs give what was found before, others something new; not a number stays what it is."""
    make, results = Counter(), Results(tmp_path / "new" / "work")
    first = results.get("rtn", {"seed": 0}, make)
    again = Results(tmp_path / "new" / "work").get("rtn", {"seed": 0}, make)
    assert first["auc30"] == again["auc30"] == 1.0
    assert math.isnan(again["cross_head"])
    assert results.get("rtn", {"seed": 1}, make)["auc30"] == 2.0


def test_without_a_folder_nothing_is_kept() -> None:
    """Every call measures."""
    make, results = Counter(), Results(None)
    assert [results.get("rtn", {}, make)["auc30"] for _ in range(2)] == [1.0, 2.0]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"digest": "x", "figures": {}}'])
def test_a_damaged_result_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    """Not measured again in silence: whoever damaged one may have damaged more."""
    make, results = Counter(), Results(tmp_path)
    results.get("rtn", {}, make)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        results.get("rtn", {}, make)
    assert caught.value.where == str(path)


def test_a_failed_measurement_leaves_nothing(tmp_path: Path) -> None:
    """What lies in the folder is whole."""

    def fail() -> Figures:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Results(tmp_path).get("rtn", {}, fail)
    assert list(tmp_path.iterdir()) == []
