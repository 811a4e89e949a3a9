"""An export onto a disk that fills while it runs, at points all over the line.

    python tests/benchmarks/full_disk.py --work DIR

Needs the right to mount: output, work folder and temporary files lie on a tmpfs of 48 MB. As soon as the export has
checked the disk by itself, a file takes all of it but some room. The export has to end with exit code 7, without a
traceback and without an output. Then that file goes, and ``--resume`` has to make the bundle of an undisturbed export
and leave nothing else. The room grows from none to what an undisturbed export takes, in ``--points`` equal parts.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kill_anywhere import FINISHED, SMALL, export_command

from vggt_edge.exporter.models.random_weights import write_random_checkpoint

SIZE = "48M"
CHECKED = "needs about"  # how the line begins in which an export says what it found


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@dataclass
class Bench:
    """The disk, the manifest of an undisturbed export, and what came of the others.

    last_step: by number of exports that ended with 7, the step that they were in.
    """

    place: Path
    model: Path
    target: str
    manifest: bytes = b""
    last_step: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.place / "out"

    @property
    def filler(self) -> Path:
        return self.place / "filler"

    def export(self, room: int | None, *more: str) -> tuple[int, str, int]:
        """Exit code, stderr, and the most bytes that lay on the disk. room: None leaves the disk as it is."""
        command = export_command(self.target, self.model, self.out, *more)
        log = self.place.with_suffix(".log")
        environment = {**os.environ, "TMPDIR": str(self.place)}
        with log.open("wb") as file:
            job = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
            most = 0
            while job.poll() is None:
                most = max(most, shutil.disk_usage(self.place).used)
                if room is not None and not self.filler.exists() and CHECKED in log.read_text():
                    self.fill(room)
                time.sleep(0.01)
        return job.returncode, log.read_text(), most

    def fill(self, room: int) -> None:
        with self.filler.open("wb") as file:
            if (size := shutil.disk_usage(self.place).free - room) > 0:
                os.posix_fallocate(file.fileno(), 0, size)

    def check(self, room: int) -> str:
        """Disturb an export, resume it, and say in a line what came of both."""
        before = len(self.faults)
        code, said, _ = self.export(room)
        what = f"{room / 1e6:.2f} MB of room"
        steps = re.findall(r"^(.+?)(?: \(.*\))? \.\.\.$", said, re.MULTILINE)
        step = steps[-1] if steps else "start"
        if code == 7:
            self.last_step[step] += 1
        elif code not in FINISHED:
            self.faults.append(f"{what}: exit code {code} in {step}: {said[-800:]}")
        if "Traceback" in said:
            self.faults.append(f"{what}: a traceback: {said[-2000:]}")
        if code == 7 and self.out.exists():
            self.faults.append(f"{what}: an output")
        self.faults += [f"{what}: left behind: {name}" for name in self.left() - {"out", "out.work"}]
        self.filler.unlink(missing_ok=True)
        code, said, _ = self.export(None, "--resume")
        if code not in FINISHED:
            self.faults.append(f"{what}: the resumed run ended with {code}: {said[-800:]}")
        elif (self.out / "manifest.json").read_bytes() != self.manifest:
            self.faults.append(f"{what}: another bundle than that of an undisturbed export")
        self.faults += [f"{what}: left behind after --resume: {name}" for name in self.left() - {"out"}]
        self.afresh()
        return "\n".join((f"{what}: {code if step == 'start' else step}", *self.faults[before:]))

    def left(self) -> set[str]:
        return {path.name for path in self.place.iterdir()} - {self.filler.name}

    def afresh(self) -> None:
        for path in self.place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--target", default="jetson-orin")
    parser.add_argument("--work", type=Path, required=True, help="a folder to make, and to mount the disk in")
    arguments = parser.parse_args()
    work: Path = arguments.work.absolute()
    bench = Bench(work / "disk", work / "small.safetensors", arguments.target)
    work.mkdir(parents=True, exist_ok=True)
    write_random_checkpoint(bench.model, SMALL, 0)
    with small_disk(bench.place):
        code, said, most = bench.export(None)
        if code not in FINISHED:
            print(said)
            return 1
        bench.manifest = (bench.out / "manifest.json").read_bytes()
        bench.afresh()
        print(f"an undisturbed export takes {most / 1e6:.1f} MB", flush=True)
        for point in range(arguments.points):
            print(bench.check(round(most * point / arguments.points)), flush=True)
    print(", ".join(f"{step}: {count}" for step, count in bench.last_step.items()))
    print("\n".join(bench.faults) or "no fault")
    return 1 if bench.faults else 0


if __name__ == "__main__":
    sys.exit(main())
