"""Lowers a checkpoint for Android without calibrating or validating it: seconds, memory and size alone. Run by hand.

``android_lowering.py --checkpoint FILE [--precision w8a8d] [--frames 2] [--resolution 518] [--ceiling 20GB]`` runs the
lowering of an export in a process of its own, weights rounded to nearest, and prints one table in Markdown. The program
is loaded and runs once, as in every export. A whole export at full size, with accuracy, is ``android.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import Run, format_seconds, format_size, parse_size, run_measured, table

CHECKS = "checks.json"


def lower(given: argparse.Namespace, work: Path) -> None:
    """Write the artifact and the figures of its checks into ``work``."""
    from vggt_edge.calibration.observation.stats import CalibrationStats
    from vggt_edge.exporter.graph import annotated_graph
    from vggt_edge.exporter.job import open_job
    from vggt_edge.exporter.machine.progress import make_progress
    from vggt_edge.exporter.request import resolve_request, settings_of_profile
    from vggt_edge.exporter.steps.plan import make_plan

    settings = {
        "target": given.target,
        "model": str(given.checkpoint),
        "precision": given.precision,
        "frames": given.frames,
        "resolution": f"{given.resolution}x{given.resolution}",
        "calibration_scenes": 1,
        "validation_scenes": 1,
        "effort": "none",
        "output": work / "out",
    }
    job = open_job(resolve_request(settings, (), None, settings_of_profile), make_progress(quiet=False))
    # Activations are quantized at run time: nothing has to be observed.
    stats = CalibrationStats(job.checkpoint.digest, (), (), (), {})
    plan = make_plan(job, stats, ())
    graph = annotated_graph(job.model, plan, stats, work / "model.onnx")
    lowered = job.backend.lower(graph, plan, job.profile, work)
    content = {check.name: dict(check.figures) for check in lowered.checks}
    (work / CHECKS).write_text(json.dumps(content))


def figures(given: argparse.Namespace, run: Run, work: Path) -> str:
    checks = json.loads((work / CHECKS).read_text())
    lowering, running = checks["ExecuTorch lowering"], checks["ExecuTorch run"]
    prediction_bytes = running.get("first_prediction_bytes")
    stored = lowering["program_bytes"] + lowering["weights_bytes"]
    rows = {
        "precision": given.precision,
        "one file": "yes" if not lowering["weights_bytes"] else "no",
        "size": format_size(stored),
        "of it outside segments": format_size(lowering["flatbuffer_bytes"]),
        "delegates": f"{lowering['kinds']} kinds of {lowering['delegates']}",
        "lowering": format_seconds(lowering["seconds"]),
        "whole process": format_seconds(run.wall_s),
        "peak of the exporter": format_size(run.own_peak_bytes),
        "peak with the worker": format_size(run.peak_bytes),
        "load": f"{format_seconds(running['load_seconds'])}, {format_size(running.get('load_bytes'))}",
        "first prediction": f"{format_seconds(running['seconds'])}, {format_size(prediction_bytes)}",
    }
    return "\n".join(table(tuple(rows), (tuple(rows.values()),)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--target", default="android")
    parser.add_argument("--precision", default="w8a8d", choices=("fp32", "w8a8d", "w4a8d"))
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=518)
    parser.add_argument("--ceiling", type=parse_size, default=parse_size("20GB"), help="kill it above this much memory")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        lower(given, given.inside)
        return 0
    with TemporaryDirectory(prefix="vggt-edge-lowering-") as name:
        work = Path(name)
        command = [sys.executable, *sys.argv, "--inside", name]
        run = run_measured(command, work / "log", ceiling_bytes=given.ceiling)
        if run.returncode:
            print((work / "log").read_text()[-2000:], run.described(), f"peak {format_size(run.peak_bytes)}", sep="\n")
            return 1
        print(figures(given, run, work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
