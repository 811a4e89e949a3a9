"""Core AI runs in a worker: without its packages nothing starts, and when it crashes we go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from vggt_edge.runtimes.common.process import Ending
from vggt_edge.runtimes.coreai import BACKEND, sdk


def test_missing_packages_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sdk, "PACKAGES", ("coreai", "no_such_package", "no.such.package"))
    state = BACKEND.availability()
    assert not state.ok
    assert "no_such_package, no.such.package" in state.reason
    assert state.remedy == "pip install 'vggt-edge[coreai]'"
    assert BACKEND.executors() == ()


def test_a_path_that_core_ai_cannot_read_ends_the_worker_and_not_us(tmp_path: Path) -> None:
    """Core AI 1.0.0b3 really dies of SIGSEGV here: no message, no exception."""
    if not BACKEND.availability().ok:
        pytest.skip(BACKEND.availability().reason)
    outcome = sdk.ask("inspect", tmp_path / "nothing", timeout_s=60)
    assert outcome.ending in (Ending.CRASHED, Ending.REFUSED)
    assert outcome.detail


def test_a_worker_without_a_request_says_what_it_lacks(tmp_path: Path) -> None:
    outcome = sdk.ask("convert", tmp_path, timeout_s=60)
    assert outcome.ending is Ending.REFUSED
    assert "request.json" in outcome.detail
