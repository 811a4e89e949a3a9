"""From the QDQ graph with FP32 compute, opset 23, to a strongly typed file with FP16 compute, opset 21."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from vggt_edge.runtimes.common.audit import load_onnx
from vggt_edge.runtimes.common.fp4 import DYNAMIC_QUANTIZE
from vggt_edge.runtimes.common.opset import lower_opset
from vggt_edge.runtimes.common.typed import FLOATS, type_graph
from vggt_edge.runtimes.tensorrt.nvfp4 import put_fp4
from vggt_edge.runtimes.tensorrt.rules import STORED

_ALIGNMENT = 4096
_EXTERNAL_FROM_BYTES = 256


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of all constants: as the file stores them, and what they would be in FP16 and FP32."""

    packed: int
    fp16: int
    fp32: int


@dataclass(frozen=True)
class Prepared:
    """``islands``: names of the nodes that compute in FP32. ``casts``: how many Casts the file holds."""

    path: Path
    islands: tuple[str, ...]
    casts: int
    weights: WeightBytes


def prepare(source: Path, target: Path, fp32: Iterable[str] = ()) -> Prepared:
    """Write the strongly typed FP16 form of ``source`` to ``target`` (data in ``<target>.data``).

    fp32: names of blocks or modules to compute in FP32. The same input gives the same bytes. Weights go from file to
    file one at a time. ``LoweringError`` names a constant that FP16 cannot hold, an operator that opset 21 lacks, or an
    fp32 name that no node has.
    """
    model = load_onnx(source)
    restoring = put_fp4(model)
    lower_opset(model, known=(DYNAMIC_QUANTIZE,))
    islands = type_graph(model, tuple(sorted(fp32)), restoring)
    target.parent.mkdir(parents=True, exist_ok=True)
    data = target.with_name(target.name + ".data")
    data.unlink(missing_ok=True)
    ir.save(
        model,
        target,
        external_data=data.name,
        size_threshold_bytes=_EXTERNAL_FROM_BYTES,
        alignment=_ALIGNMENT,
    )
    casts = sum(node.op_type == "Cast" for node in model.graph)
    return Prepared(target, islands, casts, weight_bytes(model.graph))


def weight_bytes(graph: ir.Graph) -> WeightBytes:
    tensors = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    stored = [tensor for tensor in tensors if tensor.dtype in FLOATS | STORED]
    elements = sum(tensor.size for tensor in stored)
    return WeightBytes(sum(tensor.nbytes for tensor in stored), 2 * elements, 4 * elements)
