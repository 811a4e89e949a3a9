"""The backend: lower as a whole, audit, check, and interpret what was saved; see docs/runtimes/vulkan.md."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import LoweringError, ResourceError, ToolchainError
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.runtimes.base import (
    DEFAULT_OPTIONS,
    AnnotatedGraph,
    Arrays,
    Availability,
    Backend,
    Check,
    Executor,
    Lowered,
    Options,
    Rates,
    Runtime,
    Session,
)
from vggt_edge.runtimes.executorch.files import MODEL_FILE, PROGRAM
from vggt_edge.runtimes.executorch.model_file import Border, borders_of, write_model_file
from vggt_edge.runtimes.executorch.sdk import availability, refusals, write_program

if TYPE_CHECKING:  # listing the backends must not cost the import of torch
    from vggt_edge.runtimes.vulkan.interpreter import GraphSession
    from vggt_edge.runtimes.vulkan.lowering import LoweredProgram

NAME = "ExecuTorch's Vulkan delegate"
FOLDER, README = "vulkan", "README.md"
# Lowering goes by the number of operations and holds restored weights in FP32: nobody has waited for VGGT-1B.
MAX_WEIGHT_BYTES = 250_000_000
_NEVER = "no Vulkan implementation has run this program"
_ELSEWHERE = "run it with executor_runner built with EXECUTORCH_BUILD_VULKAN, or the AAR with Vulkan, on a phone"
_HOW = "the saved program in our interpreter of Vulkan graphs on this CPU"


_README = """# The model for a phone's GPU

**Experimental: {never}.** It was checked without one, and an interpreter on a CPU computed it operation by operation:
`validation.json`, one folder up, has the figures under `vulkan-fp16` and `vulkan-fp32`.

`vggt.pte` is for ExecuTorch 1.4 with its Vulkan delegate. There is no app kit for it: {elsewhere}. The AAR without
Vulkan, which the kit for the CPU uses, cannot load it. Check the outputs before you trust them: `golden.safetensors`,
one folder up, holds a scene (`input/`) and what the simulation makes of it (`simulation/`).

The method `forward` takes and gives FP32, in this order; `model.json` says the same to programs.

| | name | shape |
|---|---|---|
{rows}
"""


class Vulkan(Backend):
    """The backend; see the module."""

    name = "vulkan"
    title = "ExecuTorch (Vulkan)"
    distributions = ("executorch",)
    supported = ("fp16", "w4a16")
    subjects = MappingProxyType(
        {
            name: title,
            "vulkan-fp16": "Vulkan program, interpreted in FP16",
            "vulkan-fp32": "Vulkan program, interpreted in FP32",
        }
    )
    # All operations of vggt-mini; with other sizes nobody has waited for it.
    rates = Rates(seconds=80.0, scene_seconds=0.0)

    def availability(self) -> Availability:
        return availability()

    def lower(
        self,
        graph: AnnotatedGraph,
        plan: PrecisionPlan,
        profile: DeviceProfile,
        out_dir: Path,
        options: Options = DEFAULT_OPTIONS,
    ) -> Lowered:
        """Write ``<out_dir>/vulkan``: the program, weights inside, and what its inputs and outputs are.

        ``ToolchainError`` without ExecuTorch; ``ResourceError`` above ``MAX_WEIGHT_BYTES``; ``LoweringError`` for a
        graph that it refuses, an operation that its runtime would refuse or compute wrong, or a block without the
        precision that the delegate has for it.
        """
        state = self.availability()
        if not state.ok:
            raise ToolchainError(f"{NAME} cannot lower here: {state.reason}", remedy=state.remedy)
        _check_size(plan.weight_bytes)
        from vggt_edge.runtimes.vulkan.audit import audit_program, findings
        from vggt_edge.runtimes.vulkan.lowering import lower_program

        began = time.perf_counter()
        program = graph.program()
        with refusals(NAME, FOLDER):
            lowered = lower_program(program, profile.texture_limit)
        realised = audit_program(lowered, plan, graph.blocks)
        static = _static_check(lowered, graph.blocks, profile.texture_limit)
        path = out_dir / FOLDER / PROGRAM
        path.parent.mkdir(parents=True, exist_ok=True)
        write_program(lowered.manager, path)
        borders = borders_of(program, graph)
        write_model_file(path.parent, *borders, lowered.planned_bytes)
        (path.parent / README).write_text(_readme(*borders))
        made = (_lowering_check(path, lowered, time.perf_counter() - began), static, _run_check())
        files = tuple(f"{FOLDER}/{name}" for name in (README, MODEL_FILE, PROGRAM))
        return Lowered(self.name, files, realised, made, findings(lowered, graph.fp32_blocks))

    def executors(self) -> tuple[Executor, ...]:
        """The interpreter in both semantics: FP16 as textures store it, FP32 to compare with the simulation."""
        if not self.availability().ok:
            return ()
        differs = "drivers sum in another order, and some cut off what they should round"
        half = Runtime("vulkan-interpreter", version("vggt-edge"), "FP16 between operations", differs)
        full = Runtime("vulkan-interpreter", version("vggt-edge"), "FP32", f"{differs}, in FP16")
        return (
            Executor("vulkan-fp16", f"{_HOW}, FP16 between operations", open_fp16, half),
            Executor("vulkan-fp32", f"{_HOW}, FP32 throughout", open_fp32, full),
        )

    def open(self, bundle: Path) -> ProgramSession:
        """As ``open_fp16``."""
        return open_fp16(bundle)

    def on_device(self, profile: DeviceProfile) -> str:
        return f"runs on the device only: {_ELSEWHERE} (the {profile.title}); there is no kit for it yet"


class ProgramSession(Session):
    """A program in the interpreter, in which no value may overflow."""

    def __init__(self, session: GraphSession) -> None:
        self._session = session

    @property
    def where(self) -> str:
        return self._session.where

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._session.input_shapes

    def _run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """``LoweringError`` where FP16 overflowed."""
        outputs = self._session.run(inputs)
        if found := self._session.overflows:
            raise LoweringError(
                f"{len(found)} operations overflow FP16: {', '.join(found[:5])}",
                where=self.where,
                expected="finite numbers: the delegate computes all blocks in FP16",
                remedy="use the XNNPACK target, which computes in FP32: --target android",
            )
        return outputs


def open_fp16(bundle: Path) -> ProgramSession:
    """The program of a bundle in the interpreter, FP16 between operations."""
    return _open(bundle, "fp16")


def open_fp32(bundle: Path) -> ProgramSession:
    """The program of a bundle in the interpreter, FP32 throughout."""
    return _open(bundle, "fp32")


def _open(bundle: Path, precision: Literal["fp16", "fp32"]) -> ProgramSession:
    state = availability()
    if not state.ok:
        raise ToolchainError(f"the program cannot be read here: {state.reason}", remedy=state.remedy)
    from vggt_edge.runtimes.vulkan.interpreter import GraphSession

    return ProgramSession(GraphSession(bundle / FOLDER, precision))


def _check_size(weight_bytes: int) -> None:
    if weight_bytes > MAX_WEIGHT_BYTES:
        raise ResourceError(
            f"{weight_bytes / 1e6:.0f} MB of weights: {NAME} is left out above {MAX_WEIGHT_BYTES / 1e6:.0f} MB",
            where=FOLDER,
            remedy="lower this model for XNNPACK: --target android",
        )


def _readme(inputs: Sequence[Border], outputs: Sequence[Border]) -> str:
    named = (*(("in", one) for one in inputs), *(("out", one) for one in outputs))
    rows = "\n".join(f"| {way} | {one.name} | {one.shape} |" for way, one in named)
    return _README.format(rows=rows, never=_NEVER, elsewhere=_ELSEWHERE)


def _lowering_check(path: Path, lowered: LoweredProgram, seconds: float) -> Check:
    from vggt_edge.runtimes.vulkan.payload import PACKED

    operators = [call.name for graph in lowered.delegates for call in graph.calls]
    left = len(lowered.undelegated)
    figures: dict[str, float | int | str] = {
        "delegates": len(lowered.delegates),
        "delegated_operations": len(operators),
        "packed_linears": operators.count(PACKED),
        "undelegated_operations": left,
        "program_bytes": path.stat().st_size,
    }
    what = "all operations in Vulkan's delegates" if not left else f"{left} operations are left to portable kernels"
    return Check("Vulkan lowering", "passed", what, figures, {"seconds": round(seconds, 3)})


def _static_check(lowered: LoweredProgram, blocks: Sequence[str], texture_limit: int | None) -> Check:
    """``LoweringError`` for an operation that the runtime would refuse or compute wrong."""
    from vggt_edge.runtimes.vulkan import checks

    block_of = checks.blocks_by_key(lowered.piece, blocks)
    checks.enforce([fault for graph in lowered.delegates for fault in checks.faults(graph, block_of, texture_limit)])
    operations = sum(len(graph.calls) for graph in lowered.delegates)
    figures: dict[str, float | int | str] = {"operations": operations, "texture_limit": texture_limit or 0}
    return Check("Vulkan static check", "passed", "the runtime's kernels take every operation as it is", figures)


def _run_check() -> Check:
    return Check("Vulkan run", "not_run", f"{_NEVER}; {_ELSEWHERE}", {})


BACKEND = Vulkan()
