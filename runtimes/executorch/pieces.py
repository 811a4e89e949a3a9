"""Cuts the annotated program where one block ends and the next begins, and tells which pieces are twins.

A piece is what ExecuTorch lowers in one go. It walks over every node of it dozens of times, so twins, which differ in
their weights alone, are lowered once (docs/runtimes/executorch.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Graph, GraphModule, Node

import vggt_edge.calibration.quantization.linear  # noqa: F401  registers the operators of an annotated program

# What restores a stored weight. Folding these would store it in FP32.
RESTORES = frozenset(
    {
        torch.ops.quantized_decomposed.dequantize_per_channel.default,
        torch.ops.torchao.dequantize_affine.default,
    }
)


@dataclass(frozen=True)
class Piece:
    """A run of operations of one block, as a module of its own.

    block: empty for what lies between the blocks. inputs, outputs: names of the values that it takes and gives, in the
    program's terms. examples: of the inputs, zeros. weights: by their attribute in ``module``, ``w0`` onwards; targets:
    their names in the model, empty for what was computed of others. key: equal for twins.
    """

    block: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: tuple[Tensor, ...]
    module: GraphModule
    weights: Mapping[str, Tensor]
    targets: Mapping[str, str]
    key: str


@dataclass(frozen=True)
class Pieces:
    """The whole program: pieces in the order in which they run; its own inputs and outputs by their values' names."""

    pieces: tuple[Piece, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def cut(program: ExportedProgram, block_of: Callable[[str], str]) -> Pieces:
    """block_of: a module's path to its block, "" for none."""
    constants = _constants(program)
    _fold(program.graph_module.graph, constants)
    graph = program.graph_module.graph
    results = [node for node in graph.output_node().args[0] if isinstance(node, Node)]
    live = _live(graph, constants, results)
    whole = _Whole(
        constants,
        {node: place for place, node in enumerate(graph.nodes)},
        frozenset(live),
        frozenset(results),
        _targets(program),
    )
    runs = groupby(live, key=lambda node: block_of(_module_of(node)))
    return Pieces(
        tuple(_piece(block, list(nodes), whole) for block, nodes in runs),
        tuple(node.name for node in graph.nodes if node.op == "placeholder" and node not in constants),
        tuple(node.name for node in results),
    )


@dataclass(frozen=True)
class _Whole:
    """What a piece has to know of the program. live: what is left to compute; order: the place of each node."""

    constants: Mapping[Node, Any]
    order: Mapping[Node, int]
    live: frozenset[Node]
    results: frozenset[Node]
    targets: Mapping[str, str]

    def is_given(self, node: Node, inside: frozenset[Node]) -> bool:
        """Whether someone outside of a piece wants what one of its nodes computes."""
        return node in self.results or any(user in self.live and user not in inside for user in node.users)


def _module_of(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _targets(program: ExportedProgram) -> dict[str, str]:
    """By a node's name; a weight in FP16 keeps its own behind the cast that it is stored for."""
    targets = {spec.arg.name: str(spec.target) for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        source = node.args[0].name if node.target is torch.ops.aten.to.dtype else ""
        if source in targets:
            targets[node.name] = targets[source]
    return targets


def _constants(program: ExportedProgram) -> dict[Node, Any]:
    """Placeholders that stand for parameters, buffers and constants, with their values."""
    tensors: dict[str, Any] = {**program.constants, **program.state_dict}
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    found = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and specs[node.name].kind is not InputKind.USER_INPUT:
            found[node] = tensors[str(specs[node.name].target)].detach()
    return found


def _fold(graph: Graph, constants: dict[Node, Any]) -> None:
    """Compute what depends on constants alone and add it to ``constants``; a weight stays as it is stored.

    The first iteration of VGGT's camera head starts from a constant: its first linears are gone after this.
    """
    restored = set()

    def value_of(node: Node) -> Any:
        return constants[node] if node in constants else _computed(node, value_of)

    for node in graph.nodes:
        inputs = node.all_input_nodes
        if node.op != "call_function" or not inputs or not all(one in constants or one in restored for one in inputs):
            continue
        if node.target in RESTORES:
            restored.add(node)
        else:
            constants[node] = _computed(node, value_of)


def _computed(node: Node, value_of: Callable[[Node], Any]) -> Any:
    arguments, named = torch.fx.node.map_arg((node.args, node.kwargs), value_of)
    return node.target(*arguments, **named)  # type: ignore[operator]


def _live(graph: Graph, constants: Mapping[Node, Any], results: Sequence[Node]) -> list[Node]:
    """What is left to compute, in order."""
    needed = set(results)
    for node in reversed(graph.nodes):
        if node in needed and node not in constants:
            needed.update(node.all_input_nodes)
    return [node for node in graph.nodes if node.op == "call_function" and node in needed and node not in constants]


def _piece(block: str, nodes: Sequence[Node], whole: _Whole) -> Piece:
    inside, constants = frozenset(nodes), whole.constants
    used = sorted({one for node in nodes for one in node.all_input_nodes} - inside, key=whole.order.__getitem__)
    values = [node for node in used if node not in constants]
    given = [node for node in nodes if whole.is_given(node, inside)]
    graph = Graph()
    weights: dict[str, Tensor] = {}
    targets: dict[str, str] = {}
    copies = {node: graph.placeholder(f"x{index}") for index, node in enumerate(values)}
    for node in _by_first_use(nodes, constants):
        name = f"w{len(weights)}"
        weights[name], targets[name] = _alone(constants[node]), whole.targets.get(node.name, "")
        copies[node] = graph.get_attr(name)
    for node in nodes:
        copies[node] = graph.create_node(
            "call_function", node.target, *torch.fx.node.map_arg((node.args, node.kwargs), copies.__getitem__)
        )
    graph.output(tuple(copies[node] for node in given))
    module = torch.nn.Module()
    for name, tensor in weights.items():
        module.register_buffer(name, tensor)
    return Piece(
        block,
        tuple(node.name for node in values),
        tuple(node.name for node in given),
        tuple(torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype) for node in values),
        GraphModule(module, graph),
        weights,
        targets,
        _key(graph, weights, values),
    )


def _alone(tensor: Tensor) -> Tensor:
    """In memory of its own: ExecuTorch stores all of the memory that a tensor is part of, from its beginning."""
    contiguous = tensor.contiguous()
    return contiguous if contiguous.untyped_storage().nbytes() == contiguous.nbytes else contiguous.clone()


def _by_first_use(nodes: Sequence[Node], constants: Mapping[Node, Any]) -> Iterator[Node]:
    return iter(dict.fromkeys(one for node in nodes for one in node.all_input_nodes if one in constants))


def _key(graph: Graph, weights: Mapping[str, Tensor], values: Sequence[Node]) -> str:
    """All that lowering depends on but the weights' values. Nodes are named by their place, so twins agree."""
    place = {node: f"%{index}" for index, node in enumerate(graph.nodes)}
    lines = [
        f"{node.op} {node.target} {torch.fx.node.map_arg((node.args, node.kwargs), place.__getitem__)}"
        for node in graph.nodes
    ]
    lines += [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in weights.items()]
    lines += [f"{tuple(node.meta['val'].shape)} {node.meta['val'].dtype}" for node in values]
    return "\n".join(lines)
