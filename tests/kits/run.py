#!/usr/bin/env python3
"""Compiles and runs the device kits on this machine: ``make test-kits``, or ``python tests/kits/run.py swift``.

Every folder beside this file that holds a program ``run`` is one kit. The program builds the whole kit, with warnings
as errors, and runs its tests. Its exit code is the verdict: 0 passed, 77 skipped, anything else failed. A program that
skips says on its last line what to install.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SKIPPED = 77
# Of a failed kit, what is shown again at the end: its output may be thousands of lines up, among those of another kit.
TELLING, SHOWN_LINES = re.compile(r"error|fail|warning|exception|died", re.IGNORECASE), 30
VERDICTS = {0: "passed", SKIPPED: "skipped"}


@dataclass(frozen=True)
class Outcome:
    """The result of a kit's tests.

    - seconds: by the clock.
    - processor_seconds: of all cores together; by it, runs on a busy machine can be compared.
    - reason: the last line that a skipped kit printed.
    - trouble: the last lines of a failed kit that speak of errors, and its very last ones.
    """

    kit: str
    verdict: str
    seconds: float
    processor_seconds: float
    reason: str
    trouble: tuple[str, ...] = ()


def kits(folder: Path) -> dict[str, Path]:
    """The program of each kit by its name."""
    return {program.parent.name: program for program in sorted(folder.glob("*/run"))}


def run(kit: str, program: Path) -> Outcome:
    """Run one kit and show its output as it comes."""
    start, lines = time.perf_counter(), []
    process = subprocess.Popen(
        [str(program)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            print(f"{kit}: {line}", end="", flush=True)
            lines += [line.rstrip()] if line.strip() else []
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    verdict = VERDICTS.get(process.returncode, "failed")
    reason = lines[-1].strip() if verdict == "skipped" and lines else ""
    trouble = _trouble(lines) if verdict == "failed" else ()
    return Outcome(kit, verdict, time.perf_counter() - start, usage.ru_utime + usage.ru_stime, reason, trouble)


def _trouble(lines: Sequence[str]) -> tuple[str, ...]:
    telling = [line for line in lines[:-SHOWN_LINES] if TELLING.search(line)]
    return (*telling[-SHOWN_LINES:], *lines[-SHOWN_LINES:])


def main(names: Sequence[str], folder: Path = Path(__file__).parent) -> int:
    """Run the named kits, or all, at the same time; 1 if one failed, 2 for a kit that does not exist."""
    known = kits(folder)
    unknown = sorted(set(names) - set(known))
    if unknown or not known:
        print(f"no kit {', '.join(unknown)}; there are: {', '.join(known) or 'none'}", file=sys.stderr)
        return 2
    wanted = names or list(known)
    with ThreadPoolExecutor(len(wanted)) as pool:
        outcomes = list(pool.map(lambda kit: run(kit, known[kit]), wanted))
    for outcome in outcomes:
        for line in outcome.trouble:
            print(f"{outcome.kit}: {line}")
    for outcome in outcomes:
        times = f"{outcome.seconds:6.1f} s, {outcome.processor_seconds:6.1f} s of the processor"
        print(f"{outcome.kit:8} {outcome.verdict:8} {times}  {outcome.reason}")
    return int(any(outcome.verdict == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
