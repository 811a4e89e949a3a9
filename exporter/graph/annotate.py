"""From a quantized model, or one stage of it, to a traced program that keeps the quantization operators."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from vggt_edge.devices.errors import LoweringError


def annotate(model: nn.Module, example: Tensor) -> ExportedProgram:
    """Trace ``model`` (after ``apply_plan``) for the fixed shape of ``example``.

    Weights stay quantized: the program holds quantized_decomposed and torchao operators, not decomposed.
    ``LoweringError`` where torch.export refuses the model.
    """
    return trace(model, (example,), "the model")


def trace(model: nn.Module, examples: tuple[Tensor, ...], what: str) -> ExportedProgram:
    """The same for any module and number of inputs; ``what`` it is, for the error."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch warns about its own internals
            program = torch.export.export(model.eval(), examples, strict=False)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LoweringError(
            f"torch.export refused {what}: {reason}",
            where="annotate",
            expected="a model of fixed shapes without data-dependent control flow",
        ) from error
    _drop_unused(program)
    return program


def _drop_unused(program: ExportedProgram) -> None:
    """Results that nobody reads, and assertions on the metadata of constants, which hold by construction."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
