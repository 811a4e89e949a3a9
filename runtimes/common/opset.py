"""From opset 23 to opset 21: the newest that TensorRT's parsers know, and what ONNX Runtime reads from 1.20 on.

Attention is the one operator of our graphs that opset 21 lacks: it is written out. The other operators mean the same
in both, which a test reads off ONNX's own schemas; the few attributes that are new in between are refused or resolved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.common.audit import load_onnx

OPSET, NEWEST = 21, 23
_IR_VERSION = 10  # the one of opset 21
_NEURAL = {"Conv", "ConvTranspose", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Resize", "Softmax"}
_QDQ = {"DequantizeLinear", "QuantizeLinear"}
_POINTWISE = {"Abs", "Add", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Floor", "Less", "Log", "Max", "Min", "Mul"}
_POINTWISE |= {"Neg", "Pow", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Sub", "Tanh", "Where"}
_MOVES = {"Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity"}
_MOVES |= {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Reshape", "Shape", "Slice", "Split", "Squeeze"}
_MOVES |= {"Transpose", "Unsqueeze"}
#: The same in opset 21 as in opset 23.
UNCHANGED = frozenset(_NEURAL | _QDQ | _POINTWISE | _MOVES)
_REMEDY = "write the model without it, or add what it means in opset 21 to runtimes/common/opset.py"


def write_lowered(source: Path, target: Path) -> None:
    """Write ``source`` as opset 21 to ``target``, a file of the same folder, which reads the same data file."""
    model = load_onnx(source)
    lower_opset(model)
    ir.save(model, target)


def lower_opset(model: ir.Model, known: Collection[str] = ()) -> None:
    """Make ``model`` one of opset 21, in place. ``LoweringError`` names a node that opset 21 cannot say.

    known: operators of a runtime's own that may stand in the graph.
    """
    found = model.opset_imports.get("", 0)
    if not OPSET <= found <= NEWEST:
        raise LoweringError(f"the graph is of opset {found}", expected=f"opset {OPSET} to {NEWEST}")
    if found == OPSET:
        return
    if not all(value is not None and value.shape for node in _attention(model.graph) for value in node.inputs):
        passes.ShapeInferencePass()(model)
    write_out_attention(model.graph)
    ours = {function.name for function in model.functions.values()}
    for node in model.graph:
        if node.op_type not in {*known, *ours}:
            _check(node)
        if node.op_type == "DequantizeLinear":
            # Opset 21 gives the type of the scale; typing the graph gives both the type that is wanted.
            node.attributes.pop("output_dtype", None)
    for function in model.functions.values():
        for node in function:
            _check(node)
        function.opset_imports[""] = OPSET
    model.opset_imports[""] = OPSET
    model.ir_version = min(model.ir_version, _IR_VERSION)


def _check(node: ir.Node) -> None:
    if node.op_type not in UNCHANGED:
        raise _refused(node, f"operator {node.op_type} is not known to mean the same in opset {OPSET}")
    if node.attributes.get_int("precision", 0) not in (0, ir.DataType.FLOAT):
        raise _refused(node, f"{node.op_type} with a precision of its own")


def _refused(node: ir.Node, what: str) -> LoweringError:
    return LoweringError(what, where=node.name or node.op_type, expected=f"plain opset {OPSET}", remedy=_REMEDY)


def write_out_attention(graph: ir.Graph) -> None:
    """Each Attention as Mul (of q: the logits may overflow FP16), Transpose, MatMul, Softmax, MatMul.

    The new nodes are called ``<scope>/Mul`` and so on, with a number where the name is taken.
    """
    names = _Names(graph)
    for node in _attention(graph):
        _check_attention(node)
        _write_out(graph, node, names)


def _attention(graph: ir.Graph) -> tuple[ir.Node, ...]:
    return tuple(node for node in graph if node.op_type == "Attention")


class _Names:
    """Names that no node and no value of the graph has."""

    def __init__(self, graph: ir.Graph) -> None:
        self._taken = set(graph.initializers) | set(_names(graph))

    def new(self, name: str) -> str:
        unique, count = name, 0
        while unique in self._taken:
            count += 1
            unique = f"{name}_{count}"
        self._taken.add(unique)
        return unique


def _names(graph: ir.Graph) -> Iterator[str]:
    yield from (str(value.name) for value in graph.inputs)
    for node in graph:
        yield node.name or ""
        yield from (str(value.name) for value in node.outputs)


def _check_attention(node: ir.Node) -> None:
    """Without mask, causality, cache, soft cap or shared heads: what the exporter writes."""
    extra = sorted(set(node.attributes) - {"scale"})
    if extra or len(node.inputs) != 3 or len(node.outputs) != 1 or None in node.inputs:
        detail = ", ".join(extra) or f"{len(node.inputs)} inputs and {len(node.outputs)} outputs"
        raise _refused(node, f"this form of Attention is not written out: {detail}")
    shapes = [None if value is None else value.shape for value in node.inputs]
    if any(shape is None or len(shape) != 4 or not shape.is_static() for shape in shapes):
        raise _refused(node, f"Attention of inputs {', '.join(map(str, shapes))}, not (batch, heads, tokens, head_dim)")
    if len({(shape[0], shape[1]) for shape in shapes if shape is not None}) > 1:
        raise _refused(node, "Attention whose queries and keys differ in heads")


def _write_out(graph: ir.Graph, node: ir.Node, names: _Names) -> None:
    query, key, value = node.inputs
    result = node.outputs[0]
    assert query is not None and key is not None and value is not None  # noqa: PT018  checked above
    assert query.shape is not None and key.shape is not None  # noqa: PT018
    batch, heads, tokens, head = query.shape.numpy()
    keys = key.shape.numpy()[2]
    scope = (node.name or "").rpartition("/")[0]

    def add(op: str, inputs: list[ir.Value], shape: list[int], **attributes: int | list[int]) -> ir.Value:
        name = names.new(f"{scope}/{op}")
        output = ir.Value(name=name, shape=ir.Shape(shape), type=result.type)
        graph.insert_before(node, ir.node(op, inputs, attributes, outputs=[output], name=name))
        return output

    scale = _scale(graph, node.attributes.get_float("scale", head**-0.5))
    scaled = add("Mul", [query, scale], [batch, heads, tokens, head])
    turned = add("Transpose", [key], [batch, heads, head, keys], perm=[0, 1, 3, 2])
    logits = add("MatMul", [scaled, turned], [batch, heads, tokens, keys])
    mixed = add("MatMul", [add("Softmax", [logits], [batch, heads, tokens, keys], axis=-1), value], [])
    mixed.shape, name = result.shape, result.name
    result.replace_all_uses_with(mixed, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    mixed.name = name  # a graph output keeps its name


def _scale(graph: ir.Graph, scale: float) -> ir.Value:
    """One constant per distinct scale."""
    name = f"const.attention_scale.{np.format_float_scientific(np.float32(scale), trim='-')}"
    if name not in graph.initializers:
        tensor = ir.tensor(np.array(scale, np.float32), name=name)
        value = ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[name]
