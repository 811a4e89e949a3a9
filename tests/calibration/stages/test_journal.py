"""Running values in files: exact, within the memory budget, whole after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vggt_edge.calibration.stages.journal import FileJournal


def test_values_come_back_exactly(tmp_path: Path) -> None:
    value = torch.randn(3, 4)
    for budget in (0, 1 << 20):
        journal = FileJournal(tmp_path / str(budget), budget)
        journal.put(0, "x.1", value.t())
        assert torch.equal(journal.get(0, "x.1"), value.t())
        assert torch.equal(FileJournal(tmp_path / str(budget)).get(0, "x.1"), value.t())


def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, memory_bytes=100)
    for scene in range(5):
        journal.put(scene, "x", torch.zeros(10))
    assert journal._used_bytes == 80
    journal.put(0, "x", torch.ones(10))
    assert journal._used_bytes == 80
    journal.finish(1, ["x"])
    assert journal._used_bytes == 0


def test_dropped_values_are_gone_and_others_stay(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    for name in ("x.1", "x.11", "local.1"):
        journal.put(0, name, torch.zeros(1))
    journal.finish(3, ["x.1"])
    again = FileJournal(tmp_path)
    assert again.stages_done == 3
    assert again.get(0, "x.11").shape == again.get(0, "local.1").shape == (1,)
    with pytest.raises(FileNotFoundError):
        again.get(0, "x.1")


def test_a_value_written_over_is_the_new_one(tmp_path: Path) -> None:
    """A stage that was killed half way runs again and writes the same names."""
    journal = FileJournal(tmp_path)
    journal.put(0, "x", torch.zeros(2))
    again = FileJournal(tmp_path)
    again.put(0, "x", torch.ones(2))
    assert again.get(0, "x").tolist() == [1, 1]
    assert not list(tmp_path.glob("*.partial"))
