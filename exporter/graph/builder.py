"""Collects the nodes and initializers of an ONNX graph: names, shapes, constants, weights in their final layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from vggt_edge.calibration.quantize import pack_int4
from vggt_edge.exporter.graph.names import Namer

ONNX_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.int8: TensorProto.INT8,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.bool: TensorProto.BOOL,
}


@dataclass(frozen=True)
class Value:
    """A tensor that a node computes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Constant:
    """A tensor known at export. It becomes an initializer only when a node reads it."""

    name: str
    tensor: Tensor


@dataclass(frozen=True)
class Weight:
    """A stored weight and how to restore it, before the layer that reads it has chosen the layout.

    bits: 4, 8 or 16. scale: None for a half-precision weight, which is only cast. axis: of the output channels.
    group_size: of groups along the last axis of an (out, in) weight.
    """

    stored: Constant
    bits: int
    scale: Constant | None = None
    axis: int = 0
    group_size: int | None = None


Single = Value | Constant | Weight
Operand = Single | tuple[Single, ...]


@dataclass(frozen=True)
class Initializer:
    """One stored tensor. ``content`` makes its bytes (little endian, int4 packed) only when they are written."""

    name: str
    onnx_type: int
    shape: tuple[int, ...]
    content: Callable[[], bytes]


def _initializer(name: str, tensor: Tensor, *, transposed: bool, int4: bool) -> Initializer:
    shape = tuple(reversed(tensor.shape)) if transposed else tuple(tensor.shape)

    def content() -> bytes:
        final = (tensor.t() if transposed else tensor).detach().contiguous()
        return (pack_int4(final) if int4 else final).numpy().tobytes()

    return Initializer(name, TensorProto.INT4 if int4 else ONNX_TYPES[tensor.dtype], shape, content)


class GraphBuilder:
    """Nodes in execution order and initializers in order of first use."""

    def __init__(self, namer: Namer) -> None:
        self.namer = namer
        self.nodes: list[onnx.NodeProto] = []
        self.values: list[Value] = []
        self.initializers: dict[str, Initializer] = {}
        self.scope = ""  # of the node that is being translated
        self._restored: dict[str, Value] = {}

    def emit(
        self,
        op: str,
        inputs: Sequence[Operand | str],
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        **attributes: Any,
    ) -> Value:
        """Append a node with one output."""
        return self.emit_many(op, inputs, [shape], dtype, **attributes)[0]

    def emit_many(
        self,
        op: str,
        inputs: Sequence[Operand | str],
        shapes: Sequence[Sequence[int]],
        dtype: torch.dtype = torch.float32,
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """Append a node with one output per shape. Output names are the node's, with ``:i`` where there are several."""
        name = self.namer.unique(f"{self.scope}/{op}")
        labels = [name] if len(shapes) == 1 else [f"{name}:{index}" for index in range(len(shapes))]
        outputs = tuple(Value(label, tuple(shape), dtype) for label, shape in zip(labels, shapes, strict=True))
        sources = [source if isinstance(source, str) else self.read(source) for source in inputs]
        self.nodes.append(helper.make_node(op, sources, labels, name=name, **attributes))
        self.values.extend(outputs)
        return outputs

    def read(self, operand: Operand) -> str:
        """The name by which a node reads ``operand``; makes the initializer of a constant, restores a weight."""
        if isinstance(operand, Value):
            return operand.name
        if isinstance(operand, Constant):
            return self._store(operand)
        if isinstance(operand, Weight):
            return self.restore(operand).name
        raise TypeError("a tuple of tensors is not one tensor")

    def _store(self, constant: Constant, *, transposed: bool = False, int4: bool = False) -> str:
        name = f"{constant.name}_t" if transposed else constant.name
        if name not in self.initializers:
            self.initializers[name] = _initializer(name, constant.tensor, transposed=transposed, int4=int4)
        return name

    def restore(self, weight: Weight, *, transposed: bool = False) -> Value:
        """Cast or DequantizeLinear of a stored weight, transposed in the file so that no Transpose node is needed.

        One node per weight, however often its layer runs: ONNX Runtime 1.31 cannot optimise a graph that restores the
        same int8 weight twice.
        """
        stored = self._store(weight.stored, transposed=transposed, int4=weight.bits == 4)
        if stored not in self._restored:
            self._restored[stored] = self._restore(weight, stored, transposed)
        return self._restored[stored]

    def _restore(self, weight: Weight, stored: str, transposed: bool) -> Value:
        shape = tuple(weight.stored.tensor.shape)
        shape = tuple(reversed(shape)) if transposed else shape
        if weight.scale is None:
            return self.emit("Cast", [stored], shape, to=TensorProto.FLOAT)
        if weight.group_size is None:
            axis = len(shape) - 1 - weight.axis if transposed else weight.axis
            return self.emit("DequantizeLinear", [stored, weight.scale], shape, axis=axis)
        scale = self._store(weight.scale, transposed=transposed)
        axis = 0 if transposed else 1
        return self.emit("DequantizeLinear", [stored, scale], shape, axis=axis, block_size=weight.group_size)

    def weight(self, operand: Operand, *, transposed: bool) -> str:
        """A matrix as a node is to read it: FP32 constants are transposed in the file, too."""
        if isinstance(operand, Weight):
            return self.restore(operand, transposed=transposed).name
        if isinstance(operand, Constant):
            return self._store(operand, transposed=transposed)
        raise TypeError("a weight that is computed at run time")

    def integers(self, *values: int) -> str:
        """A shared int64 vector (shapes, axes, sizes)."""
        label = "const.i64." + "x".join(str(value) for value in values)
        return self._store(Constant(label, torch.tensor(values, dtype=torch.int64)))

    def index(self, value: int) -> str:
        """A shared int64 scalar."""
        return self._store(Constant(f"const.index.{value}", torch.tensor(value, dtype=torch.int64)))

    def scalar(self, value: float, dtype: torch.dtype = torch.float32) -> str:
        """A shared scalar; its name carries the value as ``dtype`` holds it."""
        tensor = torch.tensor(value, dtype=dtype)
        label = f"const.{str(dtype).removeprefix('torch.')}.{np.format_float_scientific(tensor.item(), trim='-')}"
        return self._store(Constant(label, tensor))

    def ones(self, size: int) -> str:
        return self._store(Constant(f"const.ones.{size}", torch.ones(size)))
