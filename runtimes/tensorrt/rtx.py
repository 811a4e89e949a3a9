"""Ahead-of-time compilation with TensorRT for RTX, which needs no GPU: proves parsing, typing and packed weights.

It proves nothing about the kernels of an Orin (docs/runtimes/tensorrt.md). The compiler is native code that can crash,
so it runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggt_edge.runtimes.base import Availability, Check

NAME = "TensorRT for RTX"
PACKAGES = ("tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx")
# What the compiler offers; an Orin is 8.7.
CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
DEFAULT_CAPABILITY = "SM86"
# 1.2 GB of FP16 weights took 25 to 50 s on two shared cores: some twenty times that is a hang, or a machine too slow.
TIMEOUT_S, TIMEOUT_S_PER_GB = 600.0, 900.0
_REMEDY = "pip install 'vggt-edge[jetson]' (Linux on x86-64)"
_WORKER = "vggt_edge.runtimes.tensorrt._rtx_worker"


def availability() -> Availability:
    """Whether both packages are installed: the bindings, and the one that carries the library."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return Availability(False, f"not installed: {', '.join(missing)}", _REMEDY)
    return Availability(True)


def offered_capability(wanted: str | None) -> str:
    """The newest capability on offer that is not newer than ``wanted`` ("8.7" to "SM86")."""
    if wanted is None:
        return DEFAULT_CAPABILITY
    version = tuple(int(part) for part in wanted.split("."))
    major, minor = max((offered for offered in CAPABILITIES if offered <= version), default=CAPABILITIES[0])
    return f"SM{major}{minor}"


def time_limit_s(model: Path) -> float:
    """How long the compiler may take: ten minutes, and fifteen more for each gigabyte of weights."""
    data = model.with_name(model.name + ".data")
    size = data.stat().st_size if data.is_file() else 0
    return TIMEOUT_S + TIMEOUT_S_PER_GB * size / 1e9


def compile_check(model: Path, *, capability: str = DEFAULT_CAPABILITY, timeout_s: float | None = None) -> Check:
    """Parse and compile ``model`` as a strongly typed network for ``capability``.

    timeout_s: ``time_limit_s`` by default. The plan, as large as the weights, lies in a folder beside the model
    meanwhile. failed: the graph was refused, or the compiler crashed on it; the detail quotes it. not_run: the packages
    are not there, or time or memory did not suffice. Figures: plan_bytes, seconds (compiling) and total_seconds,
    peak_memory_bytes of the compiling process, layers, how many of the quantized constants the plan holds unchanged
    (constants_found of constants_sought), and weights_packed ("yes", "unknown").
    """
    ready = availability()
    if not ready.ok:
        return Check(NAME, "not_run", f"{ready.reason}; {ready.remedy}", {})
    limit_s = time_limit_s(model) if timeout_s is None else timeout_s
    # Beside the model and not in /tmp, which may be memory.
    with tempfile.TemporaryDirectory(prefix=".rtx-", dir=model.parent) as scratch:
        # -P: modules of the current folder must not be taken for installed ones.
        command = [sys.executable, "-P", "-m", _WORKER, str(model), scratch, capability]
        return run_worker(command, Path(scratch) / "result.json", capability, limit_s)


def run_worker(command: Sequence[str], result_path: Path, capability: str, timeout_s: float) -> Check:
    """Run the compiling process and turn however it ends into a ``Check``."""
    try:
        finished = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return Check(NAME, "not_run", f"no result after {timeout_s:g} s; give it more time or a faster machine", {})
    if finished.returncode == -signal.SIGKILL:
        return Check(NAME, "not_run", "the compiler was killed, most likely for want of memory", {})
    if finished.returncode < 0:
        name = signal.Signals(-finished.returncode).name
        return Check(NAME, "failed", f"the compiler crashed with {name}\n{_end_of(finished.stderr)}", {})
    if finished.returncode != 0 or not result_path.is_file():
        return Check(NAME, "failed", f"the compiler ended with {finished.returncode}\n{_end_of(finished.stderr)}", {})
    return _judge(json.loads(result_path.read_text()), capability)


def _judge(result: dict[str, Any], capability: str) -> Check:
    figures: dict[str, float | int | str] = {"capability": capability, **result["figures"]}
    if result["errors"]:
        return Check(NAME, "failed", "\n".join(result["errors"][:20]), figures)
    found, sought = figures["constants_found"], figures["constants_sought"]
    memory_gb = int(figures["peak_memory_bytes"]) / 1e9
    detail = f"compiled for {capability} in {memory_gb:.1f} GB of memory; "
    detail += f"{found} of {sought} quantized constants are in the plan unchanged"
    if result["missing"]:
        detail += f", not found: {', '.join(result['missing'][:5])}"
    return Check(NAME, "passed", detail, figures)


def _end_of(text: str, lines: int = 10) -> str:
    return "\n".join(text.splitlines()[-lines:])
