"""FP4 in blocks of 16 as TensorRT has it (NVFP4), in place of the stand-ins of the annotated graph.

A weight: packed E2M1 values, E4M3 scales of blocks, one FP32 unit of those. An input: TensorRT's own operator finds the
scales of blocks at run time, in a unit that calibration found. TensorRT multiplies FP4 with FP4 where both sides are
so, and restores a weight that stands alone (docs/runtimes/tensorrt.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vggt_edge.calibration.quantization.ranges import BLOCK, E2M1, e4m3_unit
from vggt_edge.runtimes.common.audit import array_of
from vggt_edge.runtimes.common.fp4 import DOMAIN, DYNAMIC_QUANTIZE, TRT_DOMAIN, is_fp4_stand_in, is_fp4_weight

_FP8 = int(ir.DataType.FLOAT8E4M3FN)

Array = npt.NDArray[Any]


def put_fp4(model: ir.Model) -> frozenset[ir.Node]:
    """Replace the stand-ins in place. Gives back the new nodes that restore values, which they do in FP32."""
    made: set[ir.Node] = set()
    for node in tuple(model.graph):
        if is_fp4_weight(node):
            made |= _put(model.graph, node, _weight(model.graph, node))
        elif is_fp4_stand_in(node):
            made |= _put(model.graph, node, _input(node))
    model.functions.clear()
    if model.opset_imports.pop(DOMAIN, None) is not None:
        model.opset_imports[TRT_DOMAIN] = 1
    return frozenset(node for node in made if node.op_type == "DequantizeLinear")


def _put(graph: ir.Graph, old: ir.Node, new: list[ir.Node]) -> set[ir.Node]:
    """Put ``new`` in the place of ``old``. The last of them takes over the name of its output."""
    graph.insert_before(old, new)
    (before,), (after,) = old.outputs, new[-1].outputs
    after.name, after.shape, after.type = before.name, before.shape, before.type
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    graph.remove(old, safe=True)
    return set(new)


def _weight(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    stored, scale = _constant(node, 0), _constant(node, 1)
    blocks = 2 * array_of(scale)
    unit = e4m3_unit(float(blocks.max()))
    name = str(node.inputs[0].name) if node.inputs[0] is not None else node.name
    values = _initializer(graph, f"{name}.e2m1", ir.DataType.FLOAT4E2M1, stored, lambda: _e2m1(stored))
    scales = _initializer(graph, f"{name}.e4m3", ir.DataType.FLOAT8E4M3FN, scale, lambda: _e4m3(scale, unit))
    one = ir.Value(name=f"{name}.unit", const_value=ir.tensor(np.float32(unit), name=f"{name}.unit"))
    one.shape, one.type = ir.Shape([]), ir.TensorType(ir.DataType.FLOAT)
    graph.register_initializer(one)
    return _restored(node, (values, scales), one, axis=0)


def _input(node: ir.Node) -> list[ir.Node]:
    x, unit = node.inputs
    options = {"axis": -1, "block_size": BLOCK, "scale_type": _FP8}
    values, scales = ir.Value(name=f"{node.name}:values"), ir.Value(name=f"{node.name}:scales")
    name = f"{node.name}_{DYNAMIC_QUANTIZE}"
    quantize = ir.node(DYNAMIC_QUANTIZE, [x, unit], options, domain=TRT_DOMAIN, outputs=[values, scales], name=name)
    return [quantize, *_restored(node, (values, scales), unit, axis=-1)]


def _restored(node: ir.Node, stored: tuple[ir.Value, ir.Value], unit: ir.Value | None, axis: int) -> list[ir.Node]:
    """stored: E2M1 numbers, and E4M3 scales of their blocks."""
    values, scales = stored
    of_blocks = ir.node("DequantizeLinear", [scales, unit], name=f"{node.name}_scales")
    of_blocks.outputs[0].name = f"{node.name}:restored_scales"
    options = {"axis": axis, "block_size": BLOCK}
    return [of_blocks, ir.node("DequantizeLinear", [values, of_blocks.outputs[0]], options, name=node.name)]


def _initializer(
    graph: ir.Graph, name: str, dtype: ir.DataType, source: ir.TensorProtocol, make: Callable[[], Array]
) -> ir.Value:
    """A constant that is converted when it is written: a big graph would not fit otherwise."""
    shape = ir.Shape(source.shape.numpy())
    tensor = ir.LazyTensor(lambda: ir.tensor(make(), dtype=dtype, name=name), dtype, shape, name=name)
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _e2m1(stored: ir.TensorProtocol) -> Array:
    return (array_of(stored).astype(np.float32) * np.float32(E2M1().unit)).astype(ml_dtypes.float4_e2m1fn)


def _e4m3(scale: ir.TensorProtocol, unit: float) -> Array:
    """Block scales in units; exact, since tuning and export round scales to such numbers."""
    units = array_of(scale).astype(np.float32) / np.float32(E2M1().unit * unit)
    return units.astype(ml_dtypes.float8_e4m3fn)


def _constant(node: ir.Node, index: int) -> ir.TensorProtocol:
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None, f"{node.name} restores no constant"
    return value.const_value
