"""What XNNPACK takes of a piece, and its passes over that, repaired where version 1.4 of ExecuTorch goes wrong.

ExecuTorch's classes are subclassed inside functions, because importing them is slow and they may be missing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from vggt_edge.runtimes.executorch.sdk import sdk


@cache
def partitioner() -> type[Any]:
    """XNNPACK's partitioner for a backend that leaves its partitions as they are: ``Kind`` serializes them later."""
    details = sdk("exir.backend.backend_details")

    class VggtEdgeDeferred(details.BackendDetails):  # type: ignore[misc, name-defined]  # found by its name
        @staticmethod
        def preprocess(edge_program: ExportedProgram, compile_specs: list[Any]) -> Any:
            return details.PreprocessResult(processed_bytes=b"")

    class Partitioner(sdk("backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.delegation_spec = sdk("exir.backend.partitioner").DelegationSpec(VggtEdgeDeferred.__name__, [])

        def partition(self, exported_program: ExportedProgram) -> Any:
            """Of the constants only those that XNNPACK packs: all others are unmapped before the first run."""
            found = self.generate_partitions(exported_program)
            tags = {f"tag{one.id}": self.delegation_spec for one in found}
            for one in found:
                for node in one.nodes:
                    node.meta["delegation_tag"] = f"tag{one.id}"
            return sdk("exir.backend.partitioner").PartitionResult(exported_program, tags)

    return Partitioner


# For what no piece holds: each pass walks over the whole graph, and these would be half of them.
_NOT_NEEDED = frozenset(
    {
        "ConstPropPass",  # cut() has folded the constants
        "Conv1dUnsqueezePass",
        "ConvertToSDPAPass",
        "DecomposeBatchNorm",
        "FuseBatchNormPass",
        "InsertPadQDQPass",
        "PReLUReshapePass",
        "PropagateCustomMetaPass",
    }
)


@cache
def passes() -> tuple[type[Any], ...]:
    """XNNPACK's own passes in their order, as far as they are needed, the one for channels-last memory repaired."""
    manager = sdk("backends.xnnpack._passes").XNNPACKPassManager
    repaired = _channels_last()
    needed = (one for one in manager(None).passes if one.__name__ not in _NOT_NEEDED)
    return tuple(repaired if issubclass(repaired, one) else one for one in needed)


def _channels_last() -> type[Any]:
    original = sdk("backends.xnnpack._passes.channels_last_tagged_reshape_pass").ChannelsLastTaggedReshapePass
    is_dynamic = sdk("backends.xnnpack.utils.quant_utils").is_dynamic_qdq

    class ChannelsLast(original):  # type: ignore[misc, valid-type]
        def input_to_nhwc(self, graph_module: GraphModule, input_node: Node, target_node: Node) -> None:
            """Before a convolution whose input is quantized at run time, what is turned is the input of that.

            The original goes back from there to the first operand of all, whatever lies between.
            """
            if not is_dynamic(input_node):
                super().input_to_nhwc(graph_module, input_node, target_node)
                return
            quantize = input_node.args[0]
            choose = quantize.args[1].args[0]  # type: ignore[union-attr]
            for node in (choose, quantize):
                super().input_to_nhwc(graph_module, node.args[0], node)  # type: ignore[union-attr]
            for node in (choose, quantize, input_node):
                self.mark_as_nhwc_node(node)

    return ChannelsLast
