"""From a piece to delegates of XNNPACK: ExecuTorch lowers one of every kind, its twins take over all but the weights.

XNNPACK's serialized graph names its weights by their SHA-256, so a twin has to be serialized anew, but partitioning and
some twenty passes over the graph, which cost nearly all of the time, are done once per kind.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from vggt_edge.runtimes.executorch.partition import partitioner, passes
from vggt_edge.runtimes.executorch.pieces import Piece
from vggt_edge.runtimes.executorch.rewrite import rewrite
from vggt_edge.runtimes.executorch.sdk import quiet, sdk

BACKEND_ID = "XnnpackBackend"
_KEY_DIGITS = 12
_SOURCE = "source."  # rewrite() puts the piece's module there, and with it the weights


@dataclass(frozen=True)
class StoredLinear:
    """A linear or convolution as XNNPACK's serialized graph holds it. weight: its attribute in the piece.

    datatype: of the filter, in XNNPACK's terms. dynamic: its input is quantized at run time.
    """

    weight: str
    datatype: str
    dynamic: bool


@dataclass(frozen=True)
class Delegate:
    """What XNNPACK runs as one: ``payload`` refers to ``data`` by its keys. nodes: how many operations it has."""

    payload: bytes
    data: Mapping[str, bytes]
    linears: tuple[StoredLinear, ...]
    nodes: int


@dataclass(frozen=True)
class LoweredPiece:
    """graph: with calls of delegates, and what XNNPACK did not take. delegates: by the attribute in ``graph``.

    weights: of what was not taken, by the name of their placeholder in ``graph``.
    """

    piece: Piece
    graph: GraphModule
    delegates: Mapping[str, Delegate]
    weights: Mapping[str, Tensor]


def lower_pieces(pieces: Sequence[Piece]) -> tuple[LoweredPiece, ...]:
    """In their order; one of every kind is lowered, twins after it take its place."""
    kinds: dict[str, Kind] = {}
    lowered = []
    for piece in pieces:
        if piece.key not in kinds:
            kinds[piece.key] = Kind(piece)
        lowered.append(kinds[piece.key].lowered(piece))
    return tuple(lowered)


class Kind:
    """Lowers a piece and its twins."""

    def __init__(self, piece: Piece) -> None:
        with quiet():
            self._program = _partitioned(rewrite(piece))
            modules = self._program.graph_module.named_children()
            self._partitions = {name: _transformed(module.original_module) for name, module in modules}

    def lowered(self, piece: Piece) -> LoweredPiece:
        """``piece``: the one that this was made from, or a twin of it."""
        with quiet():
            delegates = {name: _serialized(_with_weights(one, piece.weights)) for name, one in self._partitions.items()}
        return LoweredPiece(piece, self._program.graph_module, delegates, self._remaining(piece))

    def _remaining(self, piece: Piece) -> dict[str, Tensor]:
        own: dict[str, Any] = {**self._program.constants, **self._program.state_dict}
        signature = self._program.graph_signature
        targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        return {name: piece.weights.get(target.removeprefix(_SOURCE), own[target]) for name, target in targets.items()}


def _partitioned(program: ExportedProgram) -> ExportedProgram:
    """In ExecuTorch's edge dialect, with what XNNPACK takes as submodules.

    Its ``to_edge_transform_and_lower`` is the same with three decompositions, of which two find nothing to do here.
    """
    chosen, exir = partitioner()(), sdk("exir")
    kept, _ = chosen.ops_to_not_decompose(program)
    config = exir.EdgeCompileConfig(_check_ir_validity=False, preserve_ops=kept)
    lowered: ExportedProgram = exir.to_edge(program, compile_config=config).to_backend(chosen).exported_program()
    return lowered


def _transformed(program: ExportedProgram) -> ExportedProgram:
    """What XNNPACK's own passes make of a partition."""
    manager = sdk("backends.xnnpack._passes").XNNPACKPassManager(_unchecked(program, program.state_dict), passes())
    transformed: ExportedProgram = manager.transform()
    return transformed


def _unchecked(program: ExportedProgram, state: Mapping[str, Tensor]) -> ExportedProgram:
    """The same program with other weights, for XNNPACK's passes, whose graphs the usual checks would refuse."""
    verifier = sdk("exir.verification.verifier").EXIREdgeDialectVerifier
    config = sdk("backends.xnnpack.utils.configs").get_xnnpack_edge_compile_config()
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=dict(state),
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=[verifier(edge_compile_config=config, class_only=True)],
    )


def _with_weights(program: ExportedProgram, weights: Mapping[str, Tensor]) -> ExportedProgram:
    own = {name: weights.get(name.removeprefix(_SOURCE), tensor) for name, tensor in program.state_dict.items()}
    return _unchecked(program, own)


def _serialized(program: ExportedProgram) -> Delegate:
    """XNNPACK's form of a transformed program, made by its own visitors."""
    preprocess = sdk("backends.xnnpack.xnnpack_preprocess")
    schema = sdk("backends.xnnpack.serialization.xnnpack_graph_schema")
    store = sdk("exir._serialize._named_data_store").NamedDataStore()
    borders = preprocess.generate_node_to_external_map(program, program.graph_module)
    # The first entry stands for a tensor without data.
    graph = schema.XNNGraph(
        version="0", xnodes=[], xvalues=[], num_externs=len(borders), input_ids=[], output_ids=[],
        constant_data=[schema.ConstantDataOffset(0, 0)],
    )  # fmt: skip
    visitors = sdk("backends.xnnpack.operators.node_visitor").get_node_visitors(program, borders, store)
    ids: dict[Any, int] = {}
    for node in program.graph.nodes:
        if node.op == "call_function":
            handle = node.meta.get("debug_handle", preprocess.DEFAULT_DEBUG_HANDLE)
            visitors[node.target.__name__].define_node(node, graph, ids, handle)
    output = store.get_named_data_store_output()
    for entry in graph.constant_data:
        entry.named_key = _short(entry.named_key)
    payload = sdk("backends.xnnpack.serialization.xnnpack_graph_serialize").serialize_xnnpack_binary(graph, bytearray())
    data = {_short(key): output.buffers[entry.buffer_index] for key, entry in output.pte_data.items()}
    return Delegate(payload, data, tuple(_linears(program, graph, ids)), len(graph.xnodes))


def _linears(program: ExportedProgram, graph: Any, ids: Mapping[Any, int]) -> Iterator[StoredLinear]:
    """Those whose filter is a weight of the piece, read from the graph that was serialized."""
    buffers = program.graph_signature.inputs_to_buffers
    weights = {place: buffers[node.name] for node, place in ids.items() if node.name in buffers}
    values = {value.id_out: value for value in map(_tensor_value, graph.xvalues)}
    for node in (one.xnode_union for one in graph.xnodes):
        target = weights.get(getattr(node, "filter_id", -1), "")
        if target.startswith(_SOURCE):
            filter_type, input_type = values[node.filter_id].datatype.name, values[node.input1_id].datatype.name
            kind = filter_type.removeprefix("xnn_datatype_")
            yield StoredLinear(target.removeprefix(_SOURCE), kind, input_type == "xnn_datatype_qdint8")


def _tensor_value(value: Any) -> Any:
    return getattr(value.xvalue_union, "tensor_value", value.xvalue_union)


def _short(key: str) -> str:
    """48 bits of the SHA-256 that is a tensor's key, in eight characters.

    A small model has hundreds of tensors, and their keys stand in the file twice. ExecuTorch refuses a key that stands
    for two different tensors.
    """
    return base64.urlsafe_b64encode(bytes.fromhex(key[-_KEY_DIGITS:])).decode()
