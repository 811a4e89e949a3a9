"""Native code in processes of its own: it may crash, hang or eat the memory, and we go on.

A worker is a module that is run with ``python -m``. It answers with one line of JSON on what was its stdout when it
started (``runtimes/common/worker.py``). ``run_worker`` runs one to its end; ``Server`` keeps one that answers many
requests.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import IO, Any

from vggt_edge.devices.errors import ResourceError, ToolchainError, VggtEdgeError
from vggt_edge.runtimes.common.memory import held_bytes
from vggt_edge.runtimes.common.worker import PARENT

Answer = Mapping[str, Any]
_LOOKS_EVERY_S = 0.1  # at the memory of a worker; native code fills about a gigabyte in that time


class Ending(StrEnum):
    """How a worker ended. refused: it says so itself, with the toolchain's message."""

    ANSWERED = "answered"
    REFUSED = "refused"
    CRASHED = "crashed"
    NO_MEMORY = "no memory"
    NO_ROOM = "no room"
    NO_TIME = "no time"


@dataclass(frozen=True)
class Outcome:
    """How one request ended.

    detail: for readers; empty if the worker answered.
    answer: what the worker wrote; None unless it answered.
    """

    ending: Ending
    detail: str = ""
    answer: Answer | None = None

    def error(self, what: str, where: str, refusal: type[VggtEdgeError], remedy: str) -> VggtEdgeError:
        """The error for an outcome without an answer; ``refusal`` is the class for what the toolchain refused."""
        if self.ending is Ending.NO_ROOM:
            return ResourceError(f"{what}: {self.detail}", where=where, remedy="free some space, or choose another -o")
        if self.ending in (Ending.NO_MEMORY, Ending.NO_TIME):
            return ResourceError(f"{what}: {self.detail}", where=where, remedy="use a larger machine, or leave it out")
        kind = refusal if self.ending is Ending.REFUSED else ToolchainError
        return kind(f"{what}: {self.detail}", where=where, remedy=remedy)


def worker(module: str, *arguments: str) -> list[str]:
    """The command of a worker. -P: modules of the current folder must not be taken for installed ones."""
    return [sys.executable, "-P", "-m", module, *arguments]


def run_worker(
    command: Sequence[str],
    timeout_s: float,
    memory_bytes: int | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    shows_errors: bool = False,
) -> Outcome:
    """Run one process to its end, however it ends.

    memory_bytes: the worker is ended when it and its children hold more; no limit by default. environment: that of this
    process by default. shows_errors: its stderr is the stderr of this process, and no part of the outcome.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if shows_errors else subprocess.PIPE,
        text=True,
        errors="replace",
        env=_told(environment),
    )
    with process:
        try:
            return _outcome(process, timeout_s, memory_bytes)
        finally:
            process.kill()


def _told(environment: Mapping[str, str] | None) -> dict[str, str]:
    """The environment of a worker, which says whom it must not outlive."""
    return {**(os.environ if environment is None else environment), PARENT: str(os.getpid())}


def _outcome(process: subprocess.Popen[str], timeout_s: float, memory_bytes: int | None) -> Outcome:
    deadline = monotonic() + timeout_s
    while (left_s := deadline - monotonic()) > 0:
        with suppress(subprocess.TimeoutExpired):
            said, errors = process.communicate(timeout=left_s if memory_bytes is None else min(left_s, _LOOKS_EVERY_S))
            # An answer is the last thing that a worker does: how the process went down after it does not matter.
            return _answered(said) or _without_answer(process.returncode, errors or "")
        if memory_bytes is not None and held_bytes(process.pid) > memory_bytes:
            return Outcome(Ending.NO_MEMORY, f"took more than {memory_bytes / 1e9:.1f} GB of memory")
    return _no_time(timeout_s)


class Server:
    """One worker that answers requests, each a line of JSON on its stdin. Ends with the object, or when it fails."""

    def __init__(self, command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> None:
        """timeout_s: of each answer. environment: that of this process by default."""
        self._timeout_s = timeout_s
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  closed with the object
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_told(environment),
        )
        self._end = weakref.finalize(self, _end, self._process, self._errors)

    def ask(self, request: Answer) -> Outcome:
        """One request and its outcome; after any other than an answer the worker is gone."""
        try:
            stream = _pipe(self._process.stdin)
            stream.write(json.dumps(request) + "\n")
            stream.flush()
        except OSError:
            return self._ended()
        return self.answer()

    def answer(self) -> Outcome:
        """The next line that the worker writes; the first one is there without a request."""
        stream = _pipe(self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            if not selector.select(self._timeout_s):
                self.close()
                return _no_time(self._timeout_s)
        outcome = _answered(stream.readline())
        if outcome is None:
            return self._ended()
        if outcome.ending is not Ending.ANSWERED:
            self.close()
        return outcome

    def log(self) -> str:
        """What the worker has written to its stderr so far."""
        self._errors.seek(0)
        return self._errors.read()

    def close(self) -> None:
        """End the worker; calling it twice does no harm."""
        self._end()

    def _ended(self) -> Outcome:
        outcome = _without_answer(self._process.wait(), self.log())
        self.close()
        return outcome


def _no_time(timeout_s: float) -> Outcome:
    return Outcome(Ending.NO_TIME, f"no result after {timeout_s:g} s")


def _without_answer(status: int, errors: str) -> Outcome:
    if status == -signal.SIGKILL:
        return Outcome(Ending.NO_MEMORY, "the process was killed, most likely for want of memory")
    last = "\n".join(errors.splitlines()[-10:])
    how = f"crashed with {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
    return Outcome(Ending.CRASHED, f"the process {how}\n{last}")


def _answered(text: str) -> Outcome | None:
    """What the worker says; None where it says nothing, or something else than an object."""
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    if not isinstance(answer, dict):
        return None
    if "error" in answer:
        return Outcome(Ending(answer.get("lacking", Ending.REFUSED)), str(answer["error"]))
    return Outcome(Ending.ANSWERED, answer=answer)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _end(process: subprocess.Popen[str], errors: IO[str]) -> None:
    for stream in (process.stdin, process.stdout):
        try:
            if stream is not None:
                stream.close()
        except OSError:  # it died with a request in the pipe
            pass
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    errors.close()
