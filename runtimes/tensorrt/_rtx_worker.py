"""The process that runs the compiler of TensorRT for RTX: ``_rtx_worker MODEL FOLDER CAPABILITY``.

Writes ``result.json`` into FOLDER: errors, figures, and the quantized constants that were not found in the plan.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import mmap
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

_LIBRARIES = ("libcudart.so.*", "libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")
# Below this a constant may occur in the plan by chance, or be folded away.
SOUGHT_FROM_BYTES = 4096
# Each search reads the plan up to the constant: of large plans a sample has to do.
SEARCH_BUDGET_BYTES = 64 << 30


def load_bindings() -> Any:
    """The TensorRT for RTX module, with the library preloaded from the package that carries it."""
    spec = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("onnxruntime_ep_nv_tensorrt_rtx is not installed")
    folder = Path(next(iter(spec.submodule_search_locations)))
    for pattern in _LIBRARIES:
        for library in sorted(folder.glob(pattern)):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import tensorrt_rtx_bindings

    return tensorrt_rtx_bindings


def make_logger(trt: Any, messages: list[str]) -> Any:
    """A logger that keeps errors."""

    class Collector(trt.ILogger):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                messages.append(message)

    return Collector()


def compile_model(model: Path, capability: str) -> tuple[Any, list[str], dict[str, float | int | str]]:
    """(plan or None, errors, figures)."""
    trt = load_bindings()
    messages: list[str] = []
    logger = make_logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    figures: dict[str, float | int | str] = {"version": str(trt.__version__)}
    if not parser.parse_from_file(str(model)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        return (
            None,
            [f"{error.node_name() or 'graph'}: {error.desc().strip()}" for error in errors] or messages,
            figures,
        )
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    began = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    figures |= {"seconds": round(time.perf_counter() - began, 3), "layers": network.num_layers}
    if plan is None:
        return None, messages or ["the network was not compiled, without a message"], figures
    return plan, [], figures | {"plan_bytes": plan.nbytes}


def quantized_constants(model: Path) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """The int8 and int4 constants that are worth looking for."""
    for value in ir.load(model).graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in (ir.DataType.INT8, ir.DataType.INT4):
            continue
        if tensor.nbytes >= SOUGHT_FROM_BYTES:
            yield str(value.name), tensor


def stored_forms(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    """The bytes of a constant in the layouts that the compiler was seen to use: as it is, transposed, channels last."""
    yield tensor.tobytes()
    rank = len(tensor.shape)
    if rank in (2, 4):
        order = (1, 0) if rank == 2 else (0, 2, 3, 1)
        moved = np.ascontiguousarray(tensor.numpy().transpose(order))
        yield ir.tensor(moved, dtype=tensor.dtype).tobytes()


def search_plan(plan: Any, model: Path, folder: Path) -> tuple[dict[str, float | int | str], list[str]]:
    """(figures, names of the constants that were not found).

    weights_packed is "yes" if all of them were found, or if the plan is too small to hold the others in FP16;
    otherwise "unknown".
    """
    path = folder / "plan"
    path.write_bytes(memoryview(plan))
    constants = list(quantized_constants(model))
    plan_bytes = path.stat().st_size
    sought = constants[:: max(1, len(constants) * plan_bytes // SEARCH_BUDGET_BYTES)]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        missing = [
            (name, tensor) for name, tensor in sought if all(content.find(form) < 0 for form in stored_forms(tensor))
        ]
    wider = sum(2 * tensor.size - tensor.nbytes for _, tensor in missing)
    least_unpacked = sum(tensor.nbytes for _, tensor in constants) + wider
    packed = "yes" if not missing or plan_bytes < least_unpacked else "unknown"
    figures: dict[str, float | int | str] = {
        "constants_sought": len(sought),
        "constants_found": len(sought) - len(missing),
        "weights_packed": packed if sought else "nothing to pack",
    }
    return figures, [name for name, _ in missing]


def main(arguments: list[str]) -> int:
    model, folder, capability = Path(arguments[0]), Path(arguments[1]), arguments[2]
    plan, errors, figures = compile_model(model, capability)
    missing: list[str] = []
    if plan is not None:
        found, missing = search_plan(plan, model, folder)
        figures |= found
    result = {"errors": errors, "figures": figures, "missing": missing}
    (folder / "result.json").write_text(json.dumps(result, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
