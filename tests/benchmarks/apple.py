"""Exports for Apple devices: package sizes, conversion times, and how the executors agree. Run by hand.

``apple.py [--target NAME] [--precisions P ...] [--work DIR] [--checkpoint FILE] [--export "MORE OPTIONS"]``: one
``vggt-edge export`` per precision, each a process of its own, and two tables in Markdown out of their bundles. With the
random checkpoint of ``vggt-edge bench --write-random-checkpoint`` sizes, times and memory are those of VGGT-1B.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Run, format_seconds, format_size, number, run_measured, table

PRECISIONS = ("fp16", "w8a16", "w8a8", "p6a16", "p4a16", "w4a16", "mixed")
# Subject, and what it is compared with.
PAIRS = (
    ("onnxruntime", "simulation"),
    ("coreml-fp32", "simulation"),
    ("coreml-fp16", "simulation"),
    ("coreai", "simulation"),
    ("coreai", "coreml-fp32"),
)


@dataclass(frozen=True)
class Exported:
    """One export: how its process went, and its bundle."""

    precision: str
    run: Run
    bundle: Path

    def json(self, name: str) -> Any:
        return json.loads((self.bundle / name).read_text())

    def figure(self, subject: str, output: str, metric: str, against: str) -> float | None:
        wanted = (subject, output, metric, against)
        rows = self.json("validation.json")["rows"]
        keys = ("subject", "output", "metric", "against")
        return next((row["value"] for row in rows if tuple(row[key] for key in keys) == wanted), None)

    def worst_relative(self, subject: str, against: str) -> float | None:
        """The largest relative L2 error of any output, from its SQNR."""
        rows = self.json("validation.json")["rows"]
        found = [
            row["value"]
            for row in rows
            if (row["subject"], row["metric"], row["against"]) == (subject, "sqnr_db", against)
        ]
        return max(10 ** (-value / 20) for value in found) if found else None

    def seconds(self, backend: str) -> float | None:
        """Of lowering: conversion, reading back and auditing."""
        timings = {one["step"]: one["seconds"] for one in self.json("measured.json")["timings"]}
        return next((taken for step, taken in timings.items() if step.endswith(f"({backend})")), None)

    @property
    def package_bytes(self) -> int:
        package = self.bundle / "coreml" / "vggt.mlpackage"
        return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())

    @property
    def findings(self) -> str:
        checks = self.json("lowered-coreml.json")["checks"]
        figures = next(one["figures"] for one in checks if one["name"] == "Neural Engine audit")
        return " / ".join(str(figures.get(kind, "-")) for kind in ("errors", "warnings", "notes"))


def export(arguments: argparse.Namespace, precision: str) -> Exported:
    bundle = arguments.work / f"out-{precision}"
    shutil.rmtree(bundle, ignore_errors=True)
    command = [str(Path(sys.executable).with_name("vggt-edge")), "export", "--target", arguments.target]
    command += ["--precision", precision, *shlex.split(arguments.export), "-o", str(bundle)]
    if arguments.checkpoint is not None:
        command += ["--model", str(arguments.checkpoint)]
    print("$", shlex.join(command), file=sys.stderr)
    return Exported(precision, run_measured(command, arguments.work / f"{precision}.log"), bundle)


def sizes(done: Sequence[Exported], fp32_bytes: int) -> Iterator[str]:
    header = ("precision", "package", "FP32 / package", "Core ML", "Core AI", "whole export", "peak memory",
              "AUC@30 drop", "audit: errors / warnings / notes", "ended")  # fmt: skip
    rows = [
        (
            one.precision,
            format_size(one.package_bytes),
            f"{fp32_bytes / one.package_bytes:.2f}",
            format_seconds(one.seconds("coreml")),
            format_seconds(one.seconds("coreai")),
            format_seconds(one.run.wall_s),
            format_size(one.run.peak_bytes),
            number(one.figure("coreml-fp16", "pose_enc", "auc30_drop", "ground_truth"), ".2f"),
            one.findings,
            one.run.described(),
        )
        for one in done
    ]
    return table(header, rows)


def agreement(done: Sequence[Exported]) -> Iterator[str]:
    header = ("precision", *(f"{subject} against {against}" for subject, against in PAIRS))
    rows = [(one.precision, *(number(one.worst_relative(*pair), ".1e") for pair in PAIRS)) for one in done]
    return table(header, rows)


def parameters_bytes(bundle: Path) -> int:
    """FP32 bytes of the model that a bundle was made from."""
    from vggt_edge.exporter.models.registry import open_model

    model = next(
        line.partition("= ")[2].strip('"')
        for line in (bundle / "resolved.toml").read_text().splitlines()
        if line.startswith("model = ")
    )
    return 4 * sum(tensor.numel() for tensor in open_model(model).tensors.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="ios-ar")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--work", type=Path, default=Path("runs/apple"))
    parser.add_argument("--checkpoint", type=Path, help="another model than vggt-mini")
    parser.add_argument("--export", default="", help="more options of `vggt-edge export`, in one string")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    done = [export(arguments, precision) for precision in arguments.precisions]
    made = [one for one in done if one.bundle.is_dir()]
    for one in done:
        if one not in made:
            print(f"{one.precision}: {one.run.described()}, no bundle; see {arguments.work}", file=sys.stderr)
    if made:
        lines = (*sizes(made, parameters_bytes(made[0].bundle)), "", *agreement(made))
        print("\n".join(lines))


if __name__ == "__main__":
    main()
