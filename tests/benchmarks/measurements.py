"""Every measurement of the full-size benchmark: what it runs, and which figures it takes from that."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import modelopt_peer
import numpy as np
import psutil
from artifacts import bundle_figures, count_nodes, digests, onnx_bytes, stage_seconds
from kill_resume import KILLED, choose_kills, kill_and_resume
from measure import Run, Watch, run_measured

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ONNXSCRIPT = "onnxscript==0.7.2"  # torch.onnx needs it, vggt-edge does not
_ACCURACY_GATE = 4  # the bundle is whole, its figures missed a tolerance: to be expected of random weights
_NAMES = ("torch", "onnx", "onnxruntime", "vggt-edge")

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all measurements share. ``work``: everything that they write.

    mixed, export: more arguments of ``ours-mixed``, and of every export.
    """

    checkpoint: Path
    work: Path
    scenes: Path
    target: str = "jetson-orin"
    frames: int = 2
    resolution: int = 518
    ceiling_bytes: int = 20 * 10**9
    threads: int = 2
    repeats: int = 3
    warmups: int = 1
    kills: int = 4
    seed: int = 0
    mixed: tuple[str, ...] = ()
    export: tuple[str, ...] = ()

    def result_path(self, name: str) -> Path:
        return self.work / "results" / f"{name}.json"

    def result(self, name: str) -> dict[str, Any] | None:
        path = self.result_path(name)
        return json.loads(path.read_text()) if path.is_file() else None

    def log(self, name: str) -> Path:
        (self.work / "logs").mkdir(parents=True, exist_ok=True)
        return self.work / "logs" / f"{name}.log"

    def shown(self, command: Sequence[str]) -> str:
        """The command without the paths of this machine: ``$CKPT``, ``$DIR``, and the rest relative to the root."""
        line = " ".join(command)
        programs = {str(program_path("vggt-edge")): "vggt-edge", sys.executable: "python"}
        places = {str(self.checkpoint): "$CKPT", str(self.work): "$DIR", f"{ROOT}/": "", str(ROOT.parent): ".."}
        for path, name in {**programs, **places}.items():
            line = line.replace(path, name)
        return line


@dataclass(frozen=True)
class Outcome:
    """What is kept of a measurement. ok: a figure to be shown, which the next call does not measure again."""

    ok: bool
    ended: str
    command: str
    wall_s: float | None
    peak_bytes: int | None
    figures: Figures
    own_peak_bytes: int | None = None
    children_peak_bytes: int | None = None

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "machine": machine()}


@dataclass(frozen=True)
class Measurement:
    """needs: measurements that must have been made before."""

    title: str
    make: Callable[[Bench], Outcome]
    needs: tuple[str, ...] = ()


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "versions": {name: importlib.metadata.version(name) for name in _NAMES},
    }


def program_path(name: str) -> Path:
    """A command of the environment that runs this script."""
    return Path(sys.executable).with_name(name)


def outcome(bench: Bench, command: Sequence[str], run: Run, figures: Figures, *, fine: Sequence[int] = (0,)) -> Outcome:
    ok = run.returncode in fine if run.finished else run.ended == "killed at the ceiling"
    ended = run.described()
    if ok and run.returncode == _ACCURACY_GATE:
        ended += " (the accuracy gate)"
    peaks = (run.own_peak_bytes, run.children_peak_bytes)
    return Outcome(ok, ended, bench.shown(command), run.wall_s, run.peak_bytes, figures, *peaks)


# -- our own exports ---------------------------------------------------------------------------------------------------


def export_command(bench: Bench, precision: str, out: Path, *, resume: bool = False) -> list[str]:
    command = [str(program_path("vggt-edge")), "export", "--model", str(bench.checkpoint), "--target", bench.target]
    command += ["--frames", str(bench.frames), "--resolution", str(bench.resolution), "--precision", precision]
    command += ["--scenes", str(bench.scenes), "-o", str(out), "--json"]
    command += bench.export
    command += bench.mixed if precision == "mixed" else ()
    return [*command, "--resume"] if resume else command


def remove_bundle(out: Path) -> None:
    """Also what a killed export left beside it."""
    for path in (out, out.with_name(f"{out.name}.work"), *out.parent.glob(f".{out.name}.*partial*")):
        shutil.rmtree(path, ignore_errors=True)


def ours(precision: str) -> Callable[[Bench], Outcome]:
    def make(bench: Bench) -> Outcome:
        out = bench.work / f"out-{precision}"
        remove_bundle(out)
        command, log = export_command(bench, precision, out), bench.log(f"ours-{precision}")
        run = run_measured(command, log, stdout=log.with_suffix(".json"), ceiling_bytes=bench.ceiling_bytes)
        figures = bundle_figures(out, bench.checkpoint) if out.is_dir() else {}
        figures["stage_seconds"] = stage_seconds(log.read_text(errors="replace"))
        return outcome(bench, command, run, figures, fine=(0, _ACCURACY_GATE))

    return make


def rtx(bench: Bench) -> Outcome:
    """Made by ``ours-w8a8``; only its figures are taken; its peak is that of the export's children unless it says."""
    whole = bench.result("ours-w8a8") or {}
    figures = whole["figures"].get("rtx") or {}
    ended = figures.get("status", "not in the bundle")
    peak = next((value for key, value in figures.items() if "peak" in key), whole["children_peak_bytes"])
    return Outcome(ended == "passed", ended, "part of ours-w8a8", figures.get("seconds"), peak, figures)


# -- graphs of the model in FP32 ---------------------------------------------------------------------------------------


def export_fp32(bench: Bench, name: str, script: str, env: Mapping[str, str]) -> Outcome:
    folder = bench.work / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path, log = folder / "model.onnx", bench.log(name)
    command = [sys.executable, str(HERE / script), "--checkpoint", str(bench.checkpoint)]
    command += ["--frames", str(bench.frames), "--resolution", str(bench.resolution), "--onnx", str(path)]
    run = run_measured(command, log, ceiling_bytes=bench.ceiling_bytes, env=env)
    figures: Figures = {}
    if run.finished and run.returncode == 0:
        figures = {**asdict(count_nodes(path)), "onnx_bytes": onnx_bytes(path), **printed(log)}
    return outcome(bench, command, run, figures)


def printed(log: Path) -> dict[str, float]:
    """The ``export_seconds=`` line: the export without imports and loading."""
    lines = (line.partition("=") for line in log.read_text(errors="replace").splitlines())
    return {key: float(value) for key, _, value in lines if key == "export_seconds"}


def naive(bench: Bench) -> Outcome:
    extra = bench.work / "onnxscript"
    if not extra.is_dir():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(extra), ONNXSCRIPT]
        subprocess.run(install, check=True)
    return export_fp32(bench, "naive-onnx", "_naive_export.py", {"PYTHONPATH": str(extra)})


def ours_fp32(bench: Bench) -> Outcome:
    return export_fp32(bench, "ours-fp32-graph", "_ours_fp32.py", {})


# -- latency -----------------------------------------------------------------------------------------------------------


def latency(bench: Bench) -> Outcome:
    """A B A B, each in a process that holds one model, so that both meet the same machine and the same memory."""
    models = {name: bench.work / name / "model.onnx" for name in ("ours-fp32-graph", "naive-onnx")}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    results = {name: bench.log(f"ort-{name}").with_suffix(".json") for name in models}
    peak, wall_s, command = 0, 0.0, [""]
    for _ in range(bench.repeats):
        for name, path in models.items():
            command = latency_command(bench, path, results[name])
            run = run_measured(command, bench.log(f"ort-{name}"), ceiling_bytes=bench.ceiling_bytes)
            if not run.finished or run.returncode:
                return outcome(bench, command, run, {})
            seconds[name].append(json.loads(results[name].read_text())["seconds"])
            peak, wall_s = max(peak, run.peak_bytes), wall_s + run.wall_s
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    figures = {
        "seconds": seconds,
        "median_seconds": medians,
        "ratio": medians["ours-fp32-graph"] / medians["naive-onnx"],
        "threads": bench.threads,
        "largest_relative_difference": outputs_differ(*(path.with_suffix(".npz") for path in results.values())),
    }
    shown = bench.shown(command).replace("naive-onnx", "{ours-fp32-graph,naive-onnx}")
    return Outcome(True, "finished with 0", shown, wall_s, peak, figures)


def latency_command(bench: Bench, path: Path, result: Path) -> list[str]:
    command = [sys.executable, str(HERE / "_ort_latency.py"), "--onnx", str(path), "--result", str(result)]
    return [*command, "--threads", str(bench.threads), "--warmups", str(bench.warmups)]


def outputs_differ(one: Path, other: Path) -> dict[str, float]:
    """By output, the largest difference relative to the largest value: the two graphs must be the same model."""
    with np.load(one) as ours, np.load(other) as theirs:
        return {name: float(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max()) for name in ours}


# -- ModelOpt ----------------------------------------------------------------------------------------------------------


def modelopt(method: str) -> Callable[[Bench], Outcome]:
    def make(bench: Bench) -> Outcome:
        python = modelopt_peer.environment(bench.work / "modelopt-venv")
        folder = bench.work / f"modelopt-{method}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        sample = modelopt_peer.random_sample(folder / "sample.npz", bench.frames, bench.resolution)
        model, quantized = bench.work / "naive-onnx" / "model.onnx", folder / "model.onnx"
        command = modelopt_peer.command(python, model, sample, quantized, method)
        run = run_measured(
            command, bench.log(f"modelopt-{method}"), ceiling_bytes=bench.ceiling_bytes, env=modelopt_peer.ENVIRONMENT
        )
        figures: Figures = {"version": modelopt_peer.VERSION, "method": method}
        if quantized.is_file():
            figures |= {**asdict(count_nodes(quantized)), "onnx_bytes": onnx_bytes(quantized)}
        modelopt_peer.remove_intermediates(folder, quantized)
        return outcome(bench, ["python", *command[1:]], run, figures)

    return make


# -- kill and resume ---------------------------------------------------------------------------------------------------


def resume(bench: Bench) -> Outcome:
    """``ours-w8a8`` again, killed in each of its longest steps, against the uninterrupted bundle."""
    whole = (bench.result("ours-w8a8") or {})["figures"]
    out = bench.work / "out-killed"
    remove_bundle(out)

    def run_export(number: int, resumed: bool, watch: Callable[[Path], Watch]) -> Run:
        log = bench.log(f"kill-and-resume-{number}")
        command = export_command(bench, "w8a8", out, resume=resumed)
        limits: dict[str, Any] = {"ceiling_bytes": bench.ceiling_bytes, "watch": watch(log)}
        return run_measured(command, log, stdout=log.with_suffix(".json"), **limits)

    runs = kill_and_resume(run_export, choose_kills(whole["stage_seconds"], bench.kills, bench.seed))
    expected, got = digests(bench.work / "out-w8a8"), digests(out)
    figures: Figures = {
        "runs": [{"aim": aim, "ended": run.described(), "wall_s": run.wall_s} for aim, run in runs],
        "kills": sum(run.ended == KILLED for _, run in runs),
        "equal": {name: got.get(name) == digest for name, digest in expected.items()},
    }
    ok = bool(expected) and all(figures["equal"].values()) and figures["kills"] > 0
    wall_s, peak = sum(run.wall_s for _, run in runs), max(run.peak_bytes for _, run in runs)
    command = bench.shown(export_command(bench, "w8a8", out, resume=True))
    return Outcome(ok, "equal digests" if ok else "digests differ", command, wall_s, peak, figures)


MEASUREMENTS: Mapping[str, Measurement] = {
    "ours-w8a8": Measurement("vggt-edge, w8a8", ours("w8a8")),
    "ours-w4a16": Measurement("vggt-edge, w4a16", ours("w4a16")),
    "ours-mixed": Measurement("vggt-edge, mixed", ours("mixed")),
    "ours-fp32-graph": Measurement("vggt-edge, FP32 graph only", ours_fp32),
    "naive-onnx": Measurement("naive torch.onnx, FP32", naive),
    "ort-latency": Measurement("ONNX Runtime, FP32", latency, ("ours-fp32-graph", "naive-onnx")),
    "modelopt": Measurement("NVIDIA ModelOpt, INT8 (entropy)", modelopt("entropy"), ("naive-onnx",)),
    "modelopt-max": Measurement("NVIDIA ModelOpt, INT8 (max)", modelopt("max"), ("naive-onnx",)),
    "rtx-w8a8": Measurement("TensorRT for RTX, w8a8", rtx, ("ours-w8a8",)),
    "kill-and-resume": Measurement("w8a8, killed and resumed", resume, ("ours-w8a8",)),
}
