"""From the annotated program to one ``.pte`` for ExecuTorch's Vulkan delegate, lowered as a whole.

Every border between delegates costs a GPU a copy to the CPU and back, so the program is not cut into its blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram

from vggt_edge.runtimes.executorch.assemble import Undelegated
from vggt_edge.runtimes.executorch.pieces import Piece, cut
from vggt_edge.runtimes.executorch.rewrite import rewrite
from vggt_edge.runtimes.executorch.sdk import ALIGNMENT, operator_name, quiet, sdk
from vggt_edge.runtimes.vulkan.graph import VulkanGraph, read_graph
from vggt_edge.runtimes.vulkan.rewrite import RULES, constants_of, restored


@dataclass(frozen=True)
class LoweredProgram:
    """piece: what was lowered, in Vulkan's operators. delegates: the graph of each.

    manager: ``ExecutorchProgramManager``.
    """

    piece: Piece
    delegates: tuple[VulkanGraph, ...]
    undelegated: tuple[Undelegated, ...]
    manager: Any

    @property
    def planned_bytes(self) -> int:
        """Of the buffers that ExecuTorch plans outside of the delegate."""
        return int(sum(self.manager.executorch_program.execution_plan[0].non_const_buffer_sizes))


def lower_program(program: ExportedProgram, texture_limit: int | None = None) -> LoweredProgram:
    """With weights and activations in FP16, but for weights of 4 bits.

    texture_limit: texels along each side of a texture; what is larger lies in buffers. None: ExecuTorch's own limits.
    """
    (piece,) = cut(program, lambda path: "").pieces
    piece = restored(piece)
    with quiet(), _root_level():
        edge = _delegated(rewrite(piece, RULES, constants_of), texture_limit)
        module = edge.exported_program().graph_module
        delegates = tuple(read_graph(bytes(one.processed_bytes)) for _, one in module.named_children())
        wanted = sdk("exir").ExecutorchBackendConfig(segment_alignment=ALIGNMENT)
        return LoweredProgram(piece, delegates, tuple(_undelegated(module)), edge.to_executorch(wanted))


def _delegated(program: ExportedProgram, texture_limit: int | None) -> Any:
    """In ExecuTorch's edge dialect, with what Vulkan takes as calls of delegates."""
    exir = sdk("exir")
    options: dict[str, Any] = {"force_fp16": True}
    if texture_limit is not None:
        options["texture_limits"] = (texture_limit,) * 3
    chosen = sdk("backends.vulkan.partitioner.vulkan_partitioner").VulkanPartitioner(options)
    kept, _ = chosen.ops_to_not_decompose(program)
    config = exir.EdgeCompileConfig(_check_ir_validity=False, preserve_ops=kept)
    return exir.to_edge(program, compile_config=config).to_backend(chosen)


def _undelegated(module: Any) -> Iterator[Undelegated]:
    for node in module.graph.nodes:
        if node.op == "call_function" and hasattr(node.target, "_schema"):
            yield Undelegated("", operator_name(node.target))


@contextmanager
def _root_level() -> Iterator[None]:
    """ExecuTorch's Vulkan modules set the level of the root logger as they are imported."""
    level = logging.root.level
    try:
        yield
    finally:
        logging.root.setLevel(level)
