"""Collects the nodes of a template and what they read: constants, and weights in their final layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from onnx_ir.tensor_adapters import from_torch_dtype
from torch import Tensor

from vggt_edge.exporter.graph.template import InputScale, Literal, Source, Stored, TemplateNode, Value


def onnx_type(dtype: torch.dtype) -> int:
    """The ``TensorProto`` type of a torch dtype."""
    return int(from_torch_dtype(dtype))


@dataclass(frozen=True)
class Constant:
    """A tensor known at export. It becomes an initializer only when a node reads it."""

    source: Source
    tensor: Tensor


@dataclass(frozen=True)
class Weight:
    """A stored weight and how to restore it, before the layer that reads it has chosen the layout.

    bits: 4, 8 or 16. scale: None for a half-precision weight, which is only cast. axis: of the output channels.
    group_size: of groups along the last axis of an (out, in) weight. table: (tables, values) of a palette, whose
    indices are ``stored``; each row serves an equal share of the output channels.
    """

    stored: Constant
    bits: int
    scale: Constant | None = None
    axis: int = 0
    group_size: int | None = None
    table: Constant | None = None


Single = Value | Constant | Weight
Operand = Single | tuple[Single, ...]


class TemplateBuilder:
    """Nodes in execution order and stored tensors in order of first use."""

    def __init__(self) -> None:
        self.nodes: list[TemplateNode] = []
        self.stored: dict[str, Stored] = {}
        self.path = ""  # of the module whose node is being translated
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
        """Append a node with one output per shape."""
        sources = tuple(source if isinstance(source, str) else self.read(source) for source in inputs)
        key = f"%{len(self.nodes)}"
        outputs = tuple(Value(f"{key}:{index}", tuple(shape), dtype) for index, shape in enumerate(shapes))
        self.nodes.append(TemplateNode(self.path, op, sources, outputs, attributes))
        return outputs

    def read(self, operand: Operand) -> str:
        """The key by which a node reads ``operand``; stores a constant, restores a weight."""
        if isinstance(operand, Value):
            return operand.name
        if isinstance(operand, Constant):
            return self._store(Stored(operand.source))
        if isinstance(operand, Weight):
            return self.restore(operand).name
        raise TypeError("a tuple of tensors is not one tensor")

    def _store(self, stored: Stored) -> str:
        return self.stored.setdefault(stored.key, stored).key

    def restore(self, weight: Weight, *, transposed: bool = False) -> Value:
        """Cast or DequantizeLinear of a stored weight, transposed in the file so that no Transpose node is needed.

        One node per weight, however often its layer runs: ONNX Runtime 1.31 cannot optimise a graph that restores the
        same int8 weight twice.
        """
        stored = self._store(Stored(weight.stored.source, transposed, packed=weight.bits == 4))
        if stored not in self._restored:
            self._restored[stored] = self._restore(weight, stored, transposed)
        return self._restored[stored]

    def _restore(self, weight: Weight, stored: str, transposed: bool) -> Value:
        shape = tuple(weight.stored.tensor.shape)
        shape = tuple(reversed(shape)) if transposed else shape
        if weight.table is not None:
            return self._look_up(weight, weight.table, stored, shape, transposed)
        if weight.scale is None:
            return self.emit("Cast", [stored], shape, to=TensorProto.FLOAT)
        if weight.group_size is None:
            axis = len(shape) - 1 - weight.axis if transposed else weight.axis
            return self.emit("DequantizeLinear", [stored, weight.scale], shape, axis=axis)
        scale, axis = self._group_scale(weight, weight.scale, transposed), 0 if transposed else 1
        return self.emit("DequantizeLinear", [stored, scale], shape, axis=axis, block_size=weight.group_size)

    def _group_scale(self, weight: Weight, scale: Constant, transposed: bool) -> Value | str:
        """Scales of 4-bit groups are stored as FP16, which holds each exactly: in FP32 they cost half a bit per weight.

        The scale is cast, and not the weight (``output_dtype``): ONNX Runtime 1.31 fuses the former into MatMulNBits
        and fails on the latter, and opset 21, where TensorRT stops, has no such attribute. Scales of FP4's stand-in,
        which has 8 bits, may be too small for FP16 and stay FP32.
        """
        stored = self._store(Stored(scale.source, transposed, half=weight.bits == 4))
        if weight.bits != 4:
            return stored
        shape = tuple(scale.tensor.shape)
        return self.emit("Cast", [stored], tuple(reversed(shape)) if transposed else shape, to=TensorProto.FLOAT)

    def _look_up(self, weight: Weight, table: Constant, stored: str, shape: tuple[int, ...], transposed: bool) -> Value:
        """One Gather from all tables laid end to end; channels of a later table get an offset."""
        tables, values = table.tensor.shape
        half = self._store(Stored(table.source, half=True))
        flat = self.emit("Reshape", [self.emit("Cast", [half], (tables, values), to=TensorProto.FLOAT),
                                     self.integers(tables * values)], (tables * values,))  # fmt: skip
        index = self.emit("Cast", [stored], shape, torch.int32, to=TensorProto.INT32)
        if tables > 1:
            axis = len(shape) - 1 - weight.axis if transposed else weight.axis
            index = self.emit("Add", [index, self._offsets(shape, axis, tables, values)], shape, torch.int32)
        return self.emit("Gather", [flat, index], shape, axis=0)

    def _offsets(self, shape: tuple[int, ...], axis: int, tables: int, values: int) -> str:
        """Where the table of each output channel begins, laid out along ``axis``."""
        offsets = (torch.arange(tables) * values).repeat_interleave(shape[axis] // tables)
        layout = [-1 if dim == axis else 1 for dim in range(len(shape))]
        offsets = offsets.to(torch.int32).reshape(layout)
        return self._shared(f"const.tables.{tables}x{values}.{'x'.join(map(str, offsets.shape))}", offsets)

    def weight(self, operand: Operand, *, transposed: bool) -> str:
        """A matrix as a node is to read it: FP32 constants are transposed in the file, too."""
        if isinstance(operand, Weight):
            return self.restore(operand, transposed=transposed).name
        if isinstance(operand, Constant):
            return self._store(Stored(operand.source, transposed))
        raise TypeError("a weight that is computed at run time")

    def input_scale(self, scale: float) -> Constant:
        """The static scale of the input of the layer that is being translated."""
        return Constant(InputScale(self.path), torch.tensor(scale, dtype=torch.float32))

    def integers(self, *values: int) -> str:
        """A shared int64 vector (shapes, axes, sizes)."""
        label = "const.i64." + "x".join(str(value) for value in values)
        return self._shared(label, torch.tensor(values, dtype=torch.int64))

    def index(self, value: int) -> str:
        """A shared int64 scalar."""
        return self._shared(f"const.index.{value}", torch.tensor(value, dtype=torch.int64))

    def scalar(self, value: float, dtype: torch.dtype = torch.float32) -> str:
        """A shared scalar; its name carries the value as ``dtype`` holds it."""
        tensor = torch.tensor(value, dtype=dtype)
        label = f"const.{str(dtype).removeprefix('torch.')}.{np.format_float_scientific(tensor.item(), trim='-')}"
        return self._shared(label, tensor)

    def ones(self, size: int) -> str:
        return self._shared(f"const.ones.{size}", torch.ones(size))

    def _shared(self, label: str, tensor: Tensor) -> str:
        return self._store(Stored(Literal(label, tensor, shared=True)))
