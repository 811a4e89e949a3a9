"""Core AI in a process of its own: native code may crash, hang or eat the memory, and we go on.

Programs and arrays travel as files in a scratch folder, answers as one line of JSON.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vggt_edge.devices.errors import ResourceError, ToolchainError, VggtEdgeError
from vggt_edge.runtimes.base import Availability
from vggt_edge.runtimes.common.packages import installed

NAME = "Core AI"
PACKAGES = ("coreai", "coreai_torch")
REMEDY = "pip install 'vggt-edge[coreai]'"
_WORKER = "vggt_edge.runtimes.coreai._worker"


class Ending(StrEnum):
    """How a worker ended. refused: it says so itself, with Core AI's message."""

    ANSWERED = "answered"
    REFUSED = "refused"
    CRASHED = "crashed"
    NO_MEMORY = "no memory"
    NO_TIME = "no time"


@dataclass(frozen=True)
class Outcome:
    """answer: what the worker wrote, empty unless it answered. detail: for readers, empty if it did."""

    ending: Ending
    detail: str = ""
    answer: Mapping[str, Any] | None = None

    def error(self, what: str, where: str, refusal: type[VggtEdgeError], remedy: str) -> VggtEdgeError:
        """The error for an outcome without an answer; ``refusal`` is the class for one that Core AI gave itself."""
        if self.ending in (Ending.NO_MEMORY, Ending.NO_TIME):
            return ResourceError(f"{what}: {self.detail}", where=where, remedy="use a larger machine, or leave it out")
        kind = refusal if self.ending is Ending.REFUSED else ToolchainError
        return kind(f"{what}: {self.detail}", where=where, remedy=remedy)


def availability() -> Availability:
    """Whether both packages are installed; nothing is imported."""
    missing = [name for name in PACKAGES if not installed(name)]
    if missing:
        return Availability(False, f"not installed: {', '.join(missing)}", REMEDY)
    return Availability(True)


def worker(*arguments: str) -> list[str]:
    """The command of a worker. -P: modules of the current folder must not be taken for installed ones."""
    return [sys.executable, "-P", "-m", _WORKER, *arguments]


def run_worker(command: Sequence[str], timeout_s: float) -> Outcome:
    """Run one process to its end, however it ends."""
    try:
        finished = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return Outcome(Ending.NO_TIME, f"no result after {timeout_s:g} s")
    answer = _answer(finished.stdout)
    if answer is not None:  # the last thing that a worker does: what happens after it does not matter
        if "error" in answer:
            return Outcome(Ending.REFUSED, str(answer["error"]))
        return Outcome(Ending.ANSWERED, answer=answer)
    return _without_answer(finished)


def _without_answer(finished: subprocess.CompletedProcess[str]) -> Outcome:
    if finished.returncode == -signal.SIGKILL:
        return Outcome(Ending.NO_MEMORY, "the process was killed, most likely for want of memory")
    if finished.returncode < 0:
        name = signal.Signals(-finished.returncode).name
        return Outcome(Ending.CRASHED, f"{NAME} crashed with {name}\n{_end_of(finished.stderr)}")
    return Outcome(Ending.CRASHED, f"the process ended with {finished.returncode}\n{_end_of(finished.stderr)}")


def _answer(text: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _end_of(text: str, lines: int = 10) -> str:
    return "\n".join(text.splitlines()[-lines:])
