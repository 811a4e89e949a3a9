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
DEFAULT_TIMEOUT_S = 1800.0
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


def compile_check(model: Path, *, capability: str = DEFAULT_CAPABILITY, timeout_s: float = DEFAULT_TIMEOUT_S) -> Check:
    """Parse and compile ``model`` as a strongly typed network for ``capability``.

    failed: the graph was refused, or the compiler crashed on it; the detail quotes it. not_run: the packages are not
    there, or time or memory did not suffice. Figures: plan_bytes, seconds, layers, how many of the quantized constants
    the plan holds unchanged (constants_found of constants_sought), and weights_packed ("yes", "unknown").
    """
    ready = availability()
    if not ready.ok:
        return Check(NAME, "not_run", f"{ready.reason}; {ready.remedy}", {})
    with tempfile.TemporaryDirectory(prefix="vggt-edge-rtx-") as scratch:
        # -P: modules of the current folder must not be taken for installed ones.
        command = [sys.executable, "-P", "-m", _WORKER, str(model), scratch, capability]
        return run_worker(command, Path(scratch) / "result.json", capability, timeout_s)


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
    detail = f"compiled for {capability}; {found} of {sought} quantized constants are in the plan unchanged"
    if result["missing"]:
        detail += f", not found: {', '.join(result['missing'][:5])}"
    return Check(NAME, "passed", detail, figures)


def _end_of(text: str, lines: int = 10) -> str:
    return "\n".join(text.splitlines()[-lines:])
