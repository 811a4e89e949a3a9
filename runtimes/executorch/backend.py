"""The backend: cut, lower, assemble, audit, run once; see docs/runtimes/executorch.md."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import InputError, LoweringError, ToolchainError
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.runtimes.base import (
    DEFAULT_OPTIONS,
    AnnotatedGraph,
    Arrays,
    Availability,
    Backend,
    Check,
    Executor,
    Finding,
    Lowered,
    Options,
    Rates,
    Realised,
    Runtime,
)
from vggt_edge.runtimes.common.kit import kit_outputs
from vggt_edge.runtimes.common.memory import give_back_memory
from vggt_edge.runtimes.executorch import kit_files
from vggt_edge.runtimes.executorch.arm.build import PROCESSORS, ArmBuild
from vggt_edge.runtimes.executorch.arm.session import ArmSession
from vggt_edge.runtimes.executorch.files import FOLDER, MODEL_FILE, PROGRAM, WEIGHTS
from vggt_edge.runtimes.executorch.model_file import Border, borders_of, write_model_file
from vggt_edge.runtimes.executorch.sdk import (
    NAME,
    availability,
    flatbuffer_bytes,
    installed,
    refusals,
    write_program,
)
from vggt_edge.runtimes.executorch.session import ExecuTorchSession

if TYPE_CHECKING:  # listing the backends must not cost the import of torch
    from torch.export import ExportedProgram

    from vggt_edge.runtimes.executorch.assemble import Assembled
    from vggt_edge.runtimes.executorch.pieces import Pieces
    from vggt_edge.runtimes.executorch.xnnpack import LoweredPiece

HOW = "ExecuTorch's runtime with XNNPACK on this CPU"
IMAGES = "images"


class ExecuTorch(Backend):
    """The backend; see the module."""

    name = "executorch"
    title = "ExecuTorch (XNNPACK)"
    distributions = ("executorch",)
    supported = ("fp32", "w8a8d", "w4a8d")
    # Each kind of block is lowered once; the memory is also that of the process that runs the program as a check.
    rates = Rates(seconds=40.0, bytes_per_s=0.008e9, copies=4, scene_seconds=0.0)
    options = frozenset({"external_weights"})
    subjects = MappingProxyType(
        {
            name: "ExecuTorch (XNNPACK) on this CPU",
            f"{name}-arm-dotprod": "ARM build (emulated), dot products",
            f"{name}-arm-i8mm": "ARM build (emulated), i8mm",
            f"{name}-arm-sme": "ARM build (emulated), SME",
        }
    )

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
        """Write ``<out_dir>/executorch``: the program, with its weights unless asked otherwise, and the kit for images.

        ``ToolchainError`` without ExecuTorch; ``LoweringError`` for a graph that it refuses or cannot run, or a block
        without its precision.
        """
        state = self.availability()
        if not state.ok:
            raise ToolchainError(f"{NAME} cannot lower here: {state.reason}", remedy=state.remedy)
        folder = out_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        made = _make(graph, plan, folder, external=options.external_weights)
        give_back_memory()
        run = _run_check(folder)
        kit = _kit_checks(folder, made.borders, graph, plan, profile, made.planned_bytes)
        checks = (made.lowering, run, made.block_errors, *kit)
        return Lowered(self.name, _files(out_dir), made.realised, checks, made.findings)

    def executors(self) -> tuple[Executor, ...]:
        """ExecuTorch's own runtime, where it is installed, and its build for the processors of phones."""
        if not installed():
            return ()
        differs = "the device's kernels for ARM, the version of Android's library, and its weights cache"
        runtime = Runtime(self.name, version("executorch"), "the Python package's build, weights cache off", differs)
        return Executor(self.name, HOW, self.open, runtime), *map(self._emulated, PROCESSORS)

    def _emulated(self, feature: str) -> Executor:
        build = ArmBuild.of_android()
        options = f"PyPI's build for Linux on ARM, weights cache on, {PROCESSORS[feature]} in {build.emulator}"
        return Executor(
            f"{self.name}-arm-{feature}",
            f"{build.how}, {PROCESSORS[feature]}",
            lambda bundle: ArmSession(bundle / FOLDER, feature, build),
            Runtime(self.name, build.version, options, "a compiler and system of its own, and no shared workspace"),
            on_request="arm",
            feature=feature,
            availability=build.availability,
        )

    def open(self, bundle: Path) -> ExecuTorchSession:
        return ExecuTorchSession(bundle / FOLDER)

    def write_golden(self, bundle: Path, inputs: Arrays, simulation: Arrays, fp32: Arrays) -> None:
        kit_files.write_golden(bundle / FOLDER, inputs, simulation, fp32)


@dataclass(frozen=True)
class _Made:
    """What is left of a lowering when its programs are gone."""

    lowering: Check
    block_errors: Check
    realised: tuple[Realised, ...]
    findings: tuple[Finding, ...]
    borders: tuple[tuple[Border, ...], tuple[Border, ...]]
    planned_bytes: int


def _make(graph: AnnotatedGraph, plan: PrecisionPlan, folder: Path, *, external: bool) -> _Made:
    """Write program, weights and ``model.json``."""
    from vggt_edge.runtimes.executorch.audit import audit_pieces, check_constants, findings
    from vggt_edge.runtimes.executorch.block_errors import block_error_check

    began = time.perf_counter()
    program = graph.program()
    pieces, lowered = _lowered(program, graph.blocks)
    realised = audit_pieces(lowered, plan, graph.blocks)
    check_constants(lowered)
    assembled = _assembled(program, pieces, lowered, external=external)
    _write(assembled, folder, external=external)
    borders = borders_of(program, graph)
    write_model_file(folder, *borders, assembled.planned_bytes)
    return _Made(
        _lowering_check(folder, lowered, assembled, time.perf_counter() - began),
        block_error_check(program, pieces, lowered),
        realised,
        findings(assembled.undelegated),
        borders,
        assembled.planned_bytes,
    )


def _lowered(program: ExportedProgram, blocks: Sequence[str]) -> tuple[Pieces, tuple[LoweredPiece, ...]]:
    from vggt_edge.runtimes.common.audit import place
    from vggt_edge.runtimes.executorch.pieces import cut
    from vggt_edge.runtimes.executorch.xnnpack import lower_pieces

    pieces = cut(program, lambda path: place(path, blocks)[0])
    with refusals(NAME, FOLDER):
        return pieces, lower_pieces(pieces.pieces)


def _assembled(
    program: ExportedProgram, pieces: Pieces, lowered: Sequence[LoweredPiece], *, external: bool
) -> Assembled:
    from vggt_edge.runtimes.executorch.assemble import assemble

    (example,) = program.example_inputs[0]
    with refusals(NAME, FOLDER):
        return assemble(pieces, lowered, example, external=external)


def _write(assembled: Assembled, folder: Path, *, external: bool) -> None:
    (folder / WEIGHTS).unlink(missing_ok=True)
    if external:
        assembled.manager.write_tensor_data_to_file(str(folder))
    write_program(assembled.manager, folder / PROGRAM)


def _lowering_check(folder: Path, lowered: Sequence[LoweredPiece], assembled: Assembled, seconds: float) -> Check:
    delegates = [one for piece in lowered for one in piece.delegates.values()]
    weights = folder / WEIGHTS
    figures: dict[str, float | int | str] = {
        "delegates": len(assembled.calls),
        "kinds": len({piece.piece.key for piece in lowered}),
        "delegated_operations": sum(one.nodes for one in delegates),
        "undelegated_operations": len(assembled.undelegated),
        "planned_bytes": assembled.planned_bytes,
        "flatbuffer_bytes": flatbuffer_bytes(folder / PROGRAM),
        "program_bytes": (folder / PROGRAM).stat().st_size,
        "weights_bytes": weights.stat().st_size if weights.is_file() else 0,
    }
    left = len(assembled.undelegated)
    what = "all operations in XNNPACK's delegates" if not left else f"{left} operations are left to portable kernels"
    return Check(f"{NAME} lowering", "passed", what, figures, {"seconds": round(seconds, 3)})


def _run_check(folder: Path) -> Check:
    """Loaded and run once on zeros, with the memory of both where that is known.

    ``LoweringError`` for a refusal, a crash, or NaN.
    """
    try:
        session = ExecuTorchSession(folder)
        ran = session.measure({name: np.zeros(shape, np.float32) for name, shape in session.input_shapes.items()})
        session.close()
    except (InputError, ToolchainError) as error:
        raise LoweringError(
            f"{NAME} cannot run what it lowered: {error.what}",
            where=str(folder / PROGRAM),
            expected="a program that runs",
        ) from error
    broken = sorted(name for name, array in ran.outputs.items() if not bool(np.isfinite(array).all()))
    if broken:
        raise LoweringError(f"NaN or Inf for {', '.join(broken)}", where=str(folder / PROGRAM), expected="numbers")
    memory = {
        "load_bytes": session.loaded_bytes - session.before_bytes,
        "first_prediction_bytes": ran.peak_memory_bytes - session.before_bytes,
    }
    memory = memory if session.before_bytes else {}
    measured = {
        **memory,
        "load_seconds": session.load_seconds,
        "seconds": ran.seconds[0],
        "peak_memory_bytes": ran.peak_memory_bytes,
        "threads": session.threads,
    }
    return Check(f"{NAME} run", "passed", f"runs; outputs {', '.join(sorted(ran.outputs))}", {}, measured)


def _kit_checks(
    folder: Path,
    borders: tuple[tuple[Border, ...], tuple[Border, ...]],
    graph: AnnotatedGraph,
    plan: PrecisionPlan,
    profile: DeviceProfile,
    planned_bytes: int,
) -> tuple[Check, ...]:
    (images, *others), outputs = borders
    if others or images.name != IMAGES or len(images.shape) != 5:
        return ()
    weights = WEIGHTS if (folder / WEIGHTS).is_file() else None
    description = kit_files.KitDescription(
        target=profile.name,
        plan_digest=plan.digest,
        program=PROGRAM,
        weights=weights,
        executorch_version=version("executorch"),
        planned_bytes=planned_bytes,
        frames=images.shape[1],
        height=images.shape[3],
        width=images.shape[4],
        outputs=kit_outputs({one.name: one.shape for one in outputs}, graph.outputs),
        blocks=tuple(kit_files.KitBlock(one.block, one.scheme) for one in plan.assignments),
        backend_sqnr_db_min=profile.tolerances.backend_sqnr_db_min,
        pose_degrees_max=profile.tolerances.backend_pose_degrees_max,
        preprocess=graph.preprocess,
        pixel_centers=graph.pixel_centers,
    )
    kit_files.write_kit(folder, description)
    return (kit_files.compile_check(),)


def _files(out_dir: Path) -> tuple[str, ...]:
    folder = out_dir / FOLDER
    assert (folder / MODEL_FILE).is_file()
    return tuple(sorted(path.relative_to(out_dir).as_posix() for path in folder.rglob("*") if path.is_file()))


BACKEND = ExecuTorch()
