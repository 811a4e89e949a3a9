"""From a quantized model to the one QDQ-annotated ExportedProgram that every backend lowers."""

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
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch warns about its own internals
            program = torch.export.export(model.eval(), (example,), strict=False)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise LoweringError(
            f"torch.export refused the model: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where="annotate",
            expected="a model of fixed shapes without data-dependent control flow",
        ) from error
    _drop_assertions(program)
    return program


def _drop_assertions(program: ExportedProgram) -> None:
    """Assertions on the metadata of constants hold by construction, and cost every backend a node."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    program.graph_module.recompile()
