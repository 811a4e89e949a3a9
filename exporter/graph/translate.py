"""From the traced program of one stage to a template.

A translation of our own instead of ``torch.onnx.export``: all shapes are static and the operators few, so it takes well
under a second where the general exporter takes ten, leaves no constant chains to clean up, and stores weights in the
layout and bit width that the runtimes read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import Argument, map_arg

from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph.builder import Constant, Operand, TemplateBuilder
from vggt_edge.exporter.graph.names import module_path
from vggt_edge.exporter.graph.template import Literal, ModuleTensor, Source, Template, Value
from vggt_edge.exporter.graph.translations import TRANSLATIONS, Call, is_kept, shape_and_type


def translate(program: ExportedProgram) -> Template:
    """Translate every node in order. ``LoweringError`` names an operator that has no translation."""
    builder = TemplateBuilder()
    operands: dict[Node, Any] = _constants(program)
    reads: list[str] = []
    results: tuple[Value, ...] = ()
    for node in program.graph.nodes:
        if node.op == "output":
            results = tuple(_result(operands[result], builder) for result in node.args[0])
        elif node.op != "placeholder":
            operands[node] = _translate_node(node, operands, builder)
        elif node not in operands:
            operands[node] = Value(node.name, tuple(node.meta["val"].shape), node.meta["val"].dtype)
            reads.append(node.name)
    return Template(tuple(reads), tuple(builder.nodes), builder.stored, results)


def _constants(program: ExportedProgram) -> dict[Node, Any]:
    """Parameters, buffers and tensors that the code itself holds, by their placeholder."""
    signature = program.graph_signature
    of_module = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    of_code = signature.inputs_to_lifted_tensor_constants
    tensors = {**program.constants, **program.state_dict}
    found = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and (path := of_module.get(node.name) or of_code.get(node.name)):
            tensor = tensors[path].detach()
            source: Source = ModuleTensor(path) if node.name in of_module else Literal(node.name, tensor)
            found[node] = Constant(source, tensor)
    return found


def _result(operand: Operand, builder: TemplateBuilder) -> Value:
    return Value(builder.read(operand), *shape_and_type(operand))


def _translate_node(node: Node, operands: Mapping[Node, Any], builder: TemplateBuilder) -> Operand:
    builder.path = module_path(node)
    sources = [operands[source] for source in node.all_input_nodes]
    if not is_kept(node) and sources and all(_is_constant(source) for source in sources):
        return _fold(node, operands)
    translation = TRANSLATIONS.get(node.target)
    if translation is None:
        raise _untranslatable(node, "it has no translation")
    try:
        return translation(Call(builder, node, _arguments(node, operands)))
    except (NotImplementedError, TypeError, KeyError) as error:
        raise _untranslatable(node, f"this form of it has no translation: {error}") from error


def _untranslatable(node: Node, why: str) -> LoweringError:
    return LoweringError(
        f"operator {node.target} cannot become ONNX: {why}",
        where=f"{module_path(node).removeprefix('module').removeprefix('.') or 'the stage itself'} ({node.name})",
        expected="an operator of exporter/graph/translations.py",
        remedy="add a translation there, or write the model without it",
    )


def _parts(operand: Operand) -> tuple[Any, ...]:
    return operand if isinstance(operand, tuple) else (operand,)


def _is_constant(operand: Operand) -> bool:
    return all(isinstance(part, Constant) for part in _parts(operand))


def _fold(node: Node, operands: Mapping[Node, Any]) -> Operand:
    """Compute at export what depends on constants only."""

    def tensor(source: Node) -> Argument:
        operand = operands[source]
        return tuple(part.tensor for part in operand) if isinstance(operand, tuple) else operand.tensor

    assert callable(node.target)
    with torch.no_grad():
        result = node.target(*map_arg(node.args, tensor), **map_arg(node.kwargs, tensor))
    of_weights = any(part.source.of_weights for source in node.all_input_nodes for part in _parts(operands[source]))

    def folded(label: str, tensor: torch.Tensor) -> Constant:
        return Constant(Literal(label, tensor.detach(), of_weights=of_weights), tensor.detach())

    if isinstance(result, torch.Tensor):
        return folded(node.name, result)
    return tuple(folded(f"{node.name}.{index}", part) for index, part in enumerate(result))


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
