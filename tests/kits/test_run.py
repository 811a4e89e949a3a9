"""The runner of the device kits: its verdicts and exit codes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from vggt_edge.runtimes.common.kit import script_module


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    return script_module(Path(__file__).with_name("run.py"), "kits_run")


def _kit(folder: Path, name: str, body: str) -> None:
    program = folder / name / "run"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


def test_each_verdict(runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed kit fails the run; a skipped one does not, and its last line is the reason."""
    _kit(tmp_path, "good", "echo fine")
    _kit(tmp_path, "missing", "echo looked everywhere\necho install the compiler\nexit 77")
    assert runner.main([], tmp_path) == 0
    summary = capsys.readouterr().out
    assert "skipped" in summary
    assert summary.splitlines()[-1].endswith("install the compiler")
    _kit(tmp_path, "bad", "echo 'x.swift:3: error: no such type'\nseq 100\nexit 3")
    assert runner.main([], tmp_path) == 1
    shown = capsys.readouterr().out
    assert "bad      failed" in shown
    # Again at the end, although a hundred lines came after it.
    assert shown.count("bad: x.swift:3: error: no such type") == 2
    assert runner.main(["good"], tmp_path) == 0


def test_kits_that_do_not_exist(runner: ModuleType, tmp_path: Path) -> None:
    """A misspelt name, or a folder without kits, never counts as success."""
    assert runner.main([], tmp_path) == 2
    _kit(tmp_path, "good", "exit 0")
    assert runner.main(["goood"], tmp_path) == 2


def test_the_kits_of_this_repository(runner: ModuleType) -> None:
    """Each kit's program can be started."""
    found = runner.kits(Path(__file__).parent)
    assert all(program.stat().st_mode & 0o111 for program in found.values())
