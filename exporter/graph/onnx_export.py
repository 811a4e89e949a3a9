"""From the annotated program to a clean QDQ ONNX file with its weights beside it.

A translation of our own instead of ``torch.onnx.export``: all shapes are static and the operators few, so it takes well
under a second where the general exporter takes ten, leaves no constant chains to clean up, and stores weights in the
layout and bit width that the runtimes read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import Argument, map_arg

from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph.builder import ONNX_TYPES, Constant, GraphBuilder, Initializer, Operand, Value
from vggt_edge.exporter.graph.names import Namer, module_path
from vggt_edge.exporter.graph.translations import KEPT, TRANSLATIONS, Call

OPSET = 21
IR_VERSION = 10
PRODUCER = "vggt-edge"
INLINE_BYTES = 256  # smaller tensors stay in the graph, where shape inference can read them
ALIGNMENT, PAGE, PAGE_FROM = 64, 4096, 1 << 20  # tensors of a megabyte and more start on a page, for mmap


@dataclass(frozen=True)
class OnnxFile:
    """What was written. block_bytes: stored bytes of each block's own initializers, shared constants not counted."""

    path: Path
    data_path: Path
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    nodes: int
    data_bytes: int
    block_bytes: Mapping[str, int]


def to_onnx(
    program: ExportedProgram,
    path: Path,
    output_names: Sequence[str],
    blocks: Sequence[str],
    *,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> OnnxFile:
    """Write ``path`` and ``<path>.data``; the same bytes for the same program, names and metadata.

    Nodes are named ``<block>/<module path in the block>/<op type>[_n]``. Opset 21, compute type FP32.
    ``LoweringError`` names an operator that has no translation, or what the ONNX checker objects to.
    """
    paths = sorted({module_path(node) for node in program.graph.nodes})
    builder = GraphBuilder(Namer(blocks, paths))
    inputs, results = _translate(program, builder)
    outputs = _name_outputs(builder, results, output_names)
    data_path = path.with_name(path.name + ".data")
    tensors, offsets = _write_data(builder.initializers, data_path)
    model = _model(builder, inputs, outputs, tensors, metadata)
    path.write_bytes(model.SerializeToString(deterministic=True))
    _check(path)
    return OnnxFile(
        path=path,
        data_path=data_path,
        input_names=tuple(value.name for value in inputs),
        output_names=tuple(output_names),
        nodes=len(builder.nodes),
        data_bytes=data_path.stat().st_size,
        block_bytes=_block_bytes(offsets, blocks),
    )


def _translate(program: ExportedProgram, builder: GraphBuilder) -> tuple[list[Value], list[Operand]]:
    """Translate every node in order; returns the graph's inputs and its results."""
    operands: dict[Node, Any] = _constants(program, builder)
    inputs: list[Value] = []
    results: list[Operand] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node not in operands:
                value = Value(node.name, tuple(node.meta["val"].shape), node.meta["val"].dtype)
                operands[node] = value
                inputs.append(value)
        elif node.op == "output":
            results = [operands[result] for result in node.args[0]]
        else:
            operands[node] = _translate_node(node, operands, builder)
    return inputs, results


def _constants(program: ExportedProgram, builder: GraphBuilder) -> dict[Node, Any]:
    """Parameters, buffers and lifted tensors, by their placeholder."""
    signature = program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    tensors = {**program.constants, **program.state_dict}
    return {
        node: Constant(builder.namer.local(names[node.name]), tensors[names[node.name]].detach())
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names
    }


def _translate_node(node: Node, operands: Mapping[Node, Any], builder: GraphBuilder) -> Operand:
    builder.scope = builder.namer.scope(module_path(node))
    sources = [operands[source] for source in node.all_input_nodes]
    if node.target not in KEPT and sources and all(_is_constant(source) for source in sources):
        return _fold(node, operands, builder)
    translation = TRANSLATIONS.get(node.target)
    if translation is None:
        raise _untranslatable(node, builder.scope, "it has no translation")
    try:
        return translation(Call(builder, node, _arguments(node, operands)))
    except (NotImplementedError, TypeError, KeyError) as error:
        raise _untranslatable(node, builder.scope, f"this form of it has no translation: {error}") from error


def _untranslatable(node: Node, scope: str, why: str) -> LoweringError:
    return LoweringError(
        f"operator {node.target} cannot become ONNX: {why}",
        where=f"{scope} ({node.name})",
        expected="an operator of exporter/graph/translations.py",
        remedy="add a translation there, or write the model without it",
    )


def _is_constant(operand: Operand) -> bool:
    parts = operand if isinstance(operand, tuple) else (operand,)
    return all(isinstance(part, Constant) for part in parts)


def _fold(node: Node, operands: Mapping[Node, Any], builder: GraphBuilder) -> Operand:
    """Compute at export what depends on constants only."""

    def tensor(source: Node) -> Argument:
        operand = operands[source]
        return tuple(part.tensor for part in operand) if isinstance(operand, tuple) else operand.tensor

    assert callable(node.target)
    result = node.target(*map_arg(node.args, tensor), **map_arg(node.kwargs, tensor))
    name = f"{builder.scope}/{node.name}".replace("/", ".")
    if isinstance(result, torch.Tensor):
        return Constant(name, result.detach())
    return tuple(Constant(f"{name}.{index}", part.detach()) for index, part in enumerate(result))


def _arguments(node: Node, operands: Mapping[Node, Any]) -> dict[str, Any]:
    """Positional and keyword arguments by schema name, defaults filled in, tensors as operands."""

    def resolved(argument: Any) -> Any:
        if isinstance(argument, Node):
            return operands[argument]
        if isinstance(argument, (list, tuple)):
            return [resolved(entry) for entry in argument]
        return argument

    if not isinstance(node.target, torch._ops.OpOverload):  # operator.getitem
        return {"self": operands[node.all_input_nodes[0]], "index": node.args[1]}
    schema = node.target._schema.arguments
    filled = {argument.name: argument.default_value for argument in schema}
    filled.update({argument.name: resolved(given) for argument, given in zip(schema, node.args, strict=False)})
    filled.update({name: resolved(given) for name, given in node.kwargs.items()})
    return filled


def _name_outputs(builder: GraphBuilder, results: list[Operand], names: Sequence[str]) -> list[Value]:
    """Give the results their public names. ``LoweringError`` for a result that no node computes."""
    renamed: dict[str, Value] = {}
    for name, result in zip(names, results, strict=True):
        if not isinstance(result, Value) or result not in builder.values or result.name in renamed:
            raise LoweringError(
                f"output {name} is an input, a constant or another output",
                where="to_onnx",
                expected="outputs that the model computes, each its own tensor",
            )
        renamed[result.name] = Value(name, result.shape, result.dtype)
    for node in builder.nodes:
        for edges in (node.input, node.output):
            for index, edge in enumerate(edges):
                if edge in renamed:
                    edges[index] = renamed[edge].name
    builder.values = [value for value in builder.values if value.name not in renamed]
    return list(renamed.values())


def _write_data(
    initializers: Mapping[str, Initializer], data_path: Path
) -> tuple[list[onnx.TensorProto], dict[str, int]]:
    """Write the weights one by one. Returns their protos, and the stored bytes of each."""
    protos, sizes = [], {}
    with data_path.open("wb") as stream:
        for initializer in initializers.values():
            content = initializer.content()
            sizes[initializer.name] = len(content)
            proto = TensorProto(name=initializer.name, data_type=initializer.onnx_type, dims=initializer.shape)
            if len(content) < INLINE_BYTES:
                proto.raw_data = content
            else:
                alignment = PAGE if len(content) >= PAGE_FROM else ALIGNMENT
                stream.write(b"\0" * (-stream.tell() % alignment))
                _point_outside(proto, data_path.name, stream.tell(), len(content))
                stream.write(content)
            protos.append(proto)
    return protos, sizes


def _point_outside(proto: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        proto.external_data.add(key=key, value=value)


def _model(
    builder: GraphBuilder,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    tensors: Sequence[onnx.TensorProto],
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        builder.nodes,
        "vggt",
        [_value_info(value) for value in inputs],
        [_value_info(value) for value in outputs],
        initializer=tensors,
        value_info=[_value_info(value) for value in builder.values],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = PRODUCER
    helper.set_model_props(model, dict(sorted(metadata.items())))
    return model


def _value_info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, ONNX_TYPES[value.dtype], value.shape)


def _block_bytes(sizes: Mapping[str, int], blocks: Sequence[str]) -> dict[str, int]:
    return {block: sum(size for name, size in sizes.items() if name.startswith(f"{block}.")) for block in blocks}


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LoweringError(
            f"the ONNX checker objects: {error}", where=str(path), expected="a valid ONNX model of opset 21"
        ) from error
