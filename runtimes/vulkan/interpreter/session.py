"""Runs a saved Vulkan program with torch kernels.

``fp32``: every float is float32; weights are what the file stores, widened. This shows whether the program computes
what the model computes.

``fp16``: an operation takes FP16 arguments, computes in FP32 and rounds what the graph declares as FP16 to it (to
nearest, halves to even; from 65520 on it becomes inf, and the operation is listed in ``overflows``). So do the kernels
that read and write textures: they load texels as FP32. A device differs where
- a driver cuts off what it should round: Mesa's software Vulkan does, and loses some 10 dB that way;
- sums run in another order, and numbers below 6.1e-5 may be flushed to zero;
- kernels of buffers add in FP16. Only layer norm is imitated there, whose squares may overflow.
So agreement here does not prove the device's last bits; disagreement, or inf, here is a fault of the program.

Memory is followed, too: a value that is read after another one was written to the memory that they share is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vggt_edge.devices.errors import InputError, LoweringError, UnknownNameError
from vggt_edge.runtimes.base import Arrays, Session
from vggt_edge.runtimes.executorch.files import PROGRAM
from vggt_edge.runtimes.executorch.model_file import Border, checked_model
from vggt_edge.runtimes.vulkan.graph import HALF, OWN, Call, Members, TensorValue, VulkanGraph, read_program
from vggt_edge.runtimes.vulkan.interpreter import (  # noqa: F401  each registers its kernels
    elementwise,
    neural,
    products,
    shapes,
)
from vggt_edge.runtimes.vulkan.interpreter.kernel import KERNELS, compute, wrong

Precision: TypeAlias = Literal["fp16", "fp32"]
_STORED = {
    "FLOAT16": torch.float16,
    "FLOAT32": torch.float32,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT32": torch.int32,
    "BOOL": torch.bool,
}


class GraphSession(Session):
    """One program, ready to run; see the module."""

    def __init__(self, folder: Path, precision: Precision = "fp16") -> None:
        """``folder``: that of the program.

        ``InputError`` for files that are missing, damaged or of another export; ``LoweringError`` when an operator has
        no kernel here: the program may well be sound, and it is the interpreter that lacks something.
        """
        if precision not in ("fp16", "fp32"):
            raise UnknownNameError("precision", str(precision), ("fp16", "fp32"))
        self._model = checked_model(folder)
        self._where = str(folder / PROGRAM)
        program = read_program(folder / PROGRAM)
        self.graph: VulkanGraph = program.graph
        self.precision: Precision = precision
        self._data = program.data
        self._overflows: tuple[str, ...] = ()
        _check_kernels(self.graph, self._where)
        self._check_borders(self.graph.inputs, self._model.inputs)
        self._check_borders(self.graph.outputs, self._model.outputs)

    @property
    def where(self) -> str:
        return self._where

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return MappingProxyType({one.name: one.shape for one in self._model.inputs})

    @property
    def overflows(self) -> tuple[str, ...]:
        """Operations of the last run whose finite numbers became infinite in FP16, in order. Empty in ``fp32``."""
        return self._overflows

    def _run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """``LoweringError`` where the graph contradicts itself."""
        run = _Run(self.graph, self._data, self.precision, self._where)
        with torch.inference_mode():
            for place, border in zip(self.graph.inputs, self._model.inputs, strict=True):
                run.feed(place, torch.from_numpy(np.array(inputs[border.name])))
            for call in self.graph.calls:
                run.step(call)
            self._overflows = tuple(run.overflows)
            pairs = zip(self.graph.outputs, self._model.outputs, strict=True)
            return {border.name: run.result(place).numpy().copy() for place, border in pairs}

    def _check_borders(self, places: Sequence[int], borders: Sequence[Border]) -> None:
        found = [one.shape for one in self.graph.tensors(places)]
        expected = [one.shape for one in borders]
        if found != expected:
            raise InputError(
                f"the graph takes or gives {found}",
                where=self._where,
                expected=f"{expected}, as model.json says",
                remedy="export it again",
            )


class _Run:
    """The living values of one run, by their place in the graph."""

    def __init__(self, graph: VulkanGraph, data: Mapping[str, bytes], precision: Precision, where: str) -> None:
        self._graph, self._data, self._precision, self._where = graph, data, precision, where
        self._values: dict[int, Tensor] = {}
        self._owners: dict[int, int] = {}
        self._last = _last_readers(graph)
        self.overflows: list[str] = []

    def feed(self, place: int, value: Tensor) -> None:
        self._keep(place, self._rounded(self._declared(place), value))

    def step(self, call: Call) -> None:
        arguments = [self._argument(call, place) for place in call.reads]
        places = list(self._graph.tensor_places([call.writes]))
        self._check_memory(call, places)
        results = compute(call, arguments, self._declared(places[0]), self._where)
        if len(results) != len(places):
            raise wrong(call, f"{len(results)} results", f"{len(places)}, as the graph declares", self._where)
        for place, result in zip(places, results, strict=True):
            self._keep(place, self._settled(call, self._declared(place), result))
        for place in {*self._graph.tensor_places(call.reads), *places}:
            if self._last.get(place, call.number) == call.number and place not in self._graph.outputs:
                self._values.pop(place, None)

    def result(self, place: int) -> Tensor:
        if place not in self._values or self._overwritten(place):
            raise LoweringError(
                "an output is not there at the end, or was written over", where=self._where, remedy="export it again"
            )
        return self._values[place].to(torch.float32)

    def _argument(self, call: Call, place: int) -> Any:
        value = self._graph.values[place]
        if isinstance(value, Members):
            return [self._argument(call, one) for one in value.places]
        if not isinstance(value, TensorValue):
            return value
        if value.key:
            return self._constant(call, value)
        if place not in self._values:
            raise wrong(call, f"reads value {place} before anything wrote it", "values in order", self._where)
        if self._overwritten(place):
            raise wrong(call, f"reads value {place} after its memory was written over", "live memory", self._where)
        return self._values[place]

    def _constant(self, call: Call, value: TensorValue) -> Tensor:
        stored, dtype = self._data.get(value.key), _STORED.get(value.dtype)
        if stored is None or dtype is None:
            raise wrong(call, f"a constant of {value} with the key {value.key[:12]}", "one in the file", self._where)
        count = int(np.prod(value.shape))
        if len(stored) < count * dtype.itemsize:
            raise wrong(call, f"{len(stored)} bytes for a constant of {value}", "as many as it has", self._where)
        tensor = torch.frombuffer(bytearray(stored), dtype=dtype, count=count).reshape(value.shape)
        return tensor.to(torch.float32 if dtype.is_floating_point else torch.int64)

    def _settled(self, call: Call, declared: TensorValue, value: Tensor) -> Tensor:
        if tuple(value.shape) != declared.shape or value.is_floating_point() != declared.dtype.startswith("FLOAT"):
            what = f"gives {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
            raise wrong(call, what, f"{declared}, as the graph declares", self._where)
        rounded = self._rounded(declared, value)
        if rounded is not value and bool((rounded.isinf() & value.isfinite()).any()):
            self.overflows.append(f"{call.number} {call.name}")
        return rounded

    def _rounded(self, declared: TensorValue, value: Tensor) -> Tensor:
        if self._precision == "fp32" or declared.dtype != HALF:
            return value
        return value.to(torch.float16).to(torch.float32)

    def _declared(self, place: int) -> TensorValue:
        value = self._graph.values[place]
        assert isinstance(value, TensorValue)
        return value

    def _keep(self, place: int, value: Tensor) -> None:
        self._values[place] = value
        memory = self._declared(place).memory
        if memory != OWN:
            self._owners[memory] = place

    def _overwritten(self, place: int) -> bool:
        memory = self._declared(place).memory
        return memory != OWN and self._owners.get(memory) != place

    def _check_memory(self, call: Call, places: Sequence[int]) -> None:
        """A kernel reads its arguments while it writes."""
        written = {self._declared(place).memory for place in places} - {OWN}
        read = {one.memory for one in self._graph.tensors(call.reads)}
        if shared := sorted(written & read):
            raise wrong(call, f"writes to memory {shared[0]}, from which it reads", "memory of its own", self._where)


def _last_readers(graph: VulkanGraph) -> dict[int, int]:
    return {place: call.number for call in graph.calls for place in graph.tensor_places(call.reads)}


def _check_kernels(graph: VulkanGraph, where: str) -> None:
    """Every operator has a kernel, or else the first call of each is named."""
    missing: dict[str, int] = {}
    for call in graph.calls:
        if call.name not in KERNELS:
            missing.setdefault(call.name, call.number)
    if missing:
        listed = ", ".join(f"{name} (first: operation {number})" for name, number in sorted(missing.items()))
        raise LoweringError(
            f"the interpreter of Vulkan graphs lacks operators of the program: {listed}",
            where=where,
            expected=f"one of: {', '.join(sorted(KERNELS))}",
            remedy="lower the model to these operators, or add a kernel to runtimes/vulkan/interpreter",
        )
