"""What each ONNX operator computes, in torch: from float32 operands to a float32 result.

The session rounds every result to the type that the graph gives it. Only operators that our graphs may hold
(``opset.UNCHANGED``) and only forms that TensorRT takes are known; anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from vggt_edge.calibration.quantization.operators import fp4_blocks
from vggt_edge.calibration.quantization.ranges import BLOCK, E4M3
from vggt_edge.runtimes.common.fp4 import DYNAMIC_QUANTIZE

Result = Tensor | Sequence[Tensor]
Kernel = Callable[["Call"], Result]
KERNELS: dict[str, Kernel] = {}

_POINTWISE: Mapping[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Cos": torch.cos,
    "Div": torch.div,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Identity": torch.clone,
    "Log": torch.log,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Pow": torch.pow,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": functional.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Where": torch.where,
}


@dataclass(frozen=True)
class Call:
    """One node with its operands; floats are float32, an operand that is not given is None."""

    node: ir.Node
    operands: tuple[Tensor | None, ...]

    def operand(self, index: int) -> Tensor:
        """An operand that has to be there."""
        found = self.optional(index)
        if found is None:
            raise NotImplementedError(f"operand {index} is missing")
        return found

    def optional(self, index: int) -> Tensor | None:
        """An operand, or None where it is not given."""
        return self.operands[index] if index < len(self.operands) else None

    def integers(self, index: int) -> list[int]:
        """An operand that is a list of whole numbers."""
        return [int(value) for value in self.operand(index).reshape(-1).tolist()]

    def get(self, name: str, default: Any) -> Any:
        """An attribute's value."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value


def kernel(*operators: str) -> Callable[[Kernel], Kernel]:
    """Decorator: the function computes these operators."""

    def register(function: Kernel) -> Kernel:
        KERNELS.update(dict.fromkeys(operators, function))
        return function

    return register


@kernel(*_POINTWISE)
def pointwise(call: Call) -> Tensor:
    """Functions of one element, or of elements at the same place of several operands."""
    operands = [call.operand(index) for index in range(len(call.operands))]
    return _POINTWISE[call.node.op_type](*operands)


@kernel("Clip")
def clip(call: Call) -> Tensor:
    """Values limited from below, above, or both."""
    return torch.clamp(call.operand(0), call.optional(1), call.optional(2))


@kernel("Gelu")
def gelu(call: Call) -> Tensor:
    """GELU, exact or by tanh."""
    return functional.gelu(call.operand(0), approximate=call.get("approximate", "none"))


@kernel("Softmax")
def softmax(call: Call) -> Tensor:
    """Softmax along an axis."""
    return torch.softmax(call.operand(0), dim=call.get("axis", -1))


@kernel("LayerNormalization")
def layer_norm(call: Call) -> Tensor:
    """Normalisation over the last axis."""
    x = call.operand(0)
    if call.get("axis", -1) not in (-1, x.dim() - 1):
        raise NotImplementedError("normalisation over several axes")
    return functional.layer_norm(x, x.shape[-1:], call.operand(1), call.optional(2), call.get("epsilon", 1e-5))


@kernel("MatMul")
def matmul(call: Call) -> Tensor:
    """Batched matrix product."""
    return call.operand(0) @ call.operand(1)


@kernel("Gemm")
def gemm(call: Call) -> Tensor:
    """Matrix product of two dimensions, scaled, with an addend."""
    a, b, c = call.operand(0), call.operand(1), call.optional(2)
    a = a.T if call.get("transA", 0) else a
    b = b.T if call.get("transB", 0) else b
    product = (a @ b) * float(call.get("alpha", 1.0))
    return product if c is None else product + c * float(call.get("beta", 1.0))


def _padding(call: Call) -> list[int]:
    pads = list(call.get("pads", ()))
    before, after = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    if before != after or call.get("auto_pad", "NOTSET") != "NOTSET":
        raise NotImplementedError("padding that differs between the two ends")
    return before or [0, 0]


def _two(call: Call, name: str) -> list[int]:
    return list(call.get(name, (1, 1)))


@kernel("Conv")
def conv(call: Call) -> Tensor:
    """Convolution over two axes."""
    strides, dilations = _two(call, "strides"), _two(call, "dilations")
    return functional.conv2d(
        call.operand(0), call.operand(1), call.optional(2), strides, _padding(call), dilations, call.get("group", 1)
    )


@kernel("ConvTranspose")
def conv_transpose(call: Call) -> Tensor:
    """Transposed convolution over two axes."""
    more = list(call.get("output_padding", (0, 0)))
    strides, dilations = _two(call, "strides"), _two(call, "dilations")
    return functional.conv_transpose2d(
        call.operand(0),
        call.operand(1),
        call.optional(2),
        strides,
        _padding(call),
        more,
        call.get("group", 1),
        dilations,
    )


@kernel("Resize")
def resize(call: Call) -> Tensor:
    """Bilinear resize of the last two axes with aligned corners."""
    form = (call.get("mode", "nearest"), call.get("coordinate_transformation_mode", "half_pixel"))
    if form != ("linear", "align_corners") or call.optional(3) is None:
        raise NotImplementedError(f"resizing by {form}")
    size = call.integers(3)[-2:]
    return functional.interpolate(call.operand(0), size=size, mode="bilinear", align_corners=True)


@kernel("Reshape")
def reshape(call: Call) -> Tensor:
    """The same elements in another shape; 0 keeps a side."""
    x, shape = call.operand(0), call.integers(1)
    return x.reshape([x.shape[axis] if side == 0 else side for axis, side in enumerate(shape)])


@kernel("Transpose")
def transpose(call: Call) -> Tensor:
    """Axes in another order."""
    x = call.operand(0)
    return x.permute(list(call.get("perm", range(x.dim() - 1, -1, -1))))


@kernel("Concat")
def concat(call: Call) -> Tensor:
    """Operands joined along an axis."""
    return torch.cat([call.operand(index) for index in range(len(call.operands))], dim=call.get("axis", 0))


@kernel("Split")
def split(call: Call) -> Sequence[Tensor]:
    """Parts of an axis, of given sizes or as many equal ones as there are results."""
    x, axis = call.operand(0), call.get("axis", 0)
    if call.optional(1) is not None:
        return torch.split(x, call.integers(1), dim=axis)
    return torch.chunk(x, len(call.node.outputs), dim=axis)


@kernel("Slice")
def slice_(call: Call) -> Tensor:
    """A box out of the operand; steps are forward."""
    x, starts, ends = call.operand(0), call.integers(1), call.integers(2)
    axes = call.integers(3) if call.optional(3) is not None else list(range(len(starts)))
    steps = call.integers(4) if call.optional(4) is not None else [1] * len(starts)
    if min(steps) < 1:
        raise NotImplementedError("steps backward")
    index = [slice(None)] * x.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


@kernel("Gather")
def gather(call: Call) -> Tensor:
    """Slices of an axis picked by an index tensor."""
    x, index = call.operand(0), call.operand(1).long()
    axis = call.get("axis", 0) % x.dim()
    index = torch.where(index < 0, index + x.shape[axis], index)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@kernel("Expand")
def expand(call: Call) -> Tensor:
    """The operand repeated along axes of length one."""
    return call.operand(0) * torch.ones(call.integers(1))


@kernel("Squeeze")
def squeeze(call: Call) -> Tensor:
    """Without axes of length one."""
    return call.operand(0).squeeze(tuple(call.integers(1)))


@kernel("Unsqueeze")
def unsqueeze(call: Call) -> Tensor:
    """With new axes of length one."""
    x = call.operand(0)
    axes = call.integers(1)
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@kernel("ReduceMean", "ReduceSum")
def reduce(call: Call) -> Tensor:
    """Mean or sum over axes."""
    function = torch.mean if call.node.op_type == "ReduceMean" else torch.sum
    return function(call.operand(0), dim=call.integers(1), keepdim=bool(call.get("keepdims", 1)))


@kernel("Cast")
def cast(call: Call) -> Tensor:
    """The operand as it is: the session rounds it to the type of the result."""
    return call.operand(0)


@kernel("QuantizeLinear")
def quantize(call: Call) -> Tensor:
    """Numbers of 8 bits: x over the scale, rounded to the nearest even, with an integer's zero point added."""
    zero_point = call.optional(2)
    kind = call.node.inputs[2] if zero_point is not None else None
    if kind is not None and kind.dtype == ir.DataType.FLOAT8E4M3FN:
        return E4M3().nearest(call.operand(0) / _along(call, call.operand(1)))
    scale = _along(call, call.operand(1))
    shifted = torch.round(call.operand(0) / scale) + (0 if zero_point is None else _along(call, zero_point))
    return shifted.clamp(-128, 127)


@kernel(DYNAMIC_QUANTIZE)
def quantize_fp4(call: Call) -> Sequence[Tensor]:
    """(E2M1 numbers, E4M3 scales of their blocks) of x (..., in); the second operand is the unit of the scales."""
    form = (call.get("axis", 0), call.get("block_size", 0), call.get("scale_type", 0))
    if form != (-1, BLOCK, ir.DataType.FLOAT8E4M3FN):
        raise NotImplementedError(f"FP4 by {form}")
    return fp4_blocks(call.operand(0), call.operand(1))


@kernel("DequantizeLinear")
def dequantize(call: Call) -> Tensor:
    """Numbers of integers: (q - zero point) times the scale, of the tensor, of a channel, or of a block."""
    zero_point = call.optional(2)
    integers = call.operand(0).float()
    if zero_point is not None:
        integers = integers - _along(call, zero_point).float()
    return integers * _along(call, call.operand(1))


def _along(call: Call, values: Tensor) -> Tensor:
    """Scales or zero points, laid out so that they broadcast over the operand."""
    x = call.operand(0)
    block = call.get("block_size", 0)
    axis = call.get("axis", 1)
    if block:
        return values.repeat_interleave(block, dim=axis).narrow(axis, 0, x.shape[axis])
    if values.numel() == 1:
        return values.reshape(())
    return values.reshape([-1 if dim == axis % x.dim() else 1 for dim in range(x.dim())])
