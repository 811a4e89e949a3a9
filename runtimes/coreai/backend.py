"""Apple's Core AI: the annotated program as an ``.aimodel``, converted, audited and run here by Apple's toolchain."""

from __future__ import annotations

import json
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import InputError, LoweringError, ResourceError, ToolchainError
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.runtimes.base import (
    DEFAULT_OPTIONS,
    AnnotatedGraph,
    Availability,
    Backend,
    Check,
    Executor,
    Lowered,
    Options,
    Rates,
    Runtime,
)
from vggt_edge.runtimes.common.files import aside
from vggt_edge.runtimes.common.process import Answer
from vggt_edge.runtimes.coreai import sdk
from vggt_edge.runtimes.coreai.files import ASSET, ASSET_FILES, PROGRAM, PROGRAM_FILE, REQUEST
from vggt_edge.runtimes.coreai.session import CoreAISession, Ran

if TYPE_CHECKING:  # listing the backends must not cost the import of torch
    from vggt_edge.runtimes.coreai.asset import StoredLinear
    from vggt_edge.runtimes.coreai.audit import PlannedLinear

FOLDER = "coreai"
# As far as was measured: all blocks of VGGT-1B at half its width, 0.18 GB in 4 bits, took 29 s and 1.9 GB to convert,
# and a run at 98 pixels 14 s. VGGT-1B itself at 518 pixels is a hundred times that: no second opinion to wait for.
MAX_WEIGHT_BYTES = 250_000_000
CONVERT_TIMEOUT_S, CONVERT_TIMEOUT_S_PER_GB = 600.0, 1800.0
HOW = "Apple's Core AI runtime on this CPU, FP32 compute"


class CoreAI(Backend):
    """The backend; see the module."""

    name = "coreai"
    title = sdk.NAME
    distributions = ("coreai-core", "coreai-torch")
    supported = ("fp32", "fp16", "w8a16", "w4a16", "p6a16", "p4a16", "w8a8")
    # Every scene is a process that compiles the asset.
    rates = Rates(seconds=20.0, bytes_per_s=0.02e9, copies=10, scene_seconds=4.0)

    def availability(self) -> Availability:
        return sdk.availability()

    def lower(
        self,
        graph: AnnotatedGraph,
        plan: PrecisionPlan,
        profile: DeviceProfile,
        out_dir: Path,
        options: Options = DEFAULT_OPTIONS,
    ) -> Lowered:
        """Write ``<out_dir>/coreai/vggt.aimodel``.

        ``ToolchainError`` without Core AI or where it crashes; ``ResourceError`` where time or memory do not suffice,
        or for weights above ``MAX_WEIGHT_BYTES``; ``LoweringError`` for a graph that it refuses or cannot run, or a
        block without its precision.
        """
        state = self.availability()
        if not state.ok:
            raise ToolchainError(f"{sdk.NAME} cannot lower here: {state.reason}", remedy=state.remedy)
        if (too_large := size_check(plan.weight_bytes)) is not None:
            raise ResourceError(too_large.detail, where=FOLDER, remedy="lower this model to Core ML alone")
        from vggt_edge.runtimes.coreai.asset import contents_from
        from vggt_edge.runtimes.coreai.audit import audit_asset

        folder = out_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".coreai-", dir=folder) as scratch:
            planned = _hand_over(graph, Path(scratch))
            answer = _convert(Path(scratch))
            contents = contents_from(answer["contents"])
            realised = audit_asset(planned, contents.linears, plan, str(folder / ASSET))
            check = _run_check(Path(scratch) / ASSET)
            with aside(folder / ASSET) as place:
                (Path(scratch) / ASSET).rename(place)
        checks = (_conversion_check(answer, folder / ASSET, contents.linears), check)
        return Lowered(self.name, tuple(f"{FOLDER}/{ASSET}/{name}" for name in ASSET_FILES), realised, checks)

    def executors(self) -> tuple[Executor, ...]:
        """Apple's own runtime, where it is installed."""
        if not self.availability().ok:
            return ()
        runtime = Runtime("coreai-core", version("coreai-core"), "CPU, FP32", "FP16 on the Neural Engine or the GPU")
        return (Executor(self.name, HOW, self.open, runtime),)

    def open(self, bundle: Path, timeout_s: float | None = None) -> CoreAISession:
        """``bundle``: the folder of a bundle, or an ``.aimodel``. timeout_s: of one run, by default by its size."""
        return CoreAISession(bundle if bundle.suffix == ".aimodel" else bundle / FOLDER / ASSET, timeout_s)


def size_check(weight_bytes: int) -> Check | None:
    """A ``not_run`` check for weights (``PrecisionPlan.weight_bytes``) that are too many, None for others."""
    if weight_bytes <= MAX_WEIGHT_BYTES:
        return None
    detail = f"{weight_bytes / 1e6:.0f} MB of weights: {sdk.NAME} is left out above {MAX_WEIGHT_BYTES / 1e6:.0f} MB"
    return Check(sdk.NAME, "not_run", detail, {"weight_bytes": weight_bytes})


def _hand_over(graph: AnnotatedGraph, scratch: Path) -> tuple[PlannedLinear, ...]:
    """Write the program for the worker, and say what the asset has to hold.

    In a function of its own, so that the program is given back before the worker starts.
    """
    import torch

    from vggt_edge.runtimes.coreai.audit import planned_linears

    program = graph.program()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own internals
        torch.export.save(program, scratch / PROGRAM)
    names = {"inputs": graph.input_names, "outputs": graph.output_names}
    (scratch / REQUEST).write_text(json.dumps(names))
    return planned_linears(program, graph.blocks)


def _convert(scratch: Path) -> Answer:
    """Write the asset into ``scratch``; the worker's answer."""
    timeout_s = CONVERT_TIMEOUT_S + CONVERT_TIMEOUT_S_PER_GB * (scratch / PROGRAM).stat().st_size / 1e9
    outcome = sdk.ask("convert", scratch, timeout_s=timeout_s)
    if outcome.answer is None:
        raise outcome.error(
            f"{sdk.NAME} did not convert the graph", FOLDER, LoweringError, "see docs/runtimes/coreai.md"
        )
    return outcome.answer


def _run_check(asset: Path) -> Check:
    """One run on zeros: some faults show only then. ``LoweringError`` for a refusal, a crash, or NaN."""
    try:
        session = CoreAISession(asset)
        ran = session.measure({name: np.zeros(shape, np.float32) for name, shape in session.input_shapes.items()})
    except ResourceError as error:
        return Check(f"{sdk.NAME} run", "not_run", error.what, {})
    except (InputError, ToolchainError) as error:
        raise LoweringError(
            f"{sdk.NAME} cannot run what it converted: {error.what}",
            where=str(asset),
            expected="an asset that runs",
        ) from error
    return _finite_check(ran, asset)


def _finite_check(ran: Ran, asset: Path) -> Check:
    broken = sorted(name for name, array in ran.outputs.items() if not bool(np.isfinite(array).all()))
    if broken:
        raise LoweringError(f"NaN or Inf for {', '.join(broken)}", where=str(asset), expected="numbers")
    return Check(f"{sdk.NAME} run", "passed", f"runs; outputs {', '.join(sorted(ran.outputs))}", {}, ran.figures)


def _conversion_check(answer: Answer, asset: Path, linears: tuple[StoredLinear, ...]) -> Check:
    types = sorted({linear.element for linear in linears})
    figures = {
        "asset_bytes": (asset / PROGRAM_FILE).stat().st_size,
        "linears": len(linears),
    }
    measured = {"seconds": round(answer["seconds"], 3), "peak_memory_bytes": answer["peak_memory_bytes"]}
    what = f"converted and read back; weights stored as {', '.join(types)}"
    return Check(sdk.NAME, "passed", what, figures, measured)


BACKEND = CoreAI()
