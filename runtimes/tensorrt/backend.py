"""NVIDIA Jetson: a strongly typed graph that becomes an engine on the device, and the checks that can be made here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.quantization.form import Kind, LayerShape
from vggt_edge.calibration.scheme import FP4, Numbers, scheme_of_layers
from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.runtimes.base import (
    DEFAULT_OPTIONS,
    AnnotatedGraph,
    Arrays,
    Availability,
    Backend,
    CameraRun,
    Check,
    Executor,
    Frames,
    Lowered,
    Options,
    Rates,
    Runtime,
    Session,
)
from vggt_edge.runtimes.common.audit import audit_onnx, linears, load_onnx, shape_of
from vggt_edge.runtimes.common.kit import (
    COMMON,
    GOLDEN_FILE,
    KIT_FILE,
    SIGNATURE,
    encoded,
    preprocess_entry,
    sha256,
    sources_under,
    write_bytes,
    write_json,
)
from vggt_edge.runtimes.common.opset import OPSET
from vggt_edge.runtimes.common.typed import fp32_names
from vggt_edge.runtimes.tensorrt import engine, plan_audit, rtx
from vggt_edge.runtimes.tensorrt.camera_io.names import FUSED, PLAIN, PROGRAM
from vggt_edge.runtimes.tensorrt.floors import required, too_old
from vggt_edge.runtimes.tensorrt.leapp import LEAPP_FILE, write_leapp
from vggt_edge.runtimes.tensorrt.prepare import Prepared, prepare
from vggt_edge.runtimes.tensorrt.rules import enforce

if TYPE_CHECKING:
    from vggt_edge.calibration.metrics.output import Output

FOLDER = "tensorrt"
MODEL_FILE = "model.onnx"
KIT_SCHEMA_VERSION = 1
#: The first GPUs whose tensor cores multiply such numbers: Ada (FP8) and Blackwell (FP4).
NEEDED_CAPABILITY = MappingProxyType({"fp8": "8.9", "nvfp4": "10.0", "nvfp4a16": "10.0"})
_HOW = "tensorrt/model.onnx in our ONNX interpreter on this CPU, every result rounded to the type that the graph says"
_DIFFERS = "the device runs TensorRT's kernels, which fuse operators and sum in another order"
_GOLDEN_GROUPS = ("input", "expected", "fp32")


class TensorRT(Backend):
    """The backend; see the module. Lowering needs neither TensorRT nor a GPU."""

    name = "tensorrt"
    title = "TensorRT"
    distributions = (
        "tensorrt-rtx-cu13-bindings",
        "onnxruntime-ep-nv-tensorrt-rtx-cu13",
        "onnx-graphsurgeon",
        "tensorrt",
    )
    supported = ("fp32", "fp16", "w8a16", "w4a16", "w8a8", "w8a8-mha", "fp8", "fp8-mha", "nvfp4", "nvfp4a16")
    options = frozenset({"fuse_io", "strict"})
    subjects = MappingProxyType(
        {
            name: title,
            PLAIN: "TensorRT graph, FP16 (interpreted)",
            FUSED: "TensorRT graph with camera frames, FP16 (interpreted)",
        }
    )
    # The compiler of TensorRT for RTX is a process of its own; its plan is the one copy of the weights.
    rates = Rates(seconds=0.0, bytes_per_s=0.02e9, copies=0, memory_bytes=1_000_000_000, scene_seconds=0.0)

    def availability(self) -> Availability:
        """Always able to lower; says which of the two checks this machine cannot make."""
        missing = [state for state in (rtx.availability(), engine.availability()) if not state.ok]
        return Availability(
            True, "; ".join(state.reason for state in missing), "; ".join(state.remedy for state in missing)
        )

    def keeps(self, shape: LayerShape) -> bool:
        """Transposed convolutions: the plan audit shows FP16 operands for int8 ones, and a kernel that widens them."""
        return shape.kind is Kind.TRANSPOSED

    def widens(self, shape: LayerShape, calls: int, weight: Numbers) -> bool:
        """FP4, convolutions, and linears that run several times: the plan audit shows a kernel of its own for them.

        A linear that runs once dequantizes weights of other numbers inside its product.
        """
        return weight == FP4 or shape.kind is not Kind.LINEAR or calls > 1

    def check_profile(self, profile: DeviceProfile) -> None:
        """``LoweringError`` where the newest opset of the device is older than that of our graphs."""
        if (profile.toolchain.opset or OPSET) < OPSET:
            raise LoweringError(
                f"the graph for TensorRT is of opset {OPSET}, and {profile.name} reads up to {profile.toolchain.opset}",
                where=f"device profile {profile.name}, toolchain.opset",
                expected=f"{OPSET} or later: 4-bit weights need it",
                remedy="update the device's TensorRT, and its profile",
            )

    def check_options(self, options: Options) -> None:
        if options.fuse_io is not None:
            from vggt_edge.runtimes.tensorrt.camera_io.fuse import check_library

            check_library()

    def schemes(self, profile: DeviceProfile) -> tuple[str, ...]:
        """Without those that the device's GPU or its TensorRT is too old for."""
        return tuple(name for name in super().schemes(profile) if not self.why_not(name, profile))

    def why_not(self, scheme: str, profile: DeviceProfile) -> str:
        """Narrow floats need tensor cores that older GPUs do not have, and a TensorRT that knows them."""
        needed, has = NEEDED_CAPABILITY.get(scheme_of_layers(scheme)), profile.compute_capability
        if needed is None or has is None or _version(has) >= _version(needed):
            return too_old(scheme, profile)
        return f"it takes a GPU of compute capability {needed} or later, and this one is {has}"

    def lower(
        self,
        graph: AnnotatedGraph,
        plan: PrecisionPlan,
        profile: DeviceProfile,
        out_dir: Path,
        options: Options = DEFAULT_OPTIONS,
    ) -> Lowered:
        """Write ``<out_dir>/tensorrt``: the prepared graph and the device kit.

        ``LoweringError`` for a constant that FP16 cannot hold, a rule of TensorRT that the graph breaks, a block
        without its precision, a graph that TensorRT for RTX refuses, or, with ``strict``, a product that the compiled
        plan computes in another type.
        """
        folder = out_dir / FOLDER
        prepared = prepare(graph.onnx_path, folder / MODEL_FILE, fp32_names(graph.fp32_blocks, plan))
        model = load_onnx(prepared.path)
        enforce(model, str(prepared.path))
        realised = audit_onnx(prepared.path, plan)
        write_kit(folder, prepared, plan, profile, preprocess_entry(graph.preprocess, graph.pixel_centers))
        write_leapp(folder, prepared.path, model)
        capability = rtx.offered_capability(profile.compute_capability)
        compiled = rtx.compile_graph(prepared.path, capability=capability)
        rtx.enforce(compiled.check, prepared.path)
        audit = plan_audit.audit_plan(compiled.reading, model, plan, realised)
        if options.strict:
            plan_audit.enforce(audit, str(prepared.path))
        checks = [_prepared_check(prepared), compiled.check, audit.check, engine.build_check(folder)]
        files = [KIT_FILE, LEAPP_FILE, MODEL_FILE, f"{MODEL_FILE}.data", *kit_sources()]
        if options.fuse_io is not None:
            from vggt_edge.calibration.scenes.camera import CameraFrames
            from vggt_edge.runtimes.tensorrt.camera_io.program import write_program

            camera = CameraFrames.parse(options.fuse_io)
            checks.append(write_program(folder, prepared.path, camera, graph.outputs, capability))
            files.append(PROGRAM)
        listed = tuple(f"{FOLDER}/{name}" for name in sorted(files))
        return Lowered(self.name, listed, realised, tuple(checks), audit.findings, audit.computed)

    def executors(self) -> tuple[Executor, ...]:
        """The interpreter of the graph that ships. An engine on this machine's GPU is another one than the device's."""
        runtime = Runtime("onnx-interpreter", version("vggt-edge"), "FP16 as the graph says", _DIFFERS)
        return (Executor(PLAIN, _HOW, open_graph, runtime),)

    def open(self, bundle: Path) -> Session:
        """An engine on this machine's GPU; ``ToolchainError`` where there is none."""
        return engine.EngineSession(bundle / FOLDER)

    def run_camera(self, bundle: Path, frames: Frames, declared: Sequence[Output]) -> CameraRun:
        from vggt_edge.runtimes.tensorrt.camera_io.program import run_program

        return run_program(bundle / FOLDER, MODEL_FILE, frames, declared)

    def write_camera_golden(self, bundle: Path, frames: Frames, simulation: Arrays, declared: Sequence[Output]) -> None:
        from vggt_edge.runtimes.tensorrt.camera_io.program import write_program_golden

        write_program_golden(bundle / FOLDER, frames, simulation, declared)

    def write_golden(self, bundle: Path, inputs: Arrays, simulation: Arrays, fp32: Arrays) -> None:
        write_golden(bundle / FOLDER, inputs, simulation, fp32)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def open_graph(bundle: Path) -> Session:
    """The graph of a bundle, executed in the arithmetic that its types ask for."""
    from vggt_edge.runtimes.tensorrt.interpreter.session import GraphSession

    return GraphSession(bundle / FOLDER / MODEL_FILE)


def _prepared_check(prepared: Prepared) -> Check:
    figures: dict[str, float | int | str] = {
        "weight_bytes": prepared.weights.packed,
        "fp16_weight_bytes": prepared.weights.fp16,
        "fp32_weight_bytes": prepared.weights.fp32,
        "fp32_nodes": len(prepared.islands),
        "casts": prepared.casts,
    }
    return Check("TensorRT rules", "passed", "strongly typed, within the rules of docs/runtimes/tensorrt.md", figures)


def kit_sources() -> dict[str, Path]:
    """The files of both kits, in Python and in C++, as they are copied, by their names in the TensorRT folder."""
    python = (engine.KIT / engine.SCRIPT, engine.KIT / "README.md", COMMON, SIGNATURE)
    cpp = sources_under(engine.KIT / "cpp", frozenset({"build"}))
    return {source.name: source for source in python} | {str(each.relative_to(engine.KIT)): each for each in cpp}


def write_kit(
    folder: Path, prepared: Prepared, plan: PrecisionPlan, profile: DeviceProfile, pictures: Mapping[str, Any]
) -> None:
    """Put the kits for the device and their description of the model beside the prepared graph.

    pictures: what ``preprocess_entry`` says.
    """
    for name, source in kit_sources().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    islands = frozenset(prepared.islands)
    model = load_onnx(prepared.path)
    blocks = [_block_entry(model, plan, assignment.block, islands) for assignment in plan.assignments]
    names = (MODEL_FILE, f"{MODEL_FILE}.data")
    write_json(
        folder / KIT_FILE,
        {
            "schema_version": KIT_SCHEMA_VERSION,
            "target": profile.name,
            "plan_digest": plan.digest,
            "model": MODEL_FILE,
            "sha256": {name: sha256(folder / name) for name in names},
            "requires": required({one.scheme for one in plan.assignments}, profile.toolchain.requires),
            "blocks": blocks,
            **pictures,
            "weight_bytes": {"packed": prepared.weights.packed, "fp16": prepared.weights.fp16},
            "outputs": [{"name": str(one.name), "shape": shape_of(one)} for one in model.graph.outputs],
            "tolerances": {
                "sqnr_db_min": profile.tolerances.backend_sqnr_db_min,
                "pose_degrees_max": profile.tolerances.backend_pose_degrees_max,
            },
        },
    )


def _block_entry(model: Any, plan: PrecisionPlan, block: str, islands: frozenset[str]) -> dict[str, Any]:
    """``computed``: what its linears multiply in, the plan's scheme unless an FP16 block is an FP32 island."""
    assignment = plan.assignment(block)
    nodes = [linear.node for linear in linears(model, block) if not plan.is_kept(block, linear.path)]
    whole = bool(nodes) and islands.issuperset(nodes)
    computed = "fp32" if whole and assignment.scheme in ("fp16", "fp32") else scheme_of_layers(assignment.scheme)
    return {"block": block, "scheme": assignment.scheme, "computed": computed, "nodes": nodes}


def write_golden(folder: Path, inputs: Arrays, expected: Arrays, fp32: Arrays) -> Path:
    """Write ``golden.safetensors`` into the TensorRT folder of a bundle and list it in ``kit.json``.

    Keys: ``input/<name>``, ``expected/<name>`` (outputs of the quantized simulation, which the device is judged by) and
    ``fp32/<name>`` (outputs of the FP32 model, for information); all float32, shapes as the graph's.
    """
    groups = zip(_GOLDEN_GROUPS, (inputs, expected, fp32), strict=True)
    arrays = {f"{group}/{name}": values[name] for group, values in groups for name in sorted(values)}
    for key, array in arrays.items():
        if array.dtype != np.float32:
            raise InputError(f"golden tensor {key} is {array.dtype}", where=str(folder), expected="float32")
    path = folder / GOLDEN_FILE
    write_bytes(path, encoded(arrays))
    kit_path = folder / KIT_FILE
    kit = json.loads(kit_path.read_text())
    kit["sha256"][GOLDEN_FILE] = sha256(path)
    write_json(kit_path, kit)
    return path


BACKEND = TensorRT()
