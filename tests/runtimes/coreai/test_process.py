"""However the worker ends, we go on: each ending is a real process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vggt_edge.devices.errors import LoweringError, ResourceError, ToolchainError, VggtEdgeError
from vggt_edge.runtimes.coreai import BACKEND, process
from vggt_edge.runtimes.coreai.process import Ending, Outcome


@pytest.mark.parametrize(
    ("code", "ending", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", Ending.CRASHED, "crashed with SIGSEGV"),
        ("import os; os.abort()", Ending.CRASHED, "crashed with SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Ending.NO_MEMORY, "want of memory"),
        ("import time; time.sleep(60)", Ending.NO_TIME, "no result after 0.5 s"),
        ("raise RuntimeError('the library is broken')", Ending.CRASHED, "the library is broken"),
        ("pass", Ending.CRASHED, "ended with 0"),
        ("print('[1, 2]')", Ending.CRASHED, "ended with 0"),
        ("""print('{"error": "not this"}')""", Ending.REFUSED, "not this"),
    ],
)
def test_however_the_worker_ends_we_go_on(code: str, ending: Ending, message: str) -> None:
    outcome = process.run_worker([sys.executable, "-c", code], 0.5 if "sleep" in code else 60)
    assert outcome.ending is ending
    assert message in outcome.detail
    assert outcome.answer is None


@pytest.mark.parametrize("after", ["", "import os; sys.stdout.flush(); os.abort()"])
def test_an_answer_is_taken_over_whatever_comes_after_it(after: str) -> None:
    """Core AI has aborted while its process went down, with all its work done."""
    outcome = process.run_worker([sys.executable, "-c", f"""import sys; print('{{"seconds": 1.5}}'); {after}"""], 60)
    assert (outcome.ending, outcome.answer) == (Ending.ANSWERED, {"seconds": 1.5})


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (Ending.REFUSED, LoweringError),
        (Ending.CRASHED, ToolchainError),
        (Ending.NO_MEMORY, ResourceError),
        (Ending.NO_TIME, ResourceError),
    ],
)
def test_each_ending_has_its_error(ending: Ending, kind: type[VggtEdgeError]) -> None:
    error = Outcome(ending, "why").error("did not work", "there", LoweringError, "do this")
    assert type(error) is kind
    assert error.what == "did not work: why"
    assert error.where == "there"
    assert error.remedy


def test_missing_packages_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "PACKAGES", ("coreai", "no_such_package", "no.such.package"))
    state = BACKEND.availability()
    assert not state.ok
    assert "no_such_package, no.such.package" in state.reason
    assert state.remedy == "pip install 'vggt-edge[coreai]'"
    assert BACKEND.executors() == ()


def test_a_path_that_core_ai_cannot_read_ends_the_worker_and_not_us(tmp_path: Path) -> None:
    """Core AI 1.0.0b3 really dies of SIGSEGV here: no message, no exception."""
    if not BACKEND.availability().ok:
        pytest.skip(BACKEND.availability().reason)
    outcome = process.run_worker(process.worker("inspect", str(tmp_path / "nothing")), 60)
    assert outcome.ending in (Ending.CRASHED, Ending.REFUSED)
    assert outcome.detail


def test_a_worker_without_a_request_says_what_it_lacks(tmp_path: Path) -> None:
    outcome = process.run_worker(process.worker("convert", str(tmp_path)), 60)
    assert outcome.ending is Ending.REFUSED
    assert "request.json" in outcome.detail
