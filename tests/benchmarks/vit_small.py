"""Depth Anything 3 small at 518 x 518: size, drift and latency of each precision beside FP32.

``vit_small.py --work DIR [--views 1] [--rounds 5]`` writes a checkpoint of DA3-SMALL's sizes with seeded random weights
(LayerScale a fifth of what is drawn, as in ``model_targets.py``), exports it in each precision for ONNX Runtime and for
XNNPACK, lets all programs of a runtime run in turns in this process, and prints one table. An export that ``DIR`` holds
already is kept. Latency is of this CPU: its ratios say something about kernels, nothing about a phone or a board.
Drift is that of random weights: a trained model differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
from android import latencies_ms
from measure import format_size, table
from model_targets import TINY, model_bytes, nearest_the_device, relative_errors, write_checkpoint

from vggt_edge.exporter.models.depth_anything_3_layers import KNOWN
from vggt_edge.runtimes.common.kit import script_module
from vggt_edge.runtimes.registry import subject_titles

NAME, SIDE = "depth_anything_3", 518
PRECISIONS = {"host-cpu": ("fp32", "w8a16", "w8a8", "w4a16"), "android": ("fp32", "w8a8d", "w4a8d")}
FEW = ("--calibration-scenes", "2", "--validation-scenes", "1", "--effort", "none", "--json")
HEADER = ("target", "precision", "run by", "model", "FP32 / this", "relative error of each output", "median", "range",
          "FP32 / this")  # fmt: skip

Milliseconds = Mapping[str, Sequence[float]]


def export(checkpoint: Path, target: str, precision: str, views: int, work: Path) -> Path:
    """The bundle; ``SystemExit`` where none was made. One whose drift is past the gates counts: weights are random."""
    bundle = work / f"{target}-{precision}"
    if not (bundle / "manifest.json").is_file():
        print(f"{precision} for {target} ...", file=sys.stderr, flush=True)
        command = [
            *(sys.executable, "-m", "vggt_edge.exporter.cli", "export", "--model", str(checkpoint), "--target", target),
            *("--precision", precision, "--frames", str(views), "--resolution", f"{SIDE}x{SIDE}"),
            *(*FEW, "--output", str(bundle)),
        ]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if not (bundle / "manifest.json").is_file():
            sys.exit(ran.stdout + ran.stderr[-2000:])
    return bundle


def onnx_latencies_ms(bundles: Mapping[str, Path], rounds: int) -> Milliseconds:
    """Latency of each graph, once per round, in turns, after one run that is not counted."""
    sessions = {name: ort.InferenceSession(str(bundle / "model.onnx")) for name, bundle in bundles.items()}
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    (node,) = next(iter(sessions.values())).get_inputs()
    feed = {node.name: np.random.default_rng(0).random(node.shape, np.float32)}
    for session in sessions.values():
        session.run(None, feed)
    for _ in range(rounds):
        for name, session in sessions.items():
            began = time.perf_counter()
            session.run(None, feed)
            taken[name].append(1e3 * (time.perf_counter() - began))
    return taken


def rows(target: str, bundles: Mapping[str, Path], taken: Milliseconds) -> list[tuple[str, ...]]:
    made = []
    whole, reference = model_bytes(bundles["fp32"]), statistics.median(taken["fp32"])
    for precision, bundle in bundles.items():
        validation = json.loads((bundle / "validation.json").read_text())
        subject, size = nearest_the_device(validation), model_bytes(bundle)
        errors = ", ".join(f"{output} {error:.1e}" for output, error in relative_errors(validation, subject))
        median = statistics.median(taken[precision])
        spread = f"{min(taken[precision]):.0f} to {max(taken[precision]):.0f} ms"
        latency = (f"{median:.0f} ms", spread, f"{reference / median:.2f}")
        ratio = f"{whole / size:.2f}"
        made.append((f"`{target}`", precision, subject_titles()[subject], format_size(size), ratio, errors, *latency))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for the checkpoint and bundles")
    parser.add_argument("--views", type=int, default=1, help="frames of the export (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each program (default: 5)")
    parser.add_argument("--targets", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    checkpoint = given.work / "da3-small-random.safetensors"
    if not checkpoint.is_file():
        drawn = script_module(TINY / f"{NAME}.py", f"tiny.{NAME}").drawn
        write_checkpoint(NAME, SimpleNamespace(CONFIG=KNOWN[0], FRAMES=1, drawn=drawn), checkpoint)
    bundles = {
        target: {each: export(checkpoint, target, each, given.views, given.work) for each in PRECISIONS[target]}
        for target in given.targets
    }
    measure = {"host-cpu": onnx_latencies_ms, "android": latencies_ms}
    found = [row for target, made in bundles.items() for row in rows(target, made, measure[target](made, given.rounds))]
    print("\n".join(table(HEADER, found)))


if __name__ == "__main__":
    main()
