"""What TensorRT needs of a graph, as data: each rule finds its violations and says what to do about them.

The reasons and the experiments behind the rules are in docs/runtimes/tensorrt.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.common.audit import LINEAR_OPS, array_of, stored_weight, weight_and_data
from vggt_edge.runtimes.common.fp4 import DYNAMIC_QUANTIZE, TRT_DOMAIN

INT4_BLOCKS = (64, 128)
OPSET = 21
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
#: What weights may be stored as beside floats.
STORED = frozenset({ir.DataType.INT8, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT4E2M1})
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"})


@dataclass(frozen=True)
class Violation:
    """One operator that breaks one rule of TensorRT."""

    rule: str
    node: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node}: {self.what} ({self.rule}; {self.remedy})"


@dataclass(frozen=True)
class Rule:
    """``find`` yields (node name, what is wrong there)."""

    name: str
    remedy: str
    find: Callable[[ir.Model], Iterator[tuple[str, str]]]


def violations(model: ir.Model) -> tuple[Violation, ...]:
    """Everything that the rules object to, in the order of the rules and of the graph."""
    return tuple(Violation(rule.name, node, what, rule.remedy) for rule in RULES for node, what in rule.find(model))


def enforce(model: ir.Model, where: str) -> None:
    """``LoweringError`` that lists the violations."""
    found = violations(model)
    if found:
        raise LoweringError(
            f"the graph breaks {len(found)} rules of TensorRT:\n    " + "\n    ".join(map(str, found[:20])),
            where=where,
            expected="a graph within docs/runtimes/tensorrt.md",
            remedy=found[0].remedy,
        )


def _nodes(model: ir.Model, *operators: str) -> Iterator[tuple[ir.Node, str]]:
    for node in model.graph:
        if node.op_type in operators:
            yield node, node.name or node.op_type


def _array(value: ir.Value | None) -> np.ndarray | None:
    """A small constant; None for a value that is computed."""
    return None if value is None or value.const_value is None else array_of(value.const_value)


def _opset(model: ir.Model) -> Iterator[tuple[str, str]]:
    for domain, version in sorted(model.opset_imports.items()):
        if domain not in ("", TRT_DOMAIN):
            yield "graph", f"uses operators of domain {domain!r}"
        elif domain == "" and version != OPSET:
            yield "graph", f"is of opset {version}"


def _static(model: ir.Model) -> Iterator[tuple[str, str]]:
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype in _FLOATS - {ir.DataType.FLOAT}:
            yield str(value.name), f"is {value.dtype} at the border of the graph"
    for value in model.graph.inputs:
        if value.shape is None or not value.shape.is_static():
            yield str(value.name), f"has the shape {value.shape}"


def _zero_points(model: ir.Model) -> Iterator[tuple[str, str]]:
    for node, name in _nodes(model, "QuantizeLinear", "DequantizeLinear"):
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        if zero is None:
            kind = node.attributes.get("output_dtype")
            if node.op_type == "QuantizeLinear" and (kind is None or kind.as_int() != ir.DataType.INT8):
                yield name, "quantizes to UINT8, the default without a zero point"
        elif zero.dtype not in STORED:
            yield name, f"has a zero point of type {zero.dtype}, which TensorRT takes for INT8 without a word"
        elif (values := _array(zero)) is None or bool(np.any(values.astype(np.float32) != 0)):
            yield name, "has a zero point other than 0"


def _scales(model: ir.Model) -> Iterator[tuple[str, str]]:
    for node, name in _nodes(model, "QuantizeLinear", "DequantizeLinear"):
        scale = _array(node.inputs[1])
        if scale is None and not _is_of_blocks(node.inputs[1]):
            yield name, "has a computed scale"
        elif scale is not None and not bool(np.all(np.isfinite(scale)) and np.all(scale > 0)):
            yield name, "has a scale that is not a positive number"


def _is_of_blocks(scale: ir.Value | None) -> bool:
    """Whether a computed scale is restored from the FP8 scales of FP4 blocks."""
    restored = None if scale is None else scale.producer()
    stored = None if restored is None or restored.op_type != "DequantizeLinear" else restored.inputs[0]
    return stored is not None and stored.dtype == ir.DataType.FLOAT8E4M3FN


def _activation_granularity(model: ir.Model) -> Iterator[tuple[str, str]]:
    for node, name in _nodes(model, "QuantizeLinear"):
        scale = _array(node.inputs[1])
        if scale is not None and scale.size != 1:
            yield name, f"quantizes an activation with {scale.size} scales"


def _weight_axis(model: ir.Model) -> Iterator[tuple[str, str]]:
    """Per output channel: with the weight's transposes undone, the scale runs along the operator's output axis."""
    for node in model.graph:
        if node.op_type not in LINEAR_OPS or (found := weight_and_data(node)) is None or found[0].dtype not in STORED:
            continue
        dequantize, axes = _weight_path(node)
        scale = None if dequantize is None else _array(dequantize.inputs[1])
        if dequantize is None or scale is None or scale.size == 1 or "block_size" in dequantize.attributes:
            continue
        axis = dequantize.attributes.get_int("axis", 1) % len(axes)
        if axes[axis] != (wanted := _output_axis(node, len(axes))):
            yield (
                node.name or node.op_type,
                f"weight scales run along axis {axes[axis]}, output channels along {wanted}",
            )


def _weight_path(node: ir.Node) -> tuple[ir.Node | None, list[int]]:
    """The weight's DequantizeLinear, and for each axis there the axis at the operator."""
    value = node.inputs[1] if stored_weight(node.inputs[1]) is not None else node.inputs[0]
    transposes: list[list[int]] = []
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type == "DequantizeLinear":
            stored = stored_weight(producer.inputs[0])
            axes = list(range(len(stored.shape) if stored is not None else 0))
            for permutation in reversed(transposes):
                # Without ``perm`` a Transpose reverses the axes.
                order = permutation or axes[::-1]
                axes = [order.index(axis) for axis in axes]
            return producer, axes
        if producer.op_type == "Transpose":
            transposes.append([int(axis) for axis in producer.attributes.get_ints("perm", ())])
        value = producer.inputs[0]
    return None, []


def _output_axis(node: ir.Node, rank: int) -> int:
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    if node.op_type == "MatMul":
        return rank - 1 if stored_weight(node.inputs[1]) is not None else rank - 2
    return 0 if node.op_type == "Conv" else 1


def _int4(model: ir.Model) -> Iterator[tuple[str, str]]:
    for node in model.graph:
        if node.op_type not in LINEAR_OPS or (found := weight_and_data(node)) is None:
            continue
        weight, data = found
        if weight.dtype != ir.DataType.INT4:
            continue
        name = node.name or node.op_type
        if node.op_type not in ("MatMul", "Gemm"):
            yield name, "is a convolution with 4-bit weights"
        dequantize, _ = _weight_path(node)
        block = 0 if dequantize is None else dequantize.attributes.get_int("block_size", 0)
        if block not in INT4_BLOCKS:
            yield name, f"has 4-bit weights in blocks of {block}"
        if data is not None and (producer := data.producer()) is not None and producer.op_type == "DequantizeLinear":
            yield name, "has 4-bit weights and a quantized input"


def _resize(model: ir.Model) -> Iterator[tuple[str, str]]:
    for node, name in _nodes(model, "Resize"):
        mode = node.attributes.get_string("mode", "nearest")
        if mode not in ("nearest", "linear"):
            yield name, f"resizes with mode {mode}"
        if node.attributes.get_int("antialias", 0):
            yield name, "resizes with antialias"


def _decomposed(model: ir.Model) -> Iterator[tuple[str, str]]:
    for _node, name in _nodes(model, "Erf"):
        yield name, "is a piece of a decomposed Gelu"
    for node, name in _nodes(model, "ReduceMean"):
        producer = None if node.inputs[0] is None else node.inputs[0].producer()
        squared = producer is not None and (
            producer.op_type == "Pow" or (producer.op_type == "Mul" and producer.inputs[0] is producer.inputs[1])
        )
        if squared:
            yield name, "averages squares: a decomposed LayerNormalization, which overflows FP16"


def _quantized_consumers(model: ir.Model) -> Iterator[tuple[str, str]]:
    for node, name in _nodes(model, "DequantizeLinear"):
        for consumer in _consumers(node):
            if consumer.op_type not in {*LINEAR_OPS, "DequantizeLinear"}:
                yield name, f"feeds {consumer.op_type} {consumer.name}"


def _consumers(node: ir.Node) -> Iterator[ir.Node]:
    for consumer, _index in (use for output in node.outputs for use in output.uses()):
        if consumer.op_type in _MOVES:
            yield from _consumers(consumer)
        else:
            yield consumer


def _one_type(model: ir.Model) -> Iterator[tuple[str, str]]:
    for node in model.graph:
        if node.op_type in ("Resize", "Cast", DYNAMIC_QUANTIZE):
            continue
        types = {value.dtype for value in node.inputs if value is not None and value.dtype in _FLOATS}
        if len(types) > 1:
            yield node.name or node.op_type, f"mixes {' and '.join(sorted(map(str, types)))}"


def _attention_scale(model: ir.Model) -> Iterator[tuple[str, str]]:
    for node, name in _nodes(model, "Softmax"):
        producer = None if node.inputs[0] is None else node.inputs[0].producer()
        if producer is None or producer.op_type not in ("Mul", "Div"):
            continue
        if any(
            value is not None and (p := value.producer()) is not None and p.op_type == "MatMul"
            for value in producer.inputs
        ):
            yield name, "scales the logits after the MatMul, where they may have overflowed FP16 already"


RULES: tuple[Rule, ...] = (
    Rule("opset", f"export plain ONNX of opset {OPSET}", _opset),
    Rule("borders", "use fixed shapes, and FP32 at inputs and outputs", _static),
    Rule("zero point", "quantize symmetrically, and name the type by a zero point of 0", _zero_points),
    Rule("scale", "calibrate again, or keep the layer unquantized", _scales),
    Rule("activation granularity", "use one scale per activation tensor", _activation_granularity),
    Rule("weight granularity", "use one scale per output channel", _weight_axis),
    Rule("int4", f"use 4 bits for the weights of linears only, in blocks of {INT4_BLOCKS}", _int4),
    Rule("resize", "resize with nearest or linear, without antialias", _resize),
    Rule("native operators", "export LayerNormalization and Gelu as one node each (opset 20)", _decomposed),
    Rule("linears only", "quantize only what a linear or a convolution reads", _quantized_consumers),
    Rule("one type", "put a Cast in between", _one_type),
    Rule("attention scale", "scale q or k before the first MatMul", _attention_scale),
)
