"""Measures the memory of tuning against the number of scenes, and against what the estimate says before it.

``tuning_memory.py [--scenes 4 16 64]`` exports vggt-mini for this machine, once for each number of scenes, and prints
a table. ``--model`` and ``--effort`` are those of the command.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import table

COMMAND = (sys.executable, "-m", "vggt_edge.exporter.cli", "export", "--target", "host-cpu", "--precision", "w8a8")
ESTIMATE = re.compile(r"# tune: .*, ([0-9.]+) (MB|GB) memory")
PEAK = re.compile(r"tune: done in .*, peak memory ([0-9.]+) (MB|GB)")
MEGABYTES = {"MB": 1.0, "GB": 1000.0}
HEADER = ("calibration scenes", "estimated, MB", "measured, MB", "measured / estimated")


def megabytes(pattern: re.Pattern[str], text: str) -> float:
    found = pattern.findall(text)
    if not found:
        raise SystemExit(f"the export did not say its memory:\n{text[-2000:]}")
    value, unit = found[-1]
    return float(value) * MEGABYTES[unit]


def ran(*arguments: str) -> str:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def row(scenes: int, given: list[str]) -> tuple[str, ...]:
    """The peak is that of the process up to the end of tuning, whose steps before it need less."""
    arguments = ("--calibration-scenes", str(scenes), "--validation-scenes", "1", "--sensitivity", "probe", *given)
    estimated = megabytes(ESTIMATE, ran(*arguments, "--dry-run"))
    with tempfile.TemporaryDirectory() as scratch:
        measured = megabytes(PEAK, ran(*arguments, "--output", str(Path(scratch) / "bundle")))
    return str(scenes), f"{estimated:.0f}", f"{measured:.0f}", f"{measured / estimated:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, nargs="+", default=[4, 16, 64], help="numbers of calibration scenes")
    parser.add_argument("--model", default="vggt-mini", help="as in the command")
    parser.add_argument("--effort", default="balanced", choices=("fast", "balanced", "max"), help="as in the command")
    given = parser.parse_args()
    rows = [row(scenes, ["--model", given.model, "--effort", given.effort]) for scenes in given.scenes]
    print("\n".join(table(HEADER, rows)))


if __name__ == "__main__":
    main()
