"""Annotate and export in one call: what the backends are handed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.stats import CalibrationStats
from vggt_edge.exporter.graph.annotate import annotate
from vggt_edge.exporter.graph.onnx_export import OnnxFile, to_onnx
from vggt_edge.runtimes.base import AnnotatedGraph


class ExportableModel(Protocol):
    """What this module needs of a model, besides being an ``nn.Module``."""

    @property
    def output_names(self) -> tuple[str, ...]: ...

    def blocks(self) -> dict[str, nn.Module]: ...

    def example_input(self) -> Tensor: ...


def plan_metadata(plan: PrecisionPlan) -> dict[str, str]:
    """What the ONNX file says about its origin: plan and model digests, and the scheme of each block."""
    schemes = {assignment.block: assignment.scheme for assignment in plan.assignments}
    return {
        "vggt_edge.plan_digest": plan.digest,
        "vggt_edge.model_digest": plan.model_digest,
        "vggt_edge.rest_scheme": plan.rest_scheme,
        "vggt_edge.schemes": json.dumps(schemes, sort_keys=True),
    }


def build_graph(
    model: ExportableModel, plan: PrecisionPlan, stats: CalibrationStats, path: Path
) -> tuple[AnnotatedGraph, OnnxFile]:
    """Annotate ``model`` (after ``apply_plan``) and write its QDQ ONNX form to ``path`` and ``<path>.data``."""
    assert isinstance(model, nn.Module)
    program = annotate(model, model.example_input())
    blocks = tuple(model.blocks())
    written = to_onnx(program, path, model.output_names, blocks, metadata=plan_metadata(plan))
    graph = AnnotatedGraph(
        program=program,
        onnx_path=path,
        input_names=written.input_names,
        output_names=written.output_names,
        blocks=blocks,
        fp32_blocks=stats.fp32_blocks(),
    )
    return graph, written
