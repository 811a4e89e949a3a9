"""The backend: lower as a whole, audit, say that nothing here runs it; see docs/runtimes/vulkan.md."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import InputError, ResourceError, ToolchainError
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.runtimes.base import (
    DEFAULT_OPTIONS,
    AnnotatedGraph,
    Availability,
    Backend,
    Check,
    Lowered,
    Options,
    Rates,
    Session,
)
from vggt_edge.runtimes.executorch.sdk import availability, refusals, write_program

if TYPE_CHECKING:  # listing the backends must not cost the import of torch
    from torch.export import ExportedProgram

    from vggt_edge.runtimes.vulkan.lowering import LoweredProgram

NAME = "ExecuTorch's Vulkan delegate"
FOLDER, PROGRAM, README = "vulkan", "vggt.pte", "README.md"
# Lowering goes by the number of operations and holds restored weights in FP32: nobody has waited for VGGT-1B.
MAX_WEIGHT_BYTES = 250_000_000
_NOT_HERE = "ExecuTorch's Python package has no Vulkan runtime"
_ELSEWHERE = "run it with executor_runner built with EXECUTORCH_BUILD_VULKAN, or the AAR with Vulkan, on a phone"


_README = """# The model for a phone's GPU

`vggt.pte` is for ExecuTorch 1.4 with its Vulkan delegate: {elsewhere}.
It has never run on a phone. Its method `forward` takes and gives FP32, in this order:

| | name | shape |
|---|---|---|
{rows}

`golden.safetensors`, one folder up, holds a scene (`input/`) and what the simulation makes of it (`simulation/`).
"""


class Vulkan(Backend):
    """The backend; see the module."""

    name = "vulkan"
    title = "ExecuTorch (Vulkan)"
    distributions = ("executorch",)
    supported = ("fp16", "w4a16")
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
        graph that it refuses, or a block without the precision that the delegate has for it.
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
            lowered = lower_program(program)
        realised = audit_program(lowered, plan, graph.blocks)
        path = out_dir / FOLDER / PROGRAM
        path.parent.mkdir(parents=True, exist_ok=True)
        write_program(lowered.manager, path)
        (path.parent / README).write_text(_readme(program, graph))
        checks = (_lowering_check(path, lowered, time.perf_counter() - began), _run_check())
        files = tuple(f"{FOLDER}/{name}" for name in (README, PROGRAM))
        return Lowered(self.name, files, realised, checks, findings(lowered, graph.fp32_blocks))

    def open(self, bundle: Path) -> Session:
        """``InputError`` for a folder that is no bundle, else ``ToolchainError``: nothing here runs it."""
        path = bundle / FOLDER / PROGRAM
        if not path.is_file():
            raise InputError("no program for Vulkan", where=str(path), expected="a folder that an export wrote")
        raise ToolchainError(f"{NAME} does not run here: {_NOT_HERE}", where=str(path), remedy=_ELSEWHERE)

    def on_device(self, profile: DeviceProfile) -> str:
        return f"runs on the device only: {_ELSEWHERE} (the {profile.title}); there is no kit for it yet"


def _check_size(weight_bytes: int) -> None:
    if weight_bytes > MAX_WEIGHT_BYTES:
        raise ResourceError(
            f"{weight_bytes / 1e6:.0f} MB of weights: {NAME} is left out above {MAX_WEIGHT_BYTES / 1e6:.0f} MB",
            where=FOLDER,
            remedy="lower this model for XNNPACK: --target android",
        )


def _readme(program: ExportedProgram, graph: AnnotatedGraph) -> str:
    """The program itself knows its inputs and outputs by their place alone."""
    nodes = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature
    named = (
        *zip(graph.input_names, ("in" for _ in graph.input_names), signature.user_inputs, strict=True),
        *zip(graph.output_names, ("out" for _ in graph.output_names), signature.user_outputs, strict=True),
    )
    rows = "\n".join(f"| {way} | {name} | {tuple(nodes[str(node)].meta['val'].shape)} |" for name, way, node in named)
    return _README.format(rows=rows, elsewhere=_ELSEWHERE)


def _lowering_check(path: Path, lowered: LoweredProgram, seconds: float) -> Check:
    from vggt_edge.runtimes.vulkan.payload import PACKED

    operators = [one.name for delegate in lowered.delegates for one in delegate]
    left = len(lowered.undelegated)
    figures: dict[str, float | int | str] = {
        "seconds": round(seconds, 3),
        "delegates": len(lowered.delegates),
        "delegated_operations": len(operators),
        "packed_linears": operators.count(PACKED),
        "undelegated_operations": left,
        "program_bytes": path.stat().st_size,
    }
    what = "all operations in Vulkan's delegates" if not left else f"{left} operations are left to portable kernels"
    return Check("Vulkan lowering", "passed", what, figures)


def _run_check() -> Check:
    return Check("Vulkan run", "not_run", f"{_NOT_HERE}; {_ELSEWHERE}", {})


BACKEND = Vulkan()
