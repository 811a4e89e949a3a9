"""One function per ONNX operator: how it becomes MIL. All shapes are static, and every float has its type already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from vggt_edge.runtimes.base import TOP
from vggt_edge.runtimes.coreml.mil_graph import Graph

Translation = Callable[[Graph, ir.Node], Any]
TRANSLATIONS: dict[str, Translation] = {}
_DTYPES = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.INT32: "int32",
    ir.DataType.INT64: "int32",
    ir.DataType.BOOL: "bool",
}
_SCALE_TOLERANCE = 1e-5


def translates(*operators: str) -> Callable[[Translation], Translation]:
    """Decorator: the function translates these ONNX operators."""

    def register(function: Translation) -> Translation:
        for operator in operators:
            TRANSLATIONS[operator] = function
        return function

    return register


def _shape(value: ir.Value | None) -> list[int]:
    if value is None or value.shape is None or not value.shape.is_static():
        raise ValueError("an operand without a fixed shape")
    return [int(side) for side in value.shape.numpy()]


def _unary(operator: str) -> Translation:
    return lambda graph, node: graph.emit(operator, node, x=graph.read(node.inputs[0]))


def _binary(operator: str) -> Translation:
    return lambda graph, node: graph.emit(operator, node, x=graph.read(node.inputs[0]), y=graph.read(node.inputs[1]))


for _onnx, _mil in (
    ("Relu", "relu"), ("Exp", "exp"), ("Abs", "abs"), ("Sign", "sign"), ("Sigmoid", "sigmoid"), ("Sqrt", "sqrt"),
    ("Tanh", "tanh"), ("Sin", "sin"), ("Cos", "cos"), ("Identity", "identity"),
):  # fmt: skip
    TRANSLATIONS[_onnx] = _unary(_mil)
for _onnx, _mil in (("Add", "add"), ("Sub", "sub"), ("Mul", "mul"), ("Div", "real_div")):
    TRANSLATIONS[_onnx] = _binary(_mil)


@translates("Neg")
def negate(graph: Graph, node: ir.Node) -> Any:
    """Neg to a product with -1."""
    x = graph.read(node.inputs[0])
    return graph.emit("mul", node, x=x, y=_number(node.inputs[0], -1.0))


def _number(value: ir.Value | None, number: float) -> Any:
    """A scalar of the type of ``value``."""
    wide = value is not None and value.dtype == ir.DataType.FLOAT
    return np.float32(number) if wide else np.float16(number)


@translates("MatMul")
def matmul(graph: Graph, node: ir.Node) -> Any:
    """A linear where one side is a stored weight; its bias joins it if the next node adds one in the same type."""
    weight = None if _is_table(node.inputs[1]) else graph.weight(node.inputs[1], transposed=True)
    if weight is None:
        return graph.emit("matmul", node, x=graph.read(node.inputs[0]), y=graph.read(node.inputs[1]))
    follower = _bias_adder(node)
    bias = None if follower is None else graph.constant(_bias(follower, node.outputs[0]))
    result = graph.emit("linear", node, "linear", x=graph.read(node.inputs[0]), weight=weight, bias=bias)
    if follower is not None:
        graph.values[follower.outputs[0]] = result
        graph.done.add(follower)
    return result


def _is_table(value: ir.Value | None) -> bool:
    """Whether it is no layer's weight, which belongs to one layer.

    The matrix that turns rotary channels is read by several, a constant of the model's own arithmetic by none.
    """
    readers = () if value is None else value.uses()
    scopes = {(use.node.name or "").rpartition("/")[0] for use in readers}
    return len(scopes) > 1 or scopes == {TOP}


def _bias_adder(node: ir.Node) -> ir.Node | None:
    product = node.outputs[0]
    users = [use.node for use in product.uses()]
    if len(users) != 1 or users[0].op_type != "Add" or product.is_graph_output():
        return None
    bias = _bias(users[0], product)
    fits = bias.const_value is not None and bias.dtype == product.dtype and _shape(bias) == _shape(product)[-1:]
    return users[0] if fits else None


def _bias(add: ir.Node, product: ir.Value) -> ir.Value:
    other = add.inputs[1] if add.inputs[0] is product else add.inputs[0]
    assert other is not None
    return other


@translates("Gemm")
def gemm(graph: Graph, node: ir.Node) -> Any:
    """Gemm without scaling or transposed input to ``linear``."""
    if node.attributes.get_int("transA", 0) or {node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")} != {
        1
    }:
        raise ValueError("a Gemm that transposes its input or scales")
    weight = graph.weight(node.inputs[1], transposed=not node.attributes.get_int("transB", 0))
    if weight is None:
        raise ValueError("a Gemm without a stored weight")
    bias = graph.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return graph.emit("linear", node, "linear", x=graph.read(node.inputs[0]), weight=weight, bias=bias)


@translates("LayerNormalization")
def layer_norm(graph: Graph, node: ir.Node) -> Any:
    """LayerNormalization over the last axis to ``layer_norm``."""
    rank = len(_shape(node.inputs[0]))
    if node.attributes.get_int("axis", -1) % rank != rank - 1:
        raise ValueError("normalisation over several axes")
    beta = graph.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    return graph.emit(
        "layer_norm",
        node,
        x=graph.read(node.inputs[0]),
        axes=[-1],
        gamma=graph.constant(node.inputs[1]),
        beta=beta,
        epsilon=_number(node.inputs[0], node.attributes.get_float("epsilon", 1e-5)),
    )


@translates("Gelu")
def gelu(graph: Graph, node: ir.Node) -> Any:
    """Gelu to ``gelu``, exact or by tanh as the node says."""
    exact = node.attributes.get_string("approximate", "none") == "none"
    mode = "EXACT" if exact else "TANH_APPROXIMATION"
    return graph.emit("gelu", node, x=graph.read(node.inputs[0]), mode=mode)


@translates("Softmax")
def softmax(graph: Graph, node: ir.Node) -> Any:
    """Softmax to ``softmax``."""
    axis = node.attributes.get_int("axis", -1)
    return graph.emit("softmax", node, x=graph.read(node.inputs[0]), axis=axis)


@translates("Attention")
def attention(graph: Graph, node: ir.Node) -> Any:
    """One operator from iOS 18, whose scale is 1 / sqrt(head_dim); written out before."""
    if len(node.inputs) != 3 or set(node.attributes) - {"scale"} or len(_shape(node.inputs[0])) != 4:
        raise ValueError("attention with a mask, a cache or other than 4 axes")
    query, key, value = (graph.read(operand) for operand in node.inputs)
    own = _shape(node.inputs[0])[-1] ** -0.5
    scale = node.attributes.get_float("scale", own)
    if graph.ios < 18:
        return _written_out(graph, node, query, key, value, scale)
    if abs(scale / own - 1) > _SCALE_TOLERANCE:
        query = graph.emit("mul", node, "scale", x=query, y=_number(node.inputs[0], scale / own))
    return graph.emit("scaled_dot_product_attention", node, query=query, key=key, value=value)


def _written_out(graph: Graph, node: ir.Node, query: Any, key: Any, value: Any, scale: float) -> Any:
    """The scale goes to q, before logits that FP16 might not hold."""
    scaled = graph.emit("mul", node, "scale", x=query, y=_number(node.inputs[0], scale))
    logits = graph.emit("matmul", node, "logits", x=scaled, y=key, transpose_y=True)
    shares = graph.emit("softmax", node, "softmax", x=logits, axis=-1)
    return graph.emit("matmul", node, x=shares, y=value)


@translates("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(graph: Graph, node: ir.Node) -> Any:
    """Reshape to ``reshape`` with the static shape of the result."""
    return graph.emit("reshape", node, x=graph.read(node.inputs[0]), shape=_shape(node.outputs[0]))


@translates("Transpose")
def transpose(graph: Graph, node: ir.Node) -> Any:
    """Transpose to ``transpose``."""
    rank = len(_shape(node.inputs[0]))
    order = [int(axis) for axis in node.attributes.get_ints("perm", tuple(reversed(range(rank))))]
    return graph.emit("transpose", node, x=graph.read(node.inputs[0]), perm=order)


@translates("Concat")
def concat(graph: Graph, node: ir.Node) -> Any:
    """Concat to ``concat``."""
    values = [graph.read(value) for value in node.inputs]
    return graph.emit("concat", node, values=values, axis=node.attributes.get_int("axis", 0))


@translates("Split")
def split(graph: Graph, node: ir.Node) -> Any:
    """Split to ``split`` with the sizes of the parts."""
    sizes, axis = graph.integers(node.inputs[1]), node.attributes.get_int("axis", 0)
    return graph.emit("split", node, x=graph.read(node.inputs[0]), split_sizes=sizes, axis=axis)


@translates("Slice")
def slice_(graph: Graph, node: ir.Node) -> Any:
    """Slice to ``slice_by_index``."""
    shape = _shape(node.inputs[0])
    starts, ends = (graph.integers(value) for value in node.inputs[1:3])
    axes = graph.integers(node.inputs[3]) if len(node.inputs) > 3 else list(range(len(starts)))
    steps = graph.integers(node.inputs[4]) if len(node.inputs) > 4 else [1] * len(starts)
    begin, end, stride = [0] * len(shape), list(shape), [1] * len(shape)
    for start, stop, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise ValueError("a slice that runs backwards")
        begin[axis], end[axis], stride[axis] = slice(start, stop, step).indices(shape[axis])
    return graph.emit("slice_by_index", node, x=graph.read(node.inputs[0]), begin=begin, end=end, stride=stride)


@translates("Gather")
def gather(graph: Graph, node: ir.Node) -> Any:
    """One index is a slice, which the Neural Engine runs; several are a gather."""
    shape, axis = _shape(node.inputs[0]), node.attributes.get_int("axis", 0)
    index = graph.constant(node.inputs[1])
    if index.ndim:
        return graph.emit("gather", node, x=graph.read(node.inputs[0]), indices=index.astype(np.int32), axis=axis)
    start = int(index) % shape[axis]
    return graph.emit(
        "slice_by_index",
        node,
        x=graph.read(node.inputs[0]),
        begin=[start if dim == axis else 0 for dim in range(len(shape))],
        end=[start + 1 if dim == axis else side for dim, side in enumerate(shape)],
        squeeze_mask=[dim == axis for dim in range(len(shape))],
    )


@translates("ReduceMean")
def mean(graph: Graph, node: ir.Node) -> Any:
    """ReduceMean over given axes to ``reduce_mean``."""
    keep = bool(node.attributes.get_int("keepdims", 1))
    axes = graph.integers(node.inputs[1])
    return graph.emit("reduce_mean", node, x=graph.read(node.inputs[0]), axes=axes, keep_dims=keep)


@translates("Expand")
def expand(graph: Graph, node: ir.Node) -> Any:
    """Expand to ``tile``."""
    before, after = _shape(node.inputs[0]), _shape(node.outputs[0])
    x = graph.read(node.inputs[0])
    before = [1] * (len(after) - len(before)) + before
    if len(before) != len(_shape(node.inputs[0])):
        x = graph.emit("reshape", node, "rank", x=x, shape=before)
    repeats = [wanted // had for wanted, had in zip(after, before, strict=True)]
    return graph.emit("tile", node, x=x, reps=repeats)


@translates("Conv")
def conv(graph: Graph, node: ir.Node) -> Any:
    """Conv to ``conv``."""
    return graph.emit("conv", node, **_convolution(graph, node))


@translates("ConvTranspose")
def conv_transpose(graph: Graph, node: ir.Node) -> Any:
    """ConvTranspose without output padding to ``conv_transpose``."""
    if any(node.attributes.get_ints("output_padding", ())):
        raise ValueError("output padding")
    return graph.emit("conv_transpose", node, **_convolution(graph, node))


def _convolution(graph: Graph, node: ir.Node) -> dict[str, Any]:
    weight = graph.weight(node.inputs[1], transposed=False)
    if weight is None:
        raise ValueError("a convolution without a stored weight")
    top, left, bottom, right = (int(side) for side in node.attributes.get_ints("pads", (0, 0, 0, 0)))
    return {
        "x": graph.read(node.inputs[0]),
        "weight": weight,
        "bias": graph.constant(node.inputs[2]) if len(node.inputs) > 2 else None,
        "strides": [int(step) for step in node.attributes.get_ints("strides", (1, 1))],
        "dilations": [int(step) for step in node.attributes.get_ints("dilations", (1, 1))],
        "pad_type": "custom",
        "pad": [top, bottom, left, right],
        "groups": node.attributes.get_int("group", 1),
    }


@translates("Resize")
def resize(graph: Graph, node: ir.Node) -> Any:
    """Resize (linear, aligned corners) to ``resize_bilinear``."""
    mode = node.attributes.get_string("mode", "nearest")
    corners = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if (mode, corners) != ("linear", "align_corners"):
        raise ValueError(f"resizing with {mode} and {corners}")
    height, width = _shape(node.outputs[0])[2:]
    return graph.emit(
        "resize_bilinear",
        node,
        x=graph.read(node.inputs[0]),
        target_size_height=height,
        target_size_width=width,
        sampling_mode="STRICT_ALIGN_CORNERS",
    )


@translates("Cast")
def cast(graph: Graph, node: ir.Node) -> Any:
    """Cast to ``cast``."""
    dtype = _DTYPES[ir.DataType(node.attributes.get_int("to"))]
    return graph.emit("cast", node, x=graph.read(node.inputs[0]), dtype=dtype)


@translates("QuantizeLinear")
def quantize(graph: Graph, node: ir.Node) -> Any:
    """QuantizeLinear of an activation, one scale for all of it, to ``quantize``."""
    scale = _tensor_scale(graph, node)
    return graph.emit("quantize", node, input=graph.read(node.inputs[0]), scale=scale, output_dtype="int8")


@translates("DequantizeLinear")
def dequantize(graph: Graph, node: ir.Node) -> Any:
    """DequantizeLinear of an activation to ``dequantize``."""
    scale = _tensor_scale(graph, node)
    return graph.emit("dequantize", node, input=graph.read(node.inputs[0]), scale=scale)


def _tensor_scale(graph: Graph, node: ir.Node) -> Any:
    scale = graph.constant(node.inputs[1])
    zero = graph.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.int8(0)
    if scale.size != 1 or zero.dtype != np.int8 or np.any(zero):
        raise ValueError("an activation that is not quantized symmetrically to int8 with one scale")
    return scale.reshape(())[()]
