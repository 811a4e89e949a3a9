"""What the worker processes of native runtimes have in common (``runtimes/common/process.py`` starts them).

Imports nothing heavy. A worker answers with lines of JSON, each an object; ``{"error": ...}`` says that the toolchain
refuses.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

from vggt_edge.devices.errors import lacking

Answer = dict[str, Any]
PARENT = "VGGT_EDGE_PARENT"  # variable of the environment: the process that a worker must not outlive
_PR_SET_PDEATHSIG = 1


def answer_once(perform: Callable[[list[str], TextIO], Answer]) -> NoReturn:
    """The whole of a worker that answers once.

    perform: gets the arguments and the stream for answers, so that it may ``finish`` where it is.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, and the parent ends its workers
    answers = quiet_stdout()
    try:
        answer = perform(sys.argv[1:], answers)
    except Exception as error:  # toolchains raise many kinds, and all of them mean that they refuse
        answer = _refusal(error)
    finish(answers, answer)


def serve(start: Callable[[list[str]], tuple[Answer, Callable[[Answer], Answer]]]) -> NoReturn:
    """The whole of a worker that answers each line of its stdin.

    start: gets the arguments; gives the first answer, and what makes an answer of a request.
    """
    end_with_parent()
    answers = quiet_stdout()
    try:
        first, handle = start(sys.argv[1:])
        _say(answers, first)
        for line in sys.stdin:
            _say(answers, handle(json.loads(line)))
    except Exception as error:
        finish(answers, _refusal(error))
    os._exit(0)


def finish(answers: TextIO, answer: Answer) -> NoReturn:
    """Answer, and end without taking native code down: that can crash, and everything has been said."""
    _say(answers, answer)
    os._exit(0)


def _say(answers: TextIO, answer: Answer) -> None:
    print(json.dumps(answer, sort_keys=True), file=answers, flush=True)


def _refusal(error: Exception) -> Answer:
    lacks = {"lacking": lack} if (lack := lacking(error)) else {}
    return lacks | {"error": f"{type(error).__name__}: {str(error).strip() or 'without a message'}"}


def peak_memory_bytes() -> int:
    """The most memory that this process had, since ``forget_peak_memory`` where that works.

    From /proc, since a child's ``ru_maxrss`` starts at what its parent had when it started it.
    """
    return _status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """What this process holds in memory now; 0 where the system does not tell."""
    return _status_bytes("VmRSS")


def forget_peak_memory() -> None:
    """Let the peak begin anew at what is held now. Linux only; elsewhere it stays."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def end_with_parent() -> None:
    """End this process as soon as its parent has ended, even if the parent was killed outright (Linux only).

    Native code may run for minutes without looking at its pipes, so the kernel has to do it.
    """
    if not sys.platform.startswith("linux"):
        return
    # Told by the parent: asked of the kernel here, it would be another where the parent ended as this process started.
    parent = int(os.environ.pop(PARENT, os.getppid()))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def quiet_stdout() -> TextIO:
    """The stream for answers; everything else that is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    return answers
