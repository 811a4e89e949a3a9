"""An export that is ended at random moments by SIGKILL, SIGTERM and SIGINT, and goes on with ``--resume``.

    python tests/benchmarks/kill_anywhere.py --moments 100 --work DIR

The model is small and random; a moment is drawn from the whole length of the line, start of Python included. The signal
goes to the command alone, as a user or a supervisor sends it. After it no child may be left, and no half-written
output. After ``--kills`` of them in a row the export is left to finish: its manifest, which holds the sha256 of every
file, has to be that of an uninterrupted export, and nothing else may lie beside it or among the temporary files.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from vggt_edge.devices.errors import VggtEdgeError
from vggt_edge.exporter.bundle import verify_bundle
from vggt_edge.exporter.models.config import VGGTConfig
from vggt_edge.exporter.models.random_weights import write_random_checkpoint

SMALL = VGGTConfig(
    name="small", embed_dim=64, dino_depth=1, depth=4, heads=2, position_grid=2, taps=(0, 1, 2, 3),
    camera_trunk_depth=1, camera_heads=4, dpt_features=16, dpt_channels=(8, 16, 24, 24), dpt_hidden=8,
)  # fmt: skip
SIGNALS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
FINISHED = (0, 4)  # 4: random weights pass no accuracy gate, and the bundle is there all the same
ENDS_WITHIN_S = 30.0


def export_command(target: str, model: Path, out: Path, *more: str) -> list[str]:
    """An export that goes through every step and is as cheap as it can be."""
    small = ("--frames", "2", "--resolution", "28", "--calibration-scenes", "2", "--validation-scenes", "1")
    cheap = ("--effort", "fast", "--sensitivity", "probe", "--outputs", "camera,depth")
    chosen = ("--target", target, "--model", str(model), "-o", str(out))
    return [sys.executable, "-m", "vggt_edge.exporter.cli", "export", *chosen, *small, *cheap, *more]


@dataclass
class Bench:
    """The folder of the exports, the digests of an uninterrupted export, and the faults found so far."""

    work: Path
    target: str
    manifest: bytes = b""
    whole_s: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def place(self) -> Path:
        return self.work / "place"

    @property
    def log(self) -> Path:
        return self.work / "log"

    @property
    def temporary(self) -> Path:
        return self.work / "temporary"

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                export_command(self.target, self.work / "small.safetensors", self.place / "out", *more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self.temporary)},
                start_new_session=True,
            )

    def afresh(self) -> None:
        for folder in (self.place, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)


def of_session(session: int) -> list[psutil.Process]:
    """Processes that still run in the session of a command."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess, PermissionError):
            continue
    return found


def kill_once(bench: Bench, after_s: float, number: signal.Signals, *more: str) -> None:
    """Start, wait, send the signal, and look at what is left."""
    what = f"{number.name} after {after_s:.2f} s{' of a resumed run' if more else ''}"
    logged = bench.log.stat().st_size
    process = bench.start(*more)
    try:
        code = process.wait(after_s)
        bench.ended["over before the signal"] += 1
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        try:
            code = process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            bench.faults.append(f"{what}: still there after {ENDS_WITHIN_S:g} s")
            process.kill()
            code = process.wait()
        bench.ended[number.name] += 1
    # As long as Python starts, the kernel ends the process; a shell reports 130 and 143 then, too.
    starting = b"load model and scenes" not in bench.log.read_bytes()[logged:]
    if code not in (SIGNALS[number], *FINISHED) and not (starting and code == -number):
        bench.faults.append(f"{what}: exit code {code}")
    orphans = left_after(process.pid, seconds=10.0)
    bench.faults += [f"{what}: {one.pid} is left: {one.name()}" for one in orphans]
    for one in orphans:
        one.kill()
    if (bench.place / "out").exists():
        try:
            verify_bundle(bench.place / "out")
        except VggtEdgeError as error:
            bench.faults.append(f"{what}: a bundle that is not whole: {error}")


def left_after(session: int, seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while (left := of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def finish(bench: Bench, kills: Sequence[str], *more: str) -> None:
    """Let the export end, and compare."""
    code = bench.start(*more).wait()
    if code not in FINISHED:
        bench.faults.append(f"{kills}: the resumed run ended with {code}")
        return
    if bench.manifest and (bench.place / "out" / "manifest.json").read_bytes() != bench.manifest:
        bench.faults.append(f"{kills}: another bundle than that of an uninterrupted export")
    verify_bundle(bench.place / "out")
    for folder, expected in ((bench.place, ["out"]), (bench.temporary, [])):
        left = sorted(path.name for path in folder.iterdir())
        if left != expected:
            bench.faults.append(f"{kills}: left behind: {left}")


def moments(bench: Bench, count: int, kills: int, seed: int) -> Iterator[str]:
    """``count`` moments, ``kills`` in each export; one line for each export."""
    generator = random.Random(seed)
    done = 0
    while done < count:
        bench.afresh()
        row: list[str] = []
        for index in range(min(kills, count - done)):
            number = generator.choice(tuple(SIGNALS))
            after_s = generator.uniform(0, bench.whole_s)
            row.append(f"{number.name} after {after_s:.1f} s")
            kill_once(bench, after_s, number, *(("--resume",) if index else ()))
        finish(bench, row, "--resume")
        done += len(row)
        yield "\n".join((f"{done} of {count} moments, {len(bench.faults)} faults: {', '.join(row)}", *bench.faults))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--kills", type=int, default=4, help="in each export, before it may finish")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default="jetson-orin")
    parser.add_argument("--work", type=Path, required=True, help="a folder to make and to fill")
    arguments = parser.parse_args()
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bench = Bench(arguments.work.absolute(), arguments.target)
    bench.work.mkdir(parents=True, exist_ok=True)
    if not (bench.work / "small.safetensors").exists():
        write_random_checkpoint(bench.work / "small.safetensors", SMALL, 0)
    bench.afresh()
    began = time.monotonic()
    finish(bench, ["uninterrupted"])
    if bench.faults:
        print("\n".join(bench.faults))
        return 1
    bench.whole_s = time.monotonic() - began
    bench.manifest = (bench.place / "out" / "manifest.json").read_bytes()
    print(f"an uninterrupted export takes {bench.whole_s:.1f} s", flush=True)
    for line in moments(bench, arguments.moments, arguments.kills, arguments.seed):
        print(line, flush=True)
    print(", ".join(f"{how}: {count}" for how, count in bench.ended.items()))
    print("\n".join(bench.faults) or "no fault")
    return 1 if bench.faults else 0


if __name__ == "__main__":
    sys.exit(main())
