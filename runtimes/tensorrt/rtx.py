"""Ahead-of-time compilation with TensorRT for RTX, which needs no GPU: proves parsing, typing and packed weights.

It proves nothing about the kernels of an Orin (docs/runtimes/tensorrt.md). The compiler is native code that can crash,
so it runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.base import Availability, Check
from vggt_edge.runtimes.common.process import Answer, Ending, Outcome, run_worker, worker
from vggt_edge.runtimes.tensorrt.plan_products import Reading

NAME = "TensorRT for RTX"
PACKAGES = ("tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx")
# What the compiler offers; an Orin is 8.7.
CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
DEFAULT_CAPABILITY = "SM86"
# The first capability of Turing, Ampere, Ada, Hopper and Blackwell: each has kernels and number formats of its own.
# Thor is 11.0, a Blackwell.
GENERATIONS = ((7, 5), (8, 0), (8, 9), (9, 0), (10, 0))
# 1.2 GB of FP16 weights took 25 to 50 s on two shared cores: some twenty times that is a hang, or a machine too slow.
TIMEOUT_S, TIMEOUT_S_PER_GB = 600.0, 900.0
_MEASURED = ("plan_bytes", "seconds", "total_seconds", "peak_memory_bytes")
_REMEDY = "pip install 'vggt-edge[jetson]' (Linux on x86-64)"
_WORKER = "vggt_edge.runtimes.tensorrt._rtx_worker"


def availability() -> Availability:
    """Whether both packages are installed: the bindings, and the one that carries the library."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return Availability(False, f"not installed: {', '.join(missing)}", _REMEDY)
    return Availability(True)


def offered_capability(wanted: str | None) -> str:
    """The nearest capability on offer ("8.7" to "SM86"): the newest of the same generation that is not newer.

    Where the generation has only newer ones, the oldest of them; where it has none, the newest that is not newer.
    """
    if wanted is None:
        return DEFAULT_CAPABILITY
    major, minor = (int(part) for part in wanted.split("."))
    version = (major, minor)
    own = [offered for offered in CAPABILITIES if _generation(offered) == _generation(version)]
    older = [offered for offered in own or CAPABILITIES if offered <= version]
    nearest = max(older) if older else min(own, default=CAPABILITIES[0])
    return f"SM{nearest[0]}{nearest[1]}"


def _generation(version: tuple[int, int]) -> tuple[int, int]:
    return max((first for first in GENERATIONS if first <= version), default=GENERATIONS[0])


def time_limit_s(model: Path) -> float:
    """How long the compiler may take: ten minutes, and fifteen more for each gigabyte of weights."""
    data = model.with_name(model.name + ".data")
    size = data.stat().st_size if data.is_file() else 0
    return TIMEOUT_S + TIMEOUT_S_PER_GB * size / 1e9


@dataclass(frozen=True)
class Compiled:
    """How compiling ended. reading: what the plan says of the graph's products; None without a plan."""

    check: Check
    reading: Reading | None = None


def compile_graph(model: Path, *, capability: str = DEFAULT_CAPABILITY, timeout_s: float | None = None) -> Compiled:
    """Parse and compile ``model`` as a strongly typed network for ``capability``.

    timeout_s: ``time_limit_s`` by default. The plan, as large as the weights, lies in a folder beside the model
    meanwhile. failed: the graph was refused, or the compiler crashed on it; the detail quotes it. not_run: the packages
    are not there, or time or memory did not suffice. ``ResourceError`` for a full disk. Figures: layers, how many of
    the quantized constants the plan holds unchanged (constants_found of constants_sought), and weights_packed ("yes",
    "unknown"). Measured: plan_bytes, seconds (compiling) and total_seconds, peak_memory_bytes of the compiling process.
    """
    ready = availability()
    if not ready.ok:
        return Compiled(Check(NAME, "not_run", f"{ready.reason}; {ready.remedy}", {}))
    limit_s = time_limit_s(model) if timeout_s is None else timeout_s
    # Beside the model and not in /tmp, which may be memory.
    with tempfile.TemporaryDirectory(prefix=".rtx-", dir=model.parent) as scratch:
        outcome = run_worker(worker(_WORKER, str(model), scratch, capability), limit_s)
    if outcome.ending is Ending.NO_ROOM:
        raise outcome.error("the compiler had no room for its plan", str(model.parent), LoweringError, "")
    reading = outcome.answer["reading"] if outcome.answer is not None else None
    return Compiled(judge(outcome, capability), Reading.from_dict(reading) if reading else None)


def enforce(check: Check, model: Path) -> None:
    """``LoweringError`` where the compiler refused the graph."""
    if check.status == "failed":
        raise LoweringError(
            f"{NAME} refuses the graph: {check.detail}",
            where=str(model),
            expected="a graph that compiles",
            remedy="compare the named nodes with docs/runtimes/tensorrt.md",
        )


def judge(outcome: Outcome, capability: str) -> Check:
    """However the compiling process ended, as a ``Check``."""
    if outcome.answer is not None:
        return _judge_answer(outcome.answer, capability)
    lacking = outcome.ending in (Ending.NO_MEMORY, Ending.NO_TIME)
    return Check(NAME, "not_run" if lacking else "failed", f"the compiler gave nothing: {outcome.detail}", {})


def _judge_answer(result: Answer, capability: str) -> Check:
    every: dict[str, float | int | str] = {"capability": capability, **result["figures"]}
    figures = {name: value for name, value in every.items() if name not in _MEASURED}
    measured = {name: value for name, value in every.items() if name in _MEASURED}
    if result["errors"]:
        return Check(NAME, "failed", "\n".join(result["errors"][:20]), figures, measured)
    found, sought = figures["constants_found"], figures["constants_sought"]
    detail = f"compiled for {capability}; {found} of {sought} quantized constants are in the plan unchanged"
    if result["missing"]:
        detail += f", not found: {', '.join(result['missing'][:5])}"
    return Check(NAME, "passed", detail, figures, measured)
