"""What the kernels of phones compute: the golden tensors of Android bundles on emulated processors. Run by hand.

``arm.py BUNDLE ...`` replays the golden input of each bundle here and by ExecuTorch's build for 64-bit ARM, with the
kernels for dot products, for i8mm and for SME, and prints a table in Markdown: the least SQNR of all outputs against
the simulation, and that of the poses. ``--time`` adds a table with the seconds of each run: of the emulator, so they
say what a test costs and nothing about a phone.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import table
from safetensors.numpy import load_file

from vggt_edge.runtimes.executorch import BACKEND

TITLES = {
    "executorch": "x86",
    "executorch-arm-dotprod": "dot products",
    "executorch-arm-i8mm": "i8mm",
    "executorch-arm-sme": "SME",
}


@dataclass(frozen=True)
class Replayed:
    """One run: SQNR in dB by output, and its seconds."""

    decibels: Mapping[str, float]
    seconds: float

    @property
    def cell(self) -> str:
        pose = self.decibels.get("pose_enc")
        return f"{min(self.decibels.values()):.1f}" + ("" if pose is None else f" (pose {pose:.1f})")


def replayed(bundle: Path, subject: str) -> Replayed:
    golden = load_file(bundle / "executorch" / "golden.safetensors")
    (executor,) = (one for one in BACKEND.executors() if one.subject == subject)
    began = time.perf_counter()
    outputs = executor.open(bundle).run({"images": golden["input/images"]})
    seconds = time.perf_counter() - began
    return Replayed({name: sqnr_db(array, golden[f"simulation/{name}"]) for name, array in outputs.items()}, seconds)


def sqnr_db(values: np.ndarray, reference: np.ndarray) -> float:
    noise = float(np.linalg.norm(values - reference))
    return math.inf if noise == 0 else 20 * math.log10(float(np.linalg.norm(reference)) / noise)


def precision(bundle: Path) -> str:
    """The scheme of all blocks, or their number by scheme."""
    schemes = [block["scheme"] for block in json.loads((bundle / "executorch" / "kit.json").read_text())["blocks"]]
    counts = {scheme: schemes.count(scheme) for scheme in dict.fromkeys(schemes)}
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{count} {name}" for name, count in counts.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--time", action="store_true", help="the seconds of each run, too")
    given = parser.parse_args()
    for executor in BACKEND.executors():
        print(f"- {TITLES[executor.subject]}: {executor.how}")
    rows = {bundle: {subject: replayed(bundle, subject) for subject in TITLES} for bundle in given.bundles}

    def show(cell: Callable[[Replayed], str]) -> None:
        lines = [(precision(bundle), *(cell(row[subject]) for subject in TITLES)) for bundle, row in rows.items()]
        print("", *table(("blocks", *TITLES.values()), lines), sep="\n")

    show(lambda one: one.cell)
    if given.time:
        show(lambda one: f"{one.seconds:.1f} s")


if __name__ == "__main__":
    main()
