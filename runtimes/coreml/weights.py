"""How an ONNX weight is stored, and the MIL constant that stores it alike: nothing is widened on the way.

In MIL a weight is a constant, or a ``constexpr`` operator over constants that Core ML unpacks when it loads the model
or while it computes. ONNX keeps matrices transposed, (in, out); MIL wants (out, in).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.common.audit import array_of, stored_palette, stored_weight

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Integers:
    """``values`` (int8) of 4 or 8 bits. scale: same rank; each entry serves an equal share of its axis."""

    values: Array
    bits: int
    scale: Array


@dataclass(frozen=True)
class Indices:
    """``index`` (uint8) of ``bits`` into ``table`` (tables, 2**bits), whose rows share ``axis`` equally."""

    index: Array
    bits: int
    table: Array
    axis: int


@dataclass(frozen=True)
class Floats:
    """``values`` as stored, and the type they are computed in: an FP16 weight in an FP32 block stays FP16."""

    values: Array
    compute: npt.DTypeLike


Weight = Integers | Indices | Floats


def read_weight(value: ir.Value, *, transposed: bool) -> Weight | None:
    """The stored form of a linear's or convolution's operand; None for an activation. ``transposed`` turns a matrix."""
    palette = stored_palette(value)
    if palette is not None:
        compute = array_of(palette.table).astype(_float(value))
        index = _turned(array_of(palette.index).astype(np.uint8), transposed)
        return Indices(index, palette.bits, compute, _table_axis(value, transposed, index.ndim))
    if stored_weight(value) is None:
        return None
    node = value.producer()
    if node is None or node.op_type == "Cast":
        stored = stored_weight(value)
        assert stored is not None
        return Floats(_turned(array_of(stored), transposed), _float(value))
    if node.op_type == "DequantizeLinear":
        return _integers(node, transposed)
    raise LoweringError(
        f"a weight behind {node.op_type}",
        where=node.name or node.op_type,
        expected="a weight that is stored, cast, dequantized or looked up",
    )


def _float(value: ir.Value) -> npt.DTypeLike:
    return np.float32 if value.dtype == ir.DataType.FLOAT else np.float16


def _turned(values: Array, transposed: bool) -> Array:
    return np.ascontiguousarray(values.T) if transposed else values


def _integers(node: ir.Node, transposed: bool) -> Integers:
    stored, scale = (stored_weight(value) for value in node.inputs[:2])
    assert stored is not None
    assert scale is not None
    values, scales = array_of(stored).astype(np.int8), array_of(scale)
    if "block_size" not in node.attributes:
        axis = node.attributes.get_int("axis", 1)
        scales = scales.reshape([-1 if dim == axis else 1 for dim in range(values.ndim)])
    bits = 4 if stored.dtype == ir.DataType.INT4 else 8
    return Integers(_turned(values, transposed), bits, _turned(scales, transposed))


def _table_axis(value: ir.Value, transposed: bool, rank: int) -> int:
    """The axis along which the offsets of the tables run; any for a single table."""
    gather = value.producer()
    while gather is not None and gather.op_type != "Gather":
        source = gather.inputs[0]
        gather = None if source is None else source.producer()
    assert gather is not None
    index = gather.inputs[1]
    add = None if index is None else index.producer()
    if add is None or add.op_type != "Add":
        return 0
    offsets = stored_weight(add.inputs[1])
    assert offsets is not None
    axis = int(np.argmax(list(offsets.shape.numpy())))
    return rank - 1 - axis if transposed else axis


def emit_weight(mb: Any, weight: Weight, name: str, *, blockwise: bool) -> Any:
    """The MIL value of a weight. blockwise: iOS 18 operators; else those of iOS 16, which know 8 bits per channel."""
    if isinstance(weight, Floats):
        return _emit_floats(mb, weight, name)
    if isinstance(weight, Indices):
        return _emit_indices(mb, weight, name, blockwise)
    return _emit_integers(mb, weight, name, blockwise)


def _emit_floats(mb: Any, weight: Floats, name: str) -> Any:
    if weight.values.dtype == weight.compute:
        return mb.const(val=weight.values, name=name)
    return mb.constexpr_cast(source_val=weight.values, output_dtype="fp32", name=name)


def _emit_integers(mb: Any, weight: Integers, name: str, blockwise: bool) -> Any:
    if blockwise:
        data = _narrow(weight.values, f"int{weight.bits}")
        return mb.constexpr_blockwise_shift_scale(data=data, scale=weight.scale, name=name)
    axis = int(np.argmax(weight.scale.shape))
    if weight.bits != 8 or weight.scale.size != weight.values.shape[axis]:
        raise _too_old("4-bit or blockwise weights", name)
    return mb.constexpr_affine_dequantize(
        quantized_data=weight.values,
        zero_point=np.int8(0),
        scale=weight.scale.reshape(-1),
        axis=axis,
        name=name,
    )


def _emit_indices(mb: Any, weight: Indices, name: str, blockwise: bool) -> Any:
    if not blockwise:
        raise _too_old("palettes per group of channels", name)
    tables, values = weight.table.shape
    layout = [tables if dim == weight.axis else 1 for dim in range(weight.index.ndim)]
    return mb.constexpr_lut_to_dense(
        indices=_narrow(weight.index, f"uint{weight.bits}"),
        lut=weight.table.reshape(*layout, values, 1),
        name=name,
    )


def _narrow(values: Array, kind: str) -> Array:
    """8-bit values under coremltools' name of a narrower type, which it then packs."""
    from vggt_edge.runtimes.coreml.sdk import load_coremltools

    types = load_coremltools("coremltools.converters.mil.mil.types")
    return values.astype(types.nptype_from_builtin(types.string_to_builtin(kind)))


def _too_old(what: str, name: str) -> LoweringError:
    return LoweringError(
        f"{what} need iOS 18", where=name, expected="8-bit weights per channel", remedy="choose a profile of iOS 18"
    )
