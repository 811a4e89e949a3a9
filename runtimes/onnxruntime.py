"""ONNX Runtime on the CPU: the numerical oracle of the QDQ graph, and a fast mode for latency.

The QDQ ONNX is the artifact, so lowering checks it and writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scheme import COMPARED_ONLY, SCHEMES
from vggt_edge.devices.errors import InputError, LoweringError, ResourceError, ToolchainError, lacking
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
from vggt_edge.runtimes.common.audit import audit_onnx, load_onnx
from vggt_edge.runtimes.common.packages import installed

__all__ = ["BACKEND", "Mode", "OnnxRuntime", "OrtSession", "audit_onnx", "open_onnx"]

Mode: TypeAlias = Literal["oracle", "fast"]
MODEL_FILE, README = "model.onnx", "README.md"
_REMEDY = "pip install 'onnxruntime>=1.31,<1.32'"


class OrtSession(Session):
    """One loaded model. ``run`` gives the same bits for the same number of threads."""

    def __init__(self, session: Any, where: str) -> None:
        self._session = session
        self._where = where
        self._inputs: dict[str, tuple[int, ...]] = {node.name: tuple(node.shape) for node in session.get_inputs()}
        self.output_names: tuple[str, ...] = tuple(node.name for node in session.get_outputs())

    @property
    def where(self) -> str:
        return self._where

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return MappingProxyType(self._inputs)

    def _run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        try:
            values = self._session.run(list(self.output_names), dict(inputs))
        except Exception as error:  # the library raises a class of its own for every status code
            _refuse_where_lacking(error, self.where)
            raise InputError(
                f"ONNX Runtime cannot run the model: {error}",
                where=self.where,
                expected="a graph whose nodes fit each other",
                remedy="export it again",
            ) from error
        return dict(zip(self.output_names, values, strict=True))


def _refuse_where_lacking(error: Exception, where: str) -> None:
    """``ResourceError`` where the library failed for want of memory or disk; nothing is wrong with the model then."""
    if lack := lacking(error):
        raise ResourceError(
            f"{lack} to run the model in ONNX Runtime: {error}",
            where=where,
            remedy="use fewer --frames or a smaller --resolution, or a larger machine",
        ) from error


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_onnx(path: Path, mode: Mode = "oracle", threads: int | None = None) -> OrtSession:
    """Load one ONNX file on the CPU.

    oracle: nothing is fused, Q/DQ run as plain fake quantization; judge numbers by it. fast: real int8 kernels, exact
    on processors without VNNI too; time it. threads: all usable cores by default. Between numbers of threads results
    may differ in the last bits, since products are cut up otherwise: not on VGGT graphs of an eighth of the width (one
    to four threads), by 6e-7 of the largest value on the hand-made graphs of the tests. ``InputError`` for a file that
    cannot be loaded.
    """
    ort = _library()
    if not path.is_file():
        raise InputError("there is no ONNX model here", where=str(path), expected="a model.onnx of a bundle")
    options, disabled = session_options(path, mode, threads)
    try:
        session = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
    except Exception as error:  # the library raises a class of its own for every status code
        _refuse_where_lacking(error, str(path))
        raise InputError(
            f"ONNX Runtime {ort.__version__} cannot load the model: {error}",
            where=str(path),
            expected="a complete ONNX model with its data file beside it",
            remedy="export it again",
        ) from error
    return OrtSession(session, str(path))


def session_options(path: Path, mode: Mode, threads: int | None = None) -> tuple[Any, list[str]]:
    """(options, optimizers to disable) for ``open_onnx``, which says what the arguments mean."""
    ort = _library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # errors are raised, and its own lines are in colour
    # Threads that wait in a loop made two threads slower than one on a machine with other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    disabled: list[str] = []
    # The arena keeps what it once took: gigabytes, for a graph that is run a few times. Without it runs are no slower.
    options.enable_cpu_mem_arena = False
    # By default weights are dequantized long before they are used: 0.9 GB more in a session of VGGT-1B in w8a8d.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if mode == "oracle":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    elif mode == "fast":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # This fusion breaks valid int8 graphs in 1.31, and without it int8 is also twice as fast.
        disabled = ["MatMulAddFusion"]
        if _lacks_zero_points(path):
            disabled.append("QDQS8ToU8Transformer")
        # Without VNNI the default int8 kernels saturate at 16 bits.
        options.add_session_config_entry("session.x64quantprecision", "1")
        # The default computes 4-bit MatMuls with 8-bit activations, which no plan asked for.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    else:
        raise InputError(f"unknown mode {mode!r}", where="onnxruntime", expected="oracle or fast")
    return options, disabled


def _lacks_zero_points(path: Path) -> bool:
    """Whether a per-channel DequantizeLinear has none: the change to uint8 of 1.31 adds one of a wrong shape."""
    return any(
        node.op_type == "DequantizeLinear"
        and (len(node.inputs) < 3 or node.inputs[2] is None)
        and (scale := node.inputs[1]) is not None
        and scale.shape is not None
        and len(scale.shape) > 0
        for node in load_onnx(path).graph
    )


def _library() -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ToolchainError(f"onnxruntime cannot be imported: {error}", remedy=_REMEDY) from error
    return ort


_README = """# The model for ONNX Runtime

`model.onnx` and `model.onnx.data` belong together. The report judged them with the session below. Session options
change the numbers: by default ONNX Runtime multiplies 4-bit weights with inputs of 8 bits and fuses operations, which
leaves 40 to 50 dB where the report says more than 100. Keep `session.qdq_matmulnbits_accuracy_level` at 0. Keep the
execution order too: by default weights are turned into FP32 long before they are used, which takes more memory.

Run this in the bundle's folder; it replays the golden scene and prints how near each output is to the report's:

```python
import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file

options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
session = ort.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])

golden = load_file("golden.safetensors")
inputs = {node.name: golden[f"input/{node.name}"] for node in session.get_inputs()}
names = [node.name for node in session.get_outputs()]
for name, value in zip(names, session.run(names, inputs)):
    expected = golden[f"simulation/{name}"]
    noise = max(float(np.square(value - expected).sum()), 1e-30)
    print(name, round(10 * np.log10(float(np.square(expected).sum()) / noise), 1), "dB")
```

For speed, use `ORT_ENABLE_ALL` and measure the accuracy again: `w8a8` fell to 18.6 dB with it on an x86 processor
without VNNI (ONNX Runtime 1.23 and later). OpenVINO 2024.6 and 2025.4 read 4-bit weights in blocks (`w4a16`) wrongly
and without a word; 2026.0 reads them right.
"""


class OnnxRuntime(Backend):
    """The backend; see the module."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    distributions = ("onnxruntime",)
    # It runs the graph as it is, so whatever the graph can hold.
    supported = tuple(name for name in SCHEMES if name not in COMPARED_ONLY)
    # The graph is run twice as a check.
    rates = Rates(seconds=0.0, bytes_per_s=float("inf"), copies=0, forwards=2.0, scene_seconds=0.0)
    writes_form = False

    def availability(self) -> Availability:
        if not installed("onnxruntime"):
            return Availability(False, "onnxruntime is not installed", _REMEDY)
        return Availability(True)

    def lower(
        self,
        graph: AnnotatedGraph,
        plan: PrecisionPlan,
        profile: DeviceProfile,
        out_dir: Path,
        options: Options = DEFAULT_OPTIONS,
    ) -> Lowered:
        """Check and audit the graph that the bundle holds where it lies; files are relative to its folder.

        ``LoweringError`` when the file breaks the ONNX rules, does not load in both modes or misses the plan.
        """
        path = graph.shipped_path or graph.onnx_path
        _check_onnx(path)
        realised = audit_onnx(path, plan)
        checks = (_check_runs(path, "oracle"), _check_runs(path, "fast"))
        files = (path.name, *(data.name for data in [path.with_name(path.name + ".data")] if data.is_file()))
        return Lowered(self.name, files, realised, checks)

    def open(self, bundle: Path, mode: Mode = "oracle", threads: int | None = None) -> OrtSession:
        """``bundle``: the folder of a bundle, or an ONNX file."""
        return open_onnx(bundle / MODEL_FILE if bundle.is_dir() else bundle, mode, threads)

    def write_golden(self, bundle: Path, inputs: Arrays, simulation: Arrays, fp32: Arrays) -> None:
        """A README with the session that the report was made with; golden tensors are in every bundle."""
        (bundle / README).write_text(_README, encoding="utf-8")

    def on_device(self, profile: DeviceProfile) -> str:
        """Empty: this machine is the device, and every validation runs the graph, which is the artifact."""
        return ""


def _check_onnx(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # checker and protobuf errors share no base class
        raise LoweringError(
            f"not a valid ONNX model: {error}", where=str(path), expected="a graph that onnx.checker accepts"
        ) from error


def _check_runs(path: Path, mode: Mode) -> Check:
    """Load and run once on zeros: some faults of the optimiser show only when a node is executed."""
    try:
        session = open_onnx(path, mode)
        outputs = session.run({name: np.zeros(shape, np.float32) for name, shape in session.input_shapes.items()})
    except InputError as error:
        raise LoweringError(
            f"ONNX Runtime cannot run the graph in {mode} mode: {error.what}",
            where=str(path),
            expected="a graph that loads and runs",
            remedy="look the message up in docs/how-to/add-a-runtime.md, under the traps of ONNX Runtime",
        ) from error
    broken = sorted(name for name, array in outputs.items() if not bool(np.isfinite(array).all()))
    if broken:
        raise LoweringError(
            f"{mode} mode gives NaN or Inf for {', '.join(broken)}", where=str(path), expected="numbers"
        )
    figures = {"inputs": len(session.input_shapes), "outputs": len(outputs)}
    return Check(f"onnxruntime {mode}", "passed", f"runs; outputs {', '.join(sorted(outputs))}", figures)


def oracle() -> Executor:
    """What runs the graph of every bundle, whatever its target."""
    runtime = Runtime("onnxruntime", _library().__version__, "CPU, all graph optimisations off")
    return Executor(OnnxRuntime.name, "the QDQ ONNX on this CPU, nothing fused", open_onnx, runtime)


BACKEND = OnnxRuntime()
