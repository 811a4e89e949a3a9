"""Exports for Android: sizes, lowering times, and latency against the FP32 program. Run by hand.

``android.py [--target NAME] [--precisions P ...] [--work DIR] [--checkpoint FILE] [--export "MORE OPTIONS"]``: one
``vggt-edge export`` per precision, each a process of its own; then all programs run in turns, each in a worker of its
own, and two tables in Markdown come out. Latency is of this CPU: its ratios say something about kernels, nothing about
a phone. For a target of the Vulkan backend (``--target android-gpu``) one table comes out: sizes, times, and what the
interpreter of Vulkan graphs made of each program; nothing here times a GPU. With the random checkpoint of ``vggt-edge
bench --write-random-checkpoint`` sizes, times and memory are those of VGGT-1B.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import Run, format_seconds, format_size, number, run_measured, table

from vggt_edge.devices.profile import load_profile

PRECISIONS = ("fp32", "w8a8d", "w4a8d", "mixed")
GPU_PRECISIONS = ("fp16", "w4a16", "mixed")
LOWERING, RUNNING, GPU_LOWERING = "ExecuTorch lowering", "ExecuTorch run", "Vulkan lowering"
OUTPUTS = ("pose_enc", "depth", "depth_conf", "points", "points_conf")


@dataclass(frozen=True)
class Exported:
    """One export: how its process went, and its bundle."""

    precision: str
    run: Run
    bundle: Path
    backend: str = "executorch"

    def check(self, name: str) -> dict[str, Any]:
        lowered = json.loads((self.bundle / f"lowered-{self.backend}.json").read_text())
        measured = json.loads((self.bundle / "measured.json").read_text())["checks"].get(self.backend, {})
        figures: dict[str, Any] = next(one["figures"] for one in lowered["checks"] if one["name"] == name)
        return figures | measured.get(name, {})

    def figure(self, output: str, metric: str, against: str, subject: str = "executorch") -> float | None:
        rows = json.loads((self.bundle / "validation.json").read_text())["rows"]
        wanted = (subject, output, metric, against)
        keys = ("subject", "output", "metric", "against")
        return next((row["value"] for row in rows if tuple(row[key] for key in keys) == wanted), None)

    @property
    def stored_bytes(self) -> int:
        """Program and weights."""
        figures = self.check(LOWERING)
        return int(figures["program_bytes"] + figures["weights_bytes"])


def export(arguments: argparse.Namespace, precision: str) -> Exported:
    bundle = arguments.work / f"out-{precision}"
    shutil.rmtree(bundle, ignore_errors=True)
    command = [str(Path(sys.executable).with_name("vggt-edge")), "export", "--target", arguments.target]
    command += ["--precision", precision, *shlex.split(arguments.export), "-o", str(bundle)]
    if arguments.checkpoint is not None:
        command += ["--model", str(arguments.checkpoint)]
    print("$", shlex.join(command), file=sys.stderr)
    run = run_measured(command, arguments.work / f"{precision}.log")
    return Exported(precision, run, bundle, load_profile(arguments.target).runtime)


def latencies_ms(bundles: Mapping[str, Path], rounds: int) -> dict[str, list[float]]:
    """Of each program, once per round, in turns: what disturbs one round disturbs all of them."""
    from vggt_edge.runtimes.executorch.session import ExecuTorchSession

    sessions = {name: ExecuTorchSession(bundle / "executorch") for name, bundle in bundles.items()}
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    random = np.random.default_rng(0)
    inputs = {
        name: random.random(shape, np.float32) for name, shape in next(iter(sessions.values())).input_shapes.items()
    }
    for session in sessions.values():
        session.measure(inputs)
    for _ in range(rounds):
        for name, session in sessions.items():
            taken[name].append(1e3 * session.measure(inputs).seconds[0])
    return taken


def sizes(done: Sequence[Exported]) -> Iterator[str]:
    header = ("precision", "program + weights", "FP32 / this", "lowering", "kinds of delegates", "undelegated",
              "whole export", "peak memory", "memory of a run", "AUC@30 drop", "least SQNR against the simulation",
              "ended")  # fmt: skip
    fp32 = next((one.stored_bytes for one in done if one.precision == "fp32"), None)
    rows = []
    for one in done:
        lowering, running = one.check(LOWERING), one.check(RUNNING)
        parity = [value for name in OUTPUTS if (value := one.figure(name, "sqnr_db", "simulation")) is not None]
        rows.append(
            (
                one.precision,
                format_size(one.stored_bytes),
                "-" if fp32 is None else f"{fp32 / one.stored_bytes:.2f}",
                format_seconds(lowering["seconds"]),
                f"{lowering['kinds']} of {lowering['delegates']}",
                str(lowering["undelegated_operations"]),
                format_seconds(one.run.wall_s),
                format_size(one.run.peak_bytes),
                format_size(running["peak_memory_bytes"]),
                number(one.figure("pose_enc", "auc30_drop", "ground_truth"), ".2f"),
                f"{min(parity):.1f} dB" if parity else "-",
                one.run.described(),
            )
        )
    return table(header, rows)


def gpu_sizes(done: Sequence[Exported]) -> Iterator[str]:
    """SQNR in dB of the saved program, interpreted, against the simulation: in FP32 / with FP16 between operations."""
    header = ("precision", "program", "operations", "packed linears", "undelegated", "lowering", "whole export",
              "peak memory", *OUTPUTS, "ended")  # fmt: skip
    rows = []
    for one in done:
        lowering = one.check(GPU_LOWERING)
        parity = (
            " / ".join(
                number(one.figure(name, "sqnr_db", "simulation", f"vulkan-{kind}"), ".1f") for kind in ("fp32", "fp16")
            )
            for name in OUTPUTS
        )
        rows.append(
            (
                one.precision,
                format_size(lowering["program_bytes"]),
                str(lowering["delegated_operations"]),
                str(lowering["packed_linears"]),
                str(lowering["undelegated_operations"]),
                format_seconds(lowering["seconds"]),
                format_seconds(one.run.wall_s),
                format_size(one.run.peak_bytes),
                *parity,
                one.run.described(),
            )
        )
    return table(header, rows)


def latency(taken: dict[str, list[float]]) -> Iterator[str]:
    header = ("precision", "median", "least", "median / FP32's")
    fp32 = taken.get("fp32")
    rows = [
        (
            name,
            f"{statistics.median(values):.1f} ms",
            f"{min(values):.1f} ms",
            "-" if fp32 is None else f"{statistics.median(values) / statistics.median(fp32):.2f}",
        )
        for name, values in taken.items()
    ]
    return table(header, rows)


def named(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    return name, Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="android")
    parser.add_argument("--precisions", nargs="+", choices=sorted({*PRECISIONS, *GPU_PRECISIONS}))
    parser.add_argument("--work", type=Path, default=Path("runs/android"))
    parser.add_argument("--checkpoint", type=Path, help="another model than vggt-mini")
    parser.add_argument("--export", default="", help="more options of `vggt-edge export`, in one string")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each program")
    parser.add_argument("--reuse", action="store_true", help="time the bundles that lie in --work, without any export")
    parser.add_argument(
        "--beside", nargs="+", type=named, default=(), metavar="NAME=BUNDLE",
        help="other bundles that are timed in the same rounds, such as those of an older version",
    )  # fmt: skip
    arguments = parser.parse_args()
    on_gpu = load_profile(arguments.target).runtime == "vulkan"
    arguments.precisions = arguments.precisions or (GPU_PRECISIONS if on_gpu else PRECISIONS)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.reuse:
        bundles = {name: arguments.work / f"out-{name}" for name in arguments.precisions} | dict(arguments.beside)
        print("\n".join(latency(latencies_ms(bundles, arguments.rounds))))
        return
    done = [export(arguments, precision) for precision in arguments.precisions]
    made = [one for one in done if one.bundle.is_dir()]
    for one in done:
        if one not in made:
            print(f"{one.precision}: {one.run.described()}, no bundle; see {arguments.work}", file=sys.stderr)
    if made and on_gpu:
        print("\n".join(gpu_sizes(made)))
    elif made:
        bundles = {one.precision: one.bundle for one in made} | dict(arguments.beside)
        print("\n".join((*sizes(made), "", *latency(latencies_ms(bundles, arguments.rounds)))))


if __name__ == "__main__":
    main()
