"""Files and folders are whole or not there, and links to what they replace keep their content."""

from __future__ import annotations

from pathlib import Path

import pytest

from vggt_edge.runtimes.common.files import aside


def test_a_file_takes_the_place_of_one_that_is_linked_elsewhere(tmp_path: Path) -> None:
    first, linked = tmp_path / "deep" / "file", tmp_path / "linked"
    with aside(first) as scratch:
        scratch.write_text("one")
    linked.hardlink_to(first)
    with aside(first) as scratch:
        scratch.write_text("two")
    assert (first.read_text(), linked.read_text()) == ("two", "one")


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("old", "new"):
        with aside(target) as scratch:
            scratch.mkdir()
            (scratch / name).touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    target.write_text("before")
    with pytest.raises(KeyboardInterrupt), aside(target) as scratch:  # noqa: PT012  the failure comes inside
        if kind == "file":
            scratch.write_text("half")
        else:
            scratch.mkdir()
        raise KeyboardInterrupt
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".target.partial").mkdir()
    with aside(tmp_path / "target") as scratch:
        scratch.write_text("whole")
    assert (tmp_path / "target").read_text() == "whole"
