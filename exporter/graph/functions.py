"""Functions of our own in a graph: what ONNX has no operator for, written in those that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from onnx import FunctionProto, NodeProto, TensorProto, helper

from vggt_edge.calibration.quantization.ranges import BLOCK, E2M1, E4M3
from vggt_edge.runtimes.common.fp4 import DOMAIN, QUANTIZE_FP4


def quantize_fp4(opset: int) -> FunctionProto:
    """x (..., in) to E2M1 in blocks of 16 and back; ``scale``: a scalar that the E4M3 scales of blocks are in units of.

    The arithmetic of ``float4_input`` (calibration/quantization/operators.py), step by step.
    """
    node = helper.make_node
    body = [
        _constant("rows", [-1, BLOCK], TensorProto.INT64),
        node("Reshape", ["x", "rows"], ["blocks"]),
        # The scale of each block, as E4M3 holds it.
        _constant("last", [1], TensorProto.INT64),
        _constant("largest", E2M1().high),
        _constant("zero", 0.0),
        _constant("one", 1.0),
        node("Abs", ["blocks"], ["magnitudes"]),
        node("ReduceMax", ["magnitudes", "last"], ["peaks"], keepdims=1),
        node("Mul", ["scale", "largest"], ["reach"]),
        node("Div", ["peaks", "reach"], ["wanted"]),
        _constant("limit", float(E4M3().high)),
        node("Min", ["wanted", "limit"], ["limited"]),
        node("Cast", ["limited"], ["narrow"], to=TensorProto.FLOAT8E4M3FN),
        node("Cast", ["narrow"], ["units"], to=TensorProto.FLOAT),
        node("Mul", ["units", "scale"], ["steps"]),
        node("Equal", ["steps", "zero"], ["empty"]),
        node("Where", ["empty", "one", "steps"], ["divisors"]),
        # To the nearest number: they lie 1/2 apart below 2, 1 below 4, and 2 above.
        node("Div", ["blocks", "divisors"], ["values"]),
        node("Abs", ["values"], ["sizes"]),
        _constant("half", 0.5),
        _constant("two", 2.0),
        _constant("four", 4.0),
        node("Less", ["sizes", "two"], ["fine"]),
        node("Less", ["sizes", "four"], ["middle"]),
        node("Where", ["middle", "one", "two"], ["coarser"]),
        node("Where", ["fine", "half", "coarser"], ["apart"]),
        node("Div", ["values", "apart"], ["counts"]),
        node("Round", ["counts"], ["whole"]),
        node("Mul", ["whole", "apart"], ["nearest"]),
        _constant("lowest", float(E2M1().low)),
        node("Clip", ["nearest", "lowest", "largest"], ["numbers"]),
        node("Mul", ["numbers", "steps"], ["restored"]),
        node("Shape", ["x"], ["shape"]),
        node("Reshape", ["restored", "shape"], ["y"]),
    ]
    return helper.make_function(DOMAIN, QUANTIZE_FP4, ["x", "scale"], ["y"], body, [helper.make_opsetid("", opset)])


def _constant(name: str, value: float | list[int], kind: int = TensorProto.FLOAT) -> NodeProto:
    shape = [len(value)] if isinstance(value, list) else []
    values = value if isinstance(value, list) else [value]
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, values))


#: By name, for a given opset.
FUNCTIONS: Mapping[str, Callable[[int], FunctionProto]] = MappingProxyType({QUANTIZE_FP4: quantize_fp4})
