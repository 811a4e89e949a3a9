"""One function per torch operator: how it becomes ONNX (opset 23). All shapes are static.

A new operator is one function with ``@translates``; ``translate`` names the operator that lacks one. Attention,
LayerNormalization and Gelu stay whole: a runtime that wants them written out can do that, the reverse is guesswork.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

import vggt_edge.calibration.quantization.operators  # noqa: F401  registers the operators below
from vggt_edge.calibration.quantization.form import weight_numbers
from vggt_edge.calibration.quantization.ranges import INPUT_RANGES, Range
from vggt_edge.calibration.scheme import FP4, INT8
from vggt_edge.exporter.graph.builder import Constant, Operand, TemplateBuilder, Weight, onnx_type
from vggt_edge.exporter.graph.template import Value
from vggt_edge.runtimes.common.fp4 import QUANTIZE_FP4

aten = torch.ops.aten
decomposed, torchao = torch.ops.quantized_decomposed, torch.ops.torchao


class Call:
    """One operator call: its arguments by schema name, tensors as operands, and the shape of the result."""

    def __init__(self, builder: TemplateBuilder, node: Node, arguments: Mapping[str, Any]) -> None:
        self.builder = builder
        self.node = node
        self.arguments = arguments

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the node's result."""
        return tuple(self.node.meta["val"].shape)

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the node's result."""
        dtype: torch.dtype = self.node.meta["val"].dtype
        return dtype

    def emit(self, op: str, inputs: Sequence[Operand | str], **attributes: Any) -> Value:
        """A node with the shape and type of the call's result."""
        return self.builder.emit(op, inputs, self.shape, self.dtype, **attributes)


Translation = Callable[[Call], Operand]
TRANSLATIONS: dict[Any, Translation] = {}


def translates(*targets: Any) -> Callable[[Translation], Translation]:
    """Decorator: the function translates these torch operators."""

    def register(function: Translation) -> Translation:
        for target in targets:
            TRANSLATIONS[target] = function
        return function

    return register


def shape_and_type(operand: Operand) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and element type of an operand, whether it is computed, constant or a weight."""
    if isinstance(operand, Value):
        return operand.shape, operand.dtype
    if isinstance(operand, Constant):
        return tuple(operand.tensor.shape), operand.tensor.dtype
    raise TypeError(f"no shape of {type(operand).__name__}")


def shape_of(operand: Operand) -> tuple[int, ...]:
    """Shape of an operand."""
    return shape_and_type(operand)[0]


def _elementwise(op: str) -> Translation:
    def translate(call: Call) -> Operand:
        sides = [call["self"], call["other"]]
        if call.arguments.get("alpha", 1) != 1 or call.arguments.get("rounding_mode") is not None:
            raise NotImplementedError("alpha or rounding_mode")
        return call.emit(
            op, [call.builder.scalar(side, call.dtype) if isinstance(side, (int, float)) else side for side in sides]
        )

    return translate


def _unary(op: str) -> Translation:
    return lambda call: call.emit(op, [call["self"]])


for _target, _op in (
    (aten.add.Tensor, "Add"), (aten.sub.Tensor, "Sub"), (aten.mul.Tensor, "Mul"), (aten.div.Tensor, "Div"),
):  # fmt: skip
    TRANSLATIONS[_target] = _elementwise(_op)
for _target, _op in (
    (aten.relu.default, "Relu"), (aten.exp.default, "Exp"), (aten.abs.default, "Abs"), (aten.sign.default, "Sign"),
    (aten.sigmoid.default, "Sigmoid"), (aten.neg.default, "Neg"), (aten.sqrt.default, "Sqrt"),
    (aten.tanh.default, "Tanh"), (aten.sin.default, "Sin"), (aten.cos.default, "Cos"),
):  # fmt: skip
    TRANSLATIONS[_target] = _unary(_op)


@translates(aten.detach.default, aten.detach_.default, aten.clone.default, aten.contiguous.default, aten.alias.default)
def same(call: Call) -> Operand:
    """The operand itself: operators that change nothing at inference."""
    operand: Operand = call["self"]
    return operand


@translates(aten.dropout.default)
def dropout(call: Call) -> Operand:
    """The operand itself: dropout does nothing at inference."""
    operand: Operand = call["input"]
    return operand


@translates(aten.linear.default)
def linear(call: Call) -> Operand:
    """Gemm where it says the same in one node; MatMul and Add for quantized weights, whose fusions look for those."""
    if len(call.shape) == 2 and isinstance(call["weight"], Constant) and call["bias"] is not None:
        weight = call.builder.weight(call["weight"], transposed=True)
        return call.emit("Gemm", [call["input"], weight, call["bias"]])
    product = call.emit("MatMul", [call["input"], call.builder.weight(call["weight"], transposed=True)])
    return product if call["bias"] is None else call.emit("Add", [product, call["bias"]])


@translates(aten.layer_norm.default)
def layer_norm(call: Call) -> Operand:
    """``aten.layer_norm`` over the last axis to LayerNormalization."""
    size = call["normalized_shape"]
    if len(size) != 1:
        raise NotImplementedError("normalisation over several axes")
    scale = call.builder.ones(size[0]) if call["weight"] is None else call["weight"]
    bias = [] if call["bias"] is None else [call["bias"]]
    return call.emit("LayerNormalization", [call["input"], scale, *bias], axis=-1, epsilon=call["eps"])


@translates(aten.gelu.default)
def gelu(call: Call) -> Operand:
    """``aten.gelu`` to Gelu."""
    return call.emit("Gelu", [call["self"]], approximate=call["approximate"])


@translates(aten.silu.default)
def silu(call: Call) -> Operand:
    """``aten.silu`` to x * Sigmoid(x); ONNX has no single operator for it at this opset."""
    return call.emit("Mul", [call["self"], call.emit("Sigmoid", [call["self"]])])


@translates(aten.softmax.int)
def softmax(call: Call) -> Operand:
    """``aten.softmax`` to Softmax."""
    return call.emit("Softmax", [call["self"]], axis=call["dim"])


@translates(aten.scaled_dot_product_attention.default)
def attention(call: Call) -> Operand:
    """``aten.scaled_dot_product_attention`` without mask to Attention."""
    if call["attn_mask"] is not None or call["is_causal"] or call["dropout_p"]:
        raise NotImplementedError("mask, causality or dropout")
    query = shape_of(call["query"])
    scale = query[-1] ** -0.5 if call["scale"] is None else call["scale"]
    return call.emit("Attention", [call["query"], call["key"], call["value"]], scale=float(scale))


@translates(aten.mean.dim)
def mean(call: Call) -> Operand:
    """``aten.mean`` over some axes to ReduceMean."""
    axes = call.builder.integers(*call["dim"])
    return call.emit("ReduceMean", [call["self"], axes], keepdims=int(call["keepdim"]))


@translates(aten.matmul.default)
def matmul(call: Call) -> Operand:
    """``aten.matmul`` to MatMul."""
    return call.emit("MatMul", [call["self"], call["other"]])


@translates(
    aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unsqueeze.default, aten.squeeze.dim,
    aten.unflatten.int,
)  # fmt: skip
def reshape(call: Call) -> Operand:
    """``aten.view`` and its relatives to Reshape with a constant shape; nothing where the shape stays."""
    if shape_of(call["self"]) == call.shape:
        return same(call)
    return call.emit("Reshape", [call["self"], call.builder.integers(*call.shape)])


@translates(aten.permute.default)
def permute(call: Call) -> Operand:
    """``aten.permute`` to Transpose."""
    rank = len(call.shape)
    return call.emit("Transpose", [call["self"]], perm=[axis % rank for axis in call["dims"]])


@translates(aten.transpose.int)
def transpose(call: Call) -> Operand:
    """``aten.transpose`` (two axes exchanged) to Transpose."""
    axes = list(range(len(call.shape)))
    first, second = call["dim0"] % len(axes), call["dim1"] % len(axes)
    axes[first], axes[second] = axes[second], axes[first]
    return call.emit("Transpose", [call["self"]], perm=axes)


@translates(aten.expand.default)
def expand(call: Call) -> Operand:
    """``aten.expand`` to Expand with a constant shape; nothing where the shape stays."""
    if shape_of(call["self"]) == call.shape:
        return same(call)
    return call.emit("Expand", [call["self"], call.builder.integers(*call.shape)])


@translates(aten.select.int)
def select(call: Call) -> Operand:
    """``aten.select`` (one index of an axis) to Gather."""
    rank = len(shape_of(call["self"]))
    return call.emit("Gather", [call["self"], call.builder.index(call["index"])], axis=call["dim"] % rank)


@translates(aten.index_select.default)
def index_select(call: Call) -> Operand:
    """``aten.index_select`` to Gather."""
    return call.emit("Gather", [call["self"], call["index"]], axis=call["dim"] % len(call.shape))


@translates(aten.slice.Tensor)
def slice_(call: Call) -> Operand:
    """``aten.slice`` to Slice; nothing where it takes all."""
    before = shape_of(call["self"])
    if before == call.shape:
        return same(call)
    axis, step = call["dim"] % len(before), call["step"]
    start = slice(call["start"], call["end"], step).indices(before[axis])[0]
    bounds = (start, start + call.shape[axis] * step, axis, step)
    return call.emit("Slice", [call["self"], *(call.builder.integers(bound) for bound in bounds)])


@translates(aten.cat.default)
def concat(call: Call) -> Operand:
    """``aten.cat`` to Concat."""
    return call.emit("Concat", list(call["tensors"]), axis=call["dim"] % len(call.shape))


@translates(aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int)
def split(call: Call) -> Operand:
    """``aten.split`` and ``aten.chunk`` to Split."""
    parts = call.node.meta["val"]
    if call.node.target is aten.unbind.int:
        raise NotImplementedError("unbind: index the tensor instead, which is one node less")
    axis = call["dim"] % parts[0].ndim
    sizes = [part.shape[axis] for part in parts]
    shapes = [tuple(part.shape) for part in parts]
    return call.builder.emit_many(
        "Split", [call["self"], call.builder.integers(*sizes)], shapes, parts[0].dtype, axis=axis
    )


@translates(operator.getitem)
def item(call: Call) -> Operand:
    """One of the results of a node that has several."""
    chosen: Operand = call["self"][call["index"]]
    return chosen


def _convolution(call: Call, op: str, **attributes: Any) -> Operand:
    bias = [] if call["bias"] is None else [call["bias"]]
    pads = [int(amount) for amount in call["padding"]]
    return call.emit(
        op,
        [call["input"], call.builder.weight(call["weight"], transposed=False), *bias],
        strides=list(call["stride"]), pads=pads * 2, dilations=list(call["dilation"]), group=call["groups"],
        **attributes,
    )  # fmt: skip


@translates(aten.conv2d.default)
def conv2d(call: Call) -> Operand:
    """``aten.conv2d`` to Conv."""
    return _convolution(call, "Conv")


@translates(aten.conv_transpose2d.input)
def conv_transpose2d(call: Call) -> Operand:
    """``aten.conv_transpose2d`` to ConvTranspose."""
    return _convolution(call, "ConvTranspose", output_padding=list(call["output_padding"]))


@translates(aten.upsample_bilinear2d.vec)
def upsample_bilinear(call: Call) -> Operand:
    """``aten.upsample_bilinear2d`` with aligned corners to Resize."""
    if not call["align_corners"]:
        raise NotImplementedError("bilinear resizing without align_corners")
    sizes = call.builder.integers(*call.shape)
    return call.emit(
        "Resize", [call["input"], "", "", sizes], mode="linear", coordinate_transformation_mode="align_corners"
    )


@translates(aten.to.dtype, aten._to_copy.default)
def cast(call: Call) -> Operand:
    """A change of type; an FP16 constant becomes a weight that is stored in FP16."""
    source: Operand = call["self"]
    if isinstance(source, Constant) and source.tensor.dtype == torch.float16:
        return Weight(source, bits=16)
    if not isinstance(source, Value):
        raise NotImplementedError(f"cast of a {type(source).__name__}")
    if source.dtype == call.dtype:
        return source
    return call.emit("Cast", [source], to=onnx_type(call.dtype))


@translates(decomposed.quantize_per_tensor.default)
def quantize_per_tensor(call: Call) -> Operand:
    """Static quantization of an activation to QuantizeLinear."""
    return call.emit("QuantizeLinear", [call["input"], *_static_scale(call)])


@translates(decomposed.dequantize_per_tensor.default)
def dequantize_per_tensor(call: Call) -> Operand:
    """The way back from int8 to DequantizeLinear."""
    return call.emit("DequantizeLinear", [call["input"], *_static_scale(call)])


def _static_scale(call: Call) -> tuple[Operand, str]:
    if call["zero_point"] != 0 or Range(call["quant_min"], call["quant_max"]) != INPUT_RANGES[INT8]:
        raise NotImplementedError("an asymmetric or narrow activation")
    return call.builder.input_scale(call["scale"]), call.builder.scalar(0, torch.int8)


@translates(decomposed.dequantize_per_channel.default)
def dequantize_per_channel(call: Call) -> Operand:
    """An int8 weight with one scale per output channel."""
    numbers = weight_numbers(call["quant_min"], call["quant_max"])
    return Weight(call["input"], bits=numbers.bits, scale=call["scales"], axis=call["axis"])


@translates(torch.ops.vggt_edge.float8_input.default)
def float8_input(call: Call) -> Operand:
    """An activation through FP8 to QuantizeLinear and DequantizeLinear."""
    scale, zero = call.builder.input_scale(call["scale"]), call.builder.scalar(0, torch.float8_e4m3fn)
    stored = call.builder.emit("QuantizeLinear", [call["x"], scale, zero], call.shape, torch.float8_e4m3fn)
    return call.emit("DequantizeLinear", [stored, scale, zero])


@translates(torch.ops.vggt_edge.float4_input.default)
def float4_input(call: Call) -> Operand:
    """An activation through blocks of FP4 to the function that says so in plain operators (graph/functions.py)."""
    return call.emit(QUANTIZE_FP4, [call["x"], call.builder.input_scale(call["scale"])])


@translates(torch.ops.vggt_edge.dequantize_float8.default)
def dequantize_float8(call: Call) -> Operand:
    """An FP8 weight with one scale per output channel."""
    return Weight(call["stored"], bits=8, scale=call["scale"], axis=call["axis"])


@translates(torchao.choose_qparams_affine.default)
def choose_qparams_affine(call: Call) -> Operand:
    """Scale and zero point of each row, both (rows,): torch's own arithmetic, step by step."""
    low, high = call["quant_min"], call["quant_max"]
    given = (call["mapping_type"], call["scale_dtype"], call["zero_point_dtype"], call["keepdim"])
    if given != ("ASYMMETRIC", torch.float32, torch.int8, False) or Range(low, high) != INPUT_RANGES[INT8]:
        raise NotImplementedError(f"{given} from {low} to {high}")
    x, builder = _rows(call), call.builder
    shape, axes = x.shape[:1], builder.integers(*range(1, len(x.shape)))

    def bound(op: str, reduction: str) -> Value:
        found = builder.emit(reduction, [x, axes], shape, keepdims=0)
        return builder.emit(op, [found, builder.scalar(0.0)], shape)

    smallest, largest = bound("Min", "ReduceMin"), bound("Max", "ReduceMax")
    span = builder.emit("Sub", [largest, smallest], shape)
    scale = builder.emit("Div", [span, builder.scalar(high - low)], shape)
    scale = builder.emit("Max", [scale, builder.scalar(call["eps"])], shape)
    steps = builder.emit("Round", [builder.emit("Div", [smallest, scale], shape)], shape)
    point = builder.emit("Sub", [builder.scalar(low), steps], shape)
    point = builder.emit("Clip", [point, builder.scalar(low), builder.scalar(high)], shape)
    return scale, builder.emit("Cast", [point], shape, torch.int8, to=onnx_type(torch.int8))


@translates(torchao.quantize_affine.default)
def quantize_affine(call: Call) -> Operand:
    """Quantization with a scale found at run time, one per token or image."""
    if call["output_dtype"] != torch.int8 or Range(call["quant_min"], call["quant_max"]) != INPUT_RANGES[INT8]:
        raise NotImplementedError("an activation in anything but int8")
    return _by_rows(call, "QuantizeLinear")


def _rows(call: Call) -> Value:
    """The input with one scale for each entry of its first dimension, which is what ONNX has."""
    x, block = call["input"], list(call["block_size"])
    if not isinstance(x, Value):
        raise NotImplementedError("a constant")
    leading = next((axis for axis, size in enumerate(block) if size != 1), len(block))
    if block[leading:] != list(x.shape[leading:]) or leading == len(block):
        raise NotImplementedError(f"blocks of {block} in {list(x.shape)}")
    if leading == 1 or (leading > 1 and all(size == 1 for size in x.shape[1:leading])):
        return x
    rows = (math.prod(x.shape[:leading]), *x.shape[leading:])
    return call.builder.emit("Reshape", [x, call.builder.integers(*rows)], rows, x.dtype)


def _by_rows(call: Call, op: str) -> Value:
    """QuantizeLinear or DequantizeLinear with scales that were computed."""
    x = _rows(call)
    result = call.builder.emit(op, [x, call["scale"], call["zero_point"]], x.shape, call.dtype, axis=0)
    return result if x.shape == call.shape else call.emit("Reshape", [result, call.builder.integers(*call.shape)])


@translates(torchao.dequantize_affine.default)
def dequantize_affine(call: Call) -> Operand:
    """Of a weight, which has no zero point, or of an activation."""
    if call["zero_point"] is not None:
        return _by_rows(call, "DequantizeLinear")
    leading, group_size = call["block_size"]
    if leading != 1:
        raise NotImplementedError("blocks over several rows")
    numbers = weight_numbers(call["quant_min"], call["quant_max"])
    bits = 8 if numbers == FP4 else numbers.bits  # ONNX Runtime has no FP4 (runtimes.common.fp4.py)
    return Weight(call["input"], bits=bits, scale=call["scale"], group_size=group_size)


@translates(torch.ops.vggt_edge.dequantize_palette.default)
def dequantize_palette(call: Call) -> Operand:
    """A weight stored as indices into tables of values."""
    values = shape_of(call["table"])[1]
    return Weight(call["index"], bits=values.bit_length() - 1, axis=call["axis"], table=call["table"])


#: Never folded, although all their inputs are constants: restoring a weight would store it in full precision, and what
#: does not change a weight would hide where it comes from.
KEPT = frozenset(
    {
        decomposed.dequantize_per_channel.default,
        torch.ops.vggt_edge.dequantize_float8.default,
        torchao.dequantize_affine.default,
        torch.ops.vggt_edge.dequantize_palette.default,
        aten.to.dtype,
    }
    | {target for target, translation in TRANSLATIONS.items() if translation in (same, dropout)}
)


def is_kept(node: Node) -> bool:
    """Whether a node is never folded; an activation that is restored from int8 can be."""
    of_activation = node.target is torchao.dequantize_affine.default and node.args[3] is not None
    return node.target in KEPT and not of_activation
