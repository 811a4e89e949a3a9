"""Running a program in a process of its own: wall time, peak memory of its tree, a ceiling on it; figures in tables."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_S = 0.2
_SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_SIZE = re.compile(r"([\d.]+)\s*([KMG]I?)?B?", re.IGNORECASE)
# Called at each sample with seconds since the start; True ends the program with SIGKILL.
Watch = Callable[[float], bool]


@dataclass(frozen=True)
class Run:
    """What one program took.

    peak_bytes: the largest of the resident sizes of its process tree, added up every 0.2 s (pages that processes share
    count more than once). Not ``ru_maxrss``: a child's starts at what its parent held.
    own_peak_bytes, children_peak_bytes: the same samples, of the program alone and of all below it.
    ended: ``finished``, ``killed at the ceiling``, ``killed on purpose`` or ``timed out``.
    """

    returncode: int
    wall_s: float
    peak_bytes: int
    own_peak_bytes: int
    children_peak_bytes: int
    ended: str

    @property
    def finished(self) -> bool:
        return self.ended == "finished"

    def described(self) -> str:
        """``finished with 0``, or ``killed at 20.1 GB after 300 s``."""
        if self.finished:
            return f"finished with {self.returncode}"
        if self.ended == "killed at the ceiling":
            return f"killed at {self.peak_bytes / 1e9:.1f} GB after {self.wall_s:.0f} s"
        return f"{self.ended} after {self.wall_s:.0f} s"


def run_measured(
    command: Sequence[str],
    log: Path,
    *,
    stdout: Path | None = None,
    ceiling_bytes: int | None = None,
    timeout_s: float | None = None,
    env: Mapping[str, str] | None = None,
    watch: Watch = lambda elapsed_s: False,
) -> Run:
    """Run ``command``; its stderr, and its stdout unless that is given a file of its own, go to ``log``.

    env: added to this process's environment. Whatever ends the program early ends its whole tree.
    """
    with log.open("wb") as stream, contextlib.ExitStack() as stack:
        out = stack.enter_context(stdout.open("wb")) if stdout is not None else stream
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=stream,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            return _follow(process, start, ceiling_bytes, timeout_s, watch)
        except BaseException:  # Ctrl-C must not leave gigabytes behind
            _kill_tree(process.pid)
            process.wait()
            raise


def _follow(
    process: subprocess.Popen[bytes], start: float, ceiling_bytes: int | None, timeout_s: float | None, watch: Watch
) -> Run:
    peak, own_peak, children_peak, ended = 0, 0, 0, "finished"
    while True:
        gone, status = os.waitpid(process.pid, os.WNOHANG)
        elapsed_s = time.perf_counter() - start
        if gone:
            process.returncode = os.waitstatus_to_exitcode(status)
            return Run(process.returncode, elapsed_s, peak, own_peak, children_peak, ended)
        own, children = resident_bytes(process.pid)
        peak, own_peak, children_peak = max(peak, own + children), max(own_peak, own), max(children_peak, children)
        if ended == "finished":
            ended = _reason_to_end(peak, elapsed_s, ceiling_bytes, timeout_s, watch)
            if ended != "finished":
                _kill_tree(process.pid)
        time.sleep(SAMPLE_S)


def _reason_to_end(
    peak: int, elapsed_s: float, ceiling_bytes: int | None, timeout_s: float | None, watch: Watch
) -> str:
    if ceiling_bytes is not None and peak > ceiling_bytes:
        return "killed at the ceiling"
    if timeout_s is not None and elapsed_s > timeout_s:
        return "timed out"
    return "killed on purpose" if watch(elapsed_s) else "finished"


def resident_bytes(pid: int) -> tuple[int, int]:
    """Of a process, and of all below it; 0 for those that are gone."""
    own = children = 0
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):
            resident = process.memory_info().rss
            own, children = (resident, children) if process.pid == pid else (own, children + resident)
    return own, children


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _kill_tree(pid: int) -> None:
    """SIGKILL to the program first, so that it cannot start another child."""
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            process.send_signal(signal.SIGKILL)


def graph_arguments(description: str | None) -> argparse.Namespace:
    """What the programs that write an FP32 graph are told; ours and the naive one, so the same."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=518)
    parser.add_argument("--onnx", type=Path, required=True)
    return parser.parse_args()


def parse_size(text: str) -> int:
    """``20GB`` (powers of ten), ``20GiB`` (of two) or plain bytes; ``ValueError`` for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 20GB")
    return int(float(match[1]) * _SIZES[(match[2] or "").upper()])


def format_size(size: float | None) -> str:
    """``6.61 GB``, ``412 MB``; a dash for what is unknown."""
    if size is None:
        return "-"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB" if size >= 1e5 else f"{size:.0f} B"


def format_seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """In Markdown, line by line."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
