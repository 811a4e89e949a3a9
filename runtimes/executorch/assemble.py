"""Joins lowered pieces to one program and writes it: ``.pte``, and ``.ptd`` where the weights lie outside."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, GraphModule, Node

from vggt_edge.runtimes.executorch.pieces import Pieces
from vggt_edge.runtimes.executorch.sdk import ALIGNMENT, operator_name, quiet, sdk
from vggt_edge.runtimes.executorch.xnnpack import BACKEND_ID, Delegate, LoweredPiece

EXTERNAL = "vggt"  # the name of the .ptd, without its suffix


@dataclass(frozen=True)
class Undelegated:
    """An operation that is left to ExecuTorch's own kernels."""

    block: str
    operator: str


@dataclass(frozen=True)
class Assembled:
    """manager: ``ExecutorchProgramManager``. calls: the block of each delegate call, in the order of execution.

    planned_bytes: of the buffers that ExecuTorch plans for values between delegates; delegates take more of their own.
    """

    manager: Any
    calls: tuple[str, ...]
    undelegated: tuple[Undelegated, ...]

    @property
    def planned_bytes(self) -> int:
        plan = self.manager.executorch_program.execution_plan[0]
        return int(sum(plan.non_const_buffer_sizes))


def assemble(pieces: Pieces, lowered: Sequence[LoweredPiece], example: Tensor, *, external: bool) -> Assembled:
    """example: the program's one input. external: weights go to a file of their own."""
    builder = _Builder(pieces, example, external)
    for one in lowered:
        builder.add(one)
    with quiet():
        program = builder.program()
        exir = sdk("exir")
        config = exir.EdgeCompileConfig(_check_ir_validity=False)
        manager = sdk("exir.program._program").EdgeProgramManager({"forward": program}, None, config)
        wanted = exir.ExecutorchBackendConfig(segment_alignment=ALIGNMENT)
        return Assembled(manager.to_executorch(wanted), tuple(builder.calls), tuple(builder.undelegated))


class _Builder:
    """The graph of the whole: one call after the other, each piece's values by the names that the program gave them."""

    def __init__(self, pieces: Pieces, example: Tensor, external: bool) -> None:
        self.pieces, self.external = pieces, external
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.root, self.graph = nn.Module(), Graph()
        self.weights: dict[str, Tensor] = {}
        self.placeholders: list[Node] = []
        self.calls: list[str] = []
        self.undelegated: list[Undelegated] = []
        (name,) = pieces.inputs
        node = self.graph.placeholder(name)
        node.meta["val"] = self._like(example)
        self.values = {name: node}
        self.input = node

    def add(self, lowered: LoweredPiece) -> None:
        copies: dict[Node, Node] = {}
        given = iter(lowered.piece.inputs)
        for node in lowered.graph.graph.nodes:
            if node.op == "placeholder":
                held = lowered.weights.get(node.name)
                copies[node] = self.values[next(given)] if held is None else self._weight(held)
            elif node.op == "get_attr":
                copies[node] = self._delegate(lowered, str(node.target))
            elif node.op == "call_function":
                copies[node] = self._call(node, copies, lowered.piece.block)
        (results,) = lowered.graph.graph.output_node().args
        assert isinstance(results, Iterable)
        self.values |= {name: copies[node] for name, node in zip(lowered.piece.outputs, results, strict=True)}

    def program(self) -> ExportedProgram:
        outputs = [self.values[name] for name in self.pieces.outputs]
        self.graph.output(tuple(outputs))
        module = GraphModule(self.root, self.graph)
        return ExportedProgram(
            root=module,
            graph=module.graph,
            graph_signature=self._signature(outputs),
            state_dict=self.weights,
            range_constraints={},
            module_call_graph=[],
            verifiers=[sdk("exir.verification.verifier").EXIREdgeDialectVerifier(class_only=True)],
        )

    def _like(self, value: Any) -> Any:
        """The value's shape in the one fake mode of this graph: every piece was traced under another."""
        if isinstance(value, tuple | list):
            return tuple(self._like(one) for one in value)
        with self.mode:
            return torch.empty_strided(tuple(value.shape), tuple(value.stride()), dtype=value.dtype)

    def _weight(self, tensor: Tensor) -> Node:
        name = f"held_{len(self.weights)}"
        with self.graph.inserting_before(self.input):
            node = self.graph.placeholder(name)
        node.meta["val"] = self._like(tensor)
        self.weights[name] = tensor
        self.placeholders.append(node)
        return node

    def _delegate(self, lowered: LoweredPiece, name: str) -> Node:
        original: Any = lowered.graph.get_submodule(name)
        module = _lowered_module(_stand_in(original.original_module), lowered.delegates[name], self.external)
        attribute = f"lowered_module_{len(self.calls)}"
        self.root.add_module(attribute, module)
        return self.graph.get_attr(attribute)

    def _call(self, node: Node, copies: Mapping[Node, Node], block: str) -> Node:
        arguments = torch.fx.node.map_arg((node.args, node.kwargs), copies.__getitem__)
        copy = self.graph.create_node("call_function", node.target, *arguments)
        copy.meta["val"] = self._like(node.meta["val"])
        if node.target is sdk("exir.delegate").executorch_call_delegate:
            self.calls.append(block)
        elif node.target is not operator.getitem:
            self.undelegated.append(Undelegated(block, operator_name(node.target)))
        return copy

    def _signature(self, outputs: Sequence[Node]) -> ExportGraphSignature:
        return ExportGraphSignature(
            input_specs=[
                *(
                    InputSpec(InputKind.BUFFER, TensorArgument(node.name), node.name, persistent=True)
                    for node in self.placeholders
                ),
                InputSpec(InputKind.USER_INPUT, TensorArgument(self.input.name), None),
            ],
            output_specs=[OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in outputs],
        )


def _lowered_module(program: ExportedProgram, delegate: Delegate, external: bool) -> Any:
    store = sdk("exir._serialize._named_data_store").NamedDataStore()
    for key, data in delegate.data.items():
        store.add_named_data(key, data, ALIGNMENT, EXTERNAL if external else None)
    kind = sdk("exir.lowered_backend_module").LoweredBackendModule
    return kind(program, BACKEND_ID, delegate.payload, [], store.get_named_data_store_output())


class _Zeros(nn.Module):
    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = shapes

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(shape) for shape in self.shapes)


def _stand_in(program: ExportedProgram) -> ExportedProgram:
    """What ExecuTorch's passes run in a delegate's place to learn the shapes, without its hundred operations."""
    signature = program.graph_signature
    held = {*signature.inputs_to_parameters, *signature.inputs_to_buffers, *signature.inputs_to_lifted_tensor_constants}
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name not in held]
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.output_node().args[0]]
    examples = tuple(torch.zeros(tuple(node.meta["val"].shape)) for node in inputs)
    return torch.export.export(_Zeros(shapes), examples, strict=False)
