"""The process that runs the compiler of TensorRT for RTX: ``_rtx_worker MODEL FOLDER CAPABILITY``.

Answers with errors, figures, the quantized constants that were not found in the plan, which lies in FOLDER, and what
the plan makes of each product of the graph. What keeps its memory small beside a plan of gigabytes: the plan goes to a
file as it is made, the parser reads weights from our mapping of their file, and the pages of that mapping are given
back all the time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import onnx_ir as ir

from vggt_edge.runtimes.common.audit import load_onnx
from vggt_edge.runtimes.common.worker import Answer, answer_once, peak_memory_bytes
from vggt_edge.runtimes.tensorrt._plan_search import give_back, search_plan
from vggt_edge.runtimes.tensorrt.plan_products import read
from vggt_edge.runtimes.tensorrt.plan_text import read_plan

_LIBRARIES = ("libcudart.so.*", "libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")
# The compiler reads a gigabyte of weights in less than a second; this is when to give pages back.
_GIVE_BACK_EVERY_S = 0.05

Figures = dict[str, float | int | str]


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


def make_writer(trt: Any, stream: BinaryIO) -> Any:
    """Where the compiler puts the plan, piece by piece."""

    class Writer(trt.IStreamWriter):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.error: OSError | None = None

        def write(self, data: bytes) -> int:
            try:
                return stream.write(data)
            except OSError as error:  # the compiler would swallow it
                self.error = error
                return 0

    return Writer()


def compile_model(model: Path, capability: str, plan: Path) -> tuple[list[str], Figures]:
    """Write the compiled ``plan``; (errors, figures)."""
    trt = load_bindings()
    messages: list[str] = []
    logger = make_logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    figures: Figures = {"version": str(trt.__version__)}
    mapped: list[mmap.mmap] = []
    if not parse(parser, model, mapped):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        described = [f"{error.node_name() or 'graph'}: {error.desc().strip()}" for error in errors]
        return described or messages or ["not an ONNX model"], figures
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    began = time.perf_counter()
    with plan.open("wb") as stream, giving_back(mapped):
        writer = make_writer(trt, stream)
        built = builder.build_serialized_network_to_stream(network, config, writer)
    if writer.error is not None:
        raise writer.error
    figures |= {"seconds": round(time.perf_counter() - began, 3), "layers": network.num_layers}
    if not built:
        return messages or ["the network was not compiled, without a message"], figures
    return [], figures | {"plan_bytes": plan.stat().st_size}


def parse(parser: Any, model: Path, mapped: list[mmap.mmap]) -> bool:
    """Parse ``model`` with its weights lent from mappings that are ours, which are added to ``mapped``."""
    if not parser.load_model_proto(model.read_bytes(), str(model)):
        return False
    bases: dict[str, int] = {}
    for value in ir.load(model).graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes:
            if tensor.path not in bases:
                mapped.append(_mapped(Path(tensor.path)))
                bases[tensor.path] = np.frombuffer(mapped[-1], np.uint8).ctypes.data
            if not parser.load_initializer(value.name, bases[tensor.path] + (tensor.offset or 0), tensor.nbytes):
                return False
    return bool(parser.parse_model_proto())


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextmanager
def giving_back(mapped: Sequence[mmap.mmap]) -> Iterator[None]:
    """What is read of the mappings meanwhile does not stay in memory: at full size that would be gigabytes."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(_GIVE_BACK_EVERY_S):
            for content in mapped:
                give_back(content)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for content in mapped:
            give_back(content)


def perform(arguments: list[str], _answers: TextIO) -> Answer:
    model, folder, capability = Path(arguments[0]), Path(arguments[1]), arguments[2]
    began = time.perf_counter()
    errors, figures = compile_model(model, capability, folder / "plan")
    missing: list[str] = []
    reading: Answer = {}
    if not errors:
        found, missing = search_plan(folder / "plan", model)
        figures |= found
        reading = asdict(read(read_plan(folder / "plan"), load_onnx(model)))
    figures |= {"peak_memory_bytes": peak_memory_bytes(), "total_seconds": round(time.perf_counter() - began, 3)}
    return {"errors": errors, "figures": figures, "missing": missing, "reading": reading}


if __name__ == "__main__":
    answer_once(perform)
