"""What the worker processes of native runtimes have in common; imports nothing heavy."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import TextIO

_PR_SET_PDEATHSIG = 1


def peak_memory_bytes() -> int:
    """The most memory that this process had.

    From /proc, since a child's ``ru_maxrss`` starts at what its parent had when it started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def end_with_parent() -> None:
    """End this process as soon as its parent has ended, even if the parent was killed outright (Linux only).

    Native code may run for minutes without looking at its pipes, so the kernel has to do it.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def quiet_stdout() -> TextIO:
    """The stream for answers; everything else that is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    return answers
