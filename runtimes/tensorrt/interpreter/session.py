"""Runs a strongly typed ONNX graph with torch kernels, in the arithmetic that its types ask for.

Operands are widened to float32, products accumulate there, and every result is rounded to the type that the graph
declares: FP16 where it says FP16. ONNX Runtime's CPU kernels join such operators and keep float32 between them, which
hides overflow; here nothing is joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor

from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.runtimes.base import Arrays, Session
from vggt_edge.runtimes.common.audit import load_onnx
from vggt_edge.runtimes.tensorrt.interpreter.kernels import KERNELS, Call

_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.INT4: torch.int8,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.FLOAT4E2M1: torch.float32,  # torch has no such type
    ir.DataType.BOOL: torch.bool,
}
_INT8 = {ir.DataType.INT8: torch.int8, ir.DataType.UINT8: torch.uint8}
_LIKE_OPERAND = {"DequantizeLinear": 1, "Where": 1}


class GraphSession(Session):
    """One graph, ready to run. Weights stay in their file until a node reads them."""

    def __init__(self, path: Path, also: Collection[str] = ()) -> None:
        """``InputError`` for a file that is no ONNX graph, or holds an operator without a kernel.

        also: names of values inside the graph that ``run`` gives besides its outputs.
        """
        if not path.is_file():
            raise InputError("there is no graph here", where=str(path), expected="tensorrt/model.onnx of a bundle")
        self._path = path
        self._graph = load_onnx(path).graph
        for value in self._graph.inputs:
            if value.shape is None or not value.shape.is_static():
                raise InputError(
                    f"the input {value.name} has no fixed shape", where=str(path), expected="a graph of fixed shapes"
                )
        inside = [value for node in self._graph for value in node.outputs if value.name in also]
        self._given = (*self._graph.outputs, *inside)
        unknown = sorted({node.op_type for node in self._graph} - set(KERNELS))
        if unknown:
            raise InputError(
                f"the interpreter does not know {', '.join(unknown)}",
                where=str(path),
                expected="operators of runtimes/tensorrt/interpreter/kernels.py",
                remedy="add the operator there",
            )

    @property
    def where(self) -> str:
        """The graph's path."""
        return str(self._path)

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input by name."""
        return {str(value.name): _shape(value) for value in self._graph.inputs}

    @torch.no_grad()
    def _run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """``LoweringError`` names the first node whose finite result FP16 cannot hold."""
        values = {value: self._input(inputs[str(value.name)], value) for value in self._graph.inputs}
        left = Counter(value for node in self._graph for value in node.inputs if value is not None)
        left.update(self._given)
        for node in self._graph:
            operands = tuple(None if value is None else self._value(values, value) for value in node.inputs)
            values |= dict(zip(node.outputs, self._results(node, operands), strict=True))
            for read in node.inputs:
                if read is not None:
                    left[read] -= 1
                    if not left[read]:
                        values.pop(read, None)
        return {str(value.name): values[value].float().numpy() for value in self._given}

    def _input(self, array: npt.NDArray[np.float32], value: ir.Value) -> Tensor:
        """The input in the type of the graph: the frames of a camera are given as float32 and read as uint8."""
        return torch.from_numpy(array).to(_TYPES[value.dtype or ir.DataType.FLOAT])

    def _value(self, values: dict[ir.Value, Tensor], value: ir.Value) -> Tensor:
        if value in values:
            return values[value]
        if value.const_value is None:
            raise InputError(f"{value.name} is read before it is computed", where=str(self._path), expected="a graph")
        try:
            return _tensor(value.const_value)
        # Types that numpy or torch lack, data that are cut short, and values in the field of another type.
        except (OSError, ValueError, TypeError, AssertionError) as error:
            raise InputError(
                f"the weight {value.name} cannot be read: {error}",
                where=str(self._path),
                expected="the model with its data file beside it, as `vggt-edge export` wrote them",
            ) from error

    def _results(self, node: ir.Node, operands: Sequence[Tensor | None]) -> list[Tensor]:
        wide = tuple(_widened(operand) for operand in operands)
        try:
            found = KERNELS[node.op_type](Call(node, wide))
        except (NotImplementedError, RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"node {node.name} ({node.op_type}) cannot be computed: {reason}",
                where=str(self._path),
                expected="a node as `vggt-edge export` writes it",
            ) from error
        results = [found] if isinstance(found, Tensor) else list(found)
        if len(results) != len(node.outputs):
            raise InputError(
                f"node {node.name} ({node.op_type}) has {len(node.outputs)} outputs instead of {len(results)}",
                where=str(self._path),
                expected="a node as `vggt-edge export` writes it",
            )
        return [self._rounded(node, result, _result_type(node, operands, result)) for result in results]

    def _rounded(self, node: ir.Node, result: Tensor, dtype: torch.dtype) -> Tensor:
        rounded = result.to(dtype)
        if dtype is torch.float16 and bool(torch.isinf(rounded).any()) and bool(torch.isfinite(result).all()):
            raise LoweringError(
                f"{node.name} ({node.op_type}) computes {float(result.abs().max()):.3g}, which FP16 cannot hold",
                where=str(self._path),
                expected="magnitudes of at most 65504 in every FP16 tensor",
                remedy="calibrate on scenes like these, so that the headroom scan keeps this part in FP32",
            )
        return rounded


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(value.shape.numpy())


def _tensor(stored: ir.TensorProtocol) -> Tensor:
    """A copy, since the file may be mapped. numpy and torch do not know each other's narrow types."""
    array = stored.numpy()
    if stored.dtype in (ir.DataType.INT4, ir.DataType.FLOAT4E2M1):
        array = array.astype(np.int8 if stored.dtype == ir.DataType.INT4 else np.float32)
    if stored.dtype == ir.DataType.FLOAT8E4M3FN:
        return torch.from_numpy(np.array(array.view(np.uint8))).view(torch.float8_e4m3fn)
    return torch.from_numpy(np.array(array))


def _widened(operand: Tensor | None) -> Tensor | None:
    narrow = operand is not None and operand.dtype in (torch.float16, torch.float8_e4m3fn)
    return operand.float() if operand is not None and narrow else operand


def _result_type(node: ir.Node, operands: Sequence[Tensor | None], result: Tensor) -> torch.dtype:
    """The type of a result by ONNX's rules: that of the operand which gives it, unless the operator names one."""
    if node.op_type == "Cast":
        return _TYPES[ir.DataType(node.attributes.get_int("to"))]
    if node.op_type == "QuantizeLinear":
        zero_point = operands[2] if len(operands) > 2 else None
        if zero_point is not None:
            return zero_point.dtype
        return _INT8[ir.DataType(node.attributes.get_int("output_dtype", ir.DataType.UINT8))]
    if not result.is_floating_point():
        return result.dtype
    source = operands[_LIKE_OPERAND.get(node.op_type, 0)]
    return result.dtype if source is None else source.dtype
