"""From the annotated program to a Core AI program: our quantization operators become Core AI's compressed constants.

Weights stay as they are stored: integers and FP16 behind ``coreai.blockwise_shift_scale``, palettes behind
``coreai.lut_to_dense``. Everything is computed in FP32. Runs in the worker, since Core AI is native code.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

import vggt_edge.calibration.quantization.linear  # noqa: F401  registers the operators of an annotated program
from vggt_edge.runtimes.coreai.bytecode import with_stable_names
from vggt_edge.runtimes.coreai.files import HASH_FILE, METADATA_FILE, PROGRAM_FILE
from vggt_edge.runtimes.coreai.sdk import dialect, sdk

Values: TypeAlias = dict[str, Any]
Lowering: TypeAlias = Callable[[Values, Node, Any], Any]

INT8_RANGE, INT4_RANGE = (-128, 127), (-8, 7)
PALETTE_BITS = (1, 2, 4, 6, 8)


def write_asset(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], path: Path) -> None:
    """Convert ``program`` and save it as the asset ``path`` (``*.aimodel``); the same program, the same bytes.

    inputs, outputs: names in the program's order. ``ValueError`` for a quantization that Core AI has no form for, and
    whatever the converter raises.
    """
    converted = _converter().add_exported_program(
        _decomposed(program), input_names=list(inputs), output_names=list(outputs)
    )
    with _stable_names():
        converted.to_coreai().save_asset(path)
    _make_stable(path)


def _converter() -> Any:
    # The debug mode writes the paths of this machine's files into the asset.
    kind = sdk("coreai_torch").TorchConverter
    converter = kind(mode=kind.Mode.RELEASE)
    for name, lowering in LOWERINGS.items():
        converter.register_torch_lowering(name, allow_override=True)(lowering)
    return converter


def _decomposed(program: ExportedProgram) -> ExportedProgram:
    """The form that the converter takes, quantization operators kept and weights below 8 bits packed."""
    table = sdk("coreai_torch").get_decomp_table()
    # Its decomposition is plain arithmetic on constants, which the converter folds into FP32 weights.
    table.pop(torch.ops.torchao.dequantize_affine.default, None)
    decomposed: ExportedProgram = program.run_decompositions(table)
    targets = {spec.arg.name: spec.target for spec in decomposed.graph_signature.input_specs}
    for node in decomposed.graph.nodes:
        if (bits := _packed_bits(node)) is not None:
            target = str(targets[node.args[0].name])
            decomposed.state_dict[target] = _packed(decomposed.state_dict[target], bits)
    return decomposed


def _packed_bits(node: Node) -> int | None:
    """How many bits the first operand of a quantization operator needs, where these are fewer than 8."""
    if node.target is torch.ops.torchao.dequantize_affine.default:
        return 4 if _integer_range(node, 5) == INT4_RANGE else None
    if node.target is torch.ops.vggt_edge.dequantize_palette.default:
        bits = _palette_bits(node)
        return bits if bits < 8 else None
    return None


def _palette_bits(node: Node) -> int:
    table = node.args[1]
    assert isinstance(table, Node)
    entries = int(table.meta["val"].shape[1])
    bits = entries.bit_length() - 1
    if entries != 1 << bits or bits not in PALETTE_BITS:
        raise ValueError(f"{node.name}: Core AI has no lookup table of {entries} entries")
    return bits


def _packed(weight: Tensor, bits: int) -> Tensor:
    """A weight used twice (the iterations of the camera head) is packed once."""
    intx = sdk("coreai_torch._compression._intx")
    kind = intx.IntxTensor if weight.dtype is torch.int8 else intx.UintxTensor
    packed: Tensor = weight if isinstance(weight, intx.SubbyteTensor) else kind.from_unpacked(weight, bits)
    return packed


def _integer_range(node: Node, first: int) -> tuple[Any, Any]:
    return node.args[first], node.args[first + 1]


@contextmanager
def _stable_names() -> Iterator[None]:
    """Core AI names its helper graphs by chance: two conversions would give different bytes."""
    builder = sdk("coreai.authoring.graph_builder")
    by_chance, builder.choice = builder.choice, random.Random(0).choice
    try:
        yield
    finally:
        builder.choice = by_chance


def _make_stable(asset: Path) -> None:
    """Take out what differs from run to run: the date, the order of the metadata, the names of resources."""
    metadata = json.loads((asset / METADATA_FILE).read_text())
    metadata.pop("creationDate", None)
    (asset / METADATA_FILE).write_text(json.dumps(metadata, indent=2, sort_keys=True) + "\n")
    program = with_stable_names((asset / PROGRAM_FILE).read_bytes())
    (asset / PROGRAM_FILE).write_bytes(program)
    (asset / HASH_FILE).write_bytes(hashlib.sha256(program).digest())


def _constant(value: Any, dtype: type[np.generic], where: Any) -> Any:
    return dialect().constant(np.asarray(value, dtype), loc=where)


def _operand(values: Values, node: Node, index: int, where: Any) -> Any:
    return sdk("coreai_torch._utils").get_operand(values, node, index, where)


def _zeros(shape: Sequence[int], like: Any) -> Any:
    """A constant of zeros with the element type of ``like``, which may be narrower than a byte."""
    return sdk("coreai_torch._custom_to_core")._zeros_constant(list(shape), like.type.element_type)


def _quantize(values: Values, node: Node, where: Any) -> Any:
    return dialect().quantize(*_per_tensor(values, node, where), loc=where)


def _dequantize(values: Values, node: Node, where: Any) -> Any:
    return dialect().dequantize(*_per_tensor(values, node, where), loc=where)


def _per_tensor(values: Values, node: Node, where: Any) -> tuple[Any, ...]:
    """(x, scale, zero point, shift, axis), the axis without meaning for one scale."""
    scale, zero, dtype = node.args[1], node.args[2], node.args[5]
    if zero != 0 or dtype is not torch.int8 or _integer_range(node, 3) != INT8_RANGE:
        raise ValueError(f"{node.name}: only symmetric int8 in {INT8_RANGE} has a form")
    constants = ((scale, np.float32), (0, np.int8), (0, np.float32), (0, np.int32))
    return (_operand(values, node, 0, where), *(_constant(value, kind, where) for value, kind in constants))


def _shift_scale(data: Any, scale: Any, where: Any) -> Any:
    shape = list(scale.type.shape)
    return dialect().blockwise_shift_scale(data, scale, _zeros(shape, data), _zeros(shape, scale), loc=where)


def _dequantize_channel(values: Values, node: Node, where: Any) -> Any:
    if node.args[2] is not None:
        raise ValueError(f"{node.name}: a zero point has no form")
    shape, axis = node.meta["val"].shape, node.args[3]
    spread = [size if dim == axis else 1 for dim, size in enumerate(shape)]
    scale = dialect().reshape(_operand(values, node, 1, where), spread)
    return _shift_scale(_operand(values, node, 0, where), scale, where)


def _dequantize_group(values: Values, node: Node, where: Any) -> Any:
    """Groups along the input dimension: the scale (out, groups) is block-wise as it stands."""
    if node.args[3] is not None or _integer_range(node, 5) not in (INT4_RANGE, (-127, 127)):
        raise ValueError(f"{node.name}: only symmetric groups of 4 or 8 bits have a form")
    return _shift_scale(_operand(values, node, 0, where), _operand(values, node, 2, where), where)


def _dequantize_palette(values: Values, node: Node, where: Any) -> Any:
    index, table = _operand(values, node, 0, where), _operand(values, node, 1, where)
    count, entries = table.type.shape
    shape = [count if dim == node.args[2] else 1 for dim in range(len(index.type.shape))]
    tables = dialect().reshape(table, [*shape, entries, 1])
    return dialect().lut_to_dense(index, tables, _constant(0, np.int16, where), loc=where)


def _cast(values: Values, node: Node, where: Any) -> Any:
    """A stored FP16 weight times one: a plain cast of a constant is folded into an FP32 weight."""
    if not _is_half_weight(node):
        return sdk("coreai_torch._aten_to_core")._aten_to_core_resolver["_to_copy.default"](values, node, where)
    data = _operand(values, node, 0, where)
    return _shift_scale(data, _constant(np.ones([1] * len(data.type.shape)), np.float32, where), where)


def _is_half_weight(node: Node) -> bool:
    source = node.args[0]
    return (
        isinstance(source, Node)
        and source.op == "placeholder"
        and source.meta["val"].dtype is torch.float16
        and node.meta["val"].dtype is torch.float32
    )


LOWERINGS: dict[str, Lowering] = {
    "quantized_decomposed::quantize_per_tensor.default": _quantize,
    "quantized_decomposed::dequantize_per_tensor.default": _dequantize,
    "quantized_decomposed::dequantize_per_channel.default": _dequantize_channel,
    "torchao::dequantize_affine.default": _dequantize_group,
    # Under this name the converter's check of what should have been decomposed looks it up (coreai-torch 0.4.3).
    "aten::torchao.dequantize_affine.default": _dequantize_group,
    "vggt_edge::dequantize_palette.default": _dequantize_palette,
    "aten::_to_copy.default": _cast,
}
