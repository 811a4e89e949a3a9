"""From a model and a plan to its QDQ ONNX form, one stage at a time: what the backends are handed."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import onnx
from torch import Tensor, nn
from torch.export import ExportedProgram

from vggt_edge.calibration.apply import quantized_stage
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.stages.walk import IMAGES, Stage, StagedModel
from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph.annotate import annotate
from vggt_edge.exporter.graph.assembler import OPSET, GraphAssembler
from vggt_edge.exporter.graph.data_file import DataFile
from vggt_edge.exporter.graph.names import Namer
from vggt_edge.exporter.graph.stage_program import StageProgram, alone
from vggt_edge.exporter.graph.template import Template, Value
from vggt_edge.exporter.graph.translate import translate
from vggt_edge.exporter.models.mapping import release_pages
from vggt_edge.runtimes.base import AnnotatedGraph

OnProgress = Callable[[int, int], None]
Around = Callable[[Stage], AbstractContextManager[object]]


class ExportableModel(StagedModel, Protocol):
    """A staged model that knows the shape of its input. about: what it is, in a line."""

    @property
    def about(self) -> str: ...

    def example_input(self) -> Tensor: ...


@dataclass(frozen=True)
class OnnxFile:
    """What was written. block_bytes: of each block's own initializers, constants of the whole graph not counted.

    templates: how many stages were traced and translated; all others are twins of one of them.
    """

    path: Path
    data_path: Path
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    nodes: int
    data_bytes: int
    block_bytes: Mapping[str, int]
    templates: int


def build_graph(
    model: ExportableModel,
    plan: PrecisionPlan,
    stats: CalibrationStats,
    path: Path,
    *,
    on_progress: OnProgress | None = None,
) -> tuple[AnnotatedGraph, OnnxFile]:
    """Write the QDQ ONNX form of ``model`` under ``plan`` to ``path`` and ``<path>.data``; the model stays as it is.

    Holds the quantized weights of one stage at a time. on_progress: stages done, of all.
    """
    plan.check_total(model.blocks())
    around = partial(quantized_stage, model, plan=plan, stats=stats)
    written = write_onnx(model, path, around=around, metadata=plan_metadata(plan), on_progress=on_progress)
    return annotated_graph(model, plan, stats, path), written


def annotated_graph(model: ExportableModel, plan: PrecisionPlan, stats: CalibrationStats, path: Path) -> AnnotatedGraph:
    """What a backend is handed, for an ONNX file that was written already; the program is traced when one asks."""
    return AnnotatedGraph(
        program=partial(_whole_program, model, plan, stats),
        onnx_path=path,
        input_names=(IMAGES,),
        output_names=tuple(model.output_names),
        blocks=tuple(model.blocks()),
        fp32_blocks=_fp32_scopes(model, stats),
        outputs=tuple(model.outputs),
        about=model.about,
    )


def _fp32_scopes(model: ExportableModel, stats: CalibrationStats) -> tuple[str, ...]:
    """What the headroom scan wants in FP32, by what the names of its nodes begin with."""
    namer = Namer(model.blocks(), (path for path, _ in model.named_modules()))
    return tuple(name if name in namer.blocks else namer.scope(name) for name in stats.fp32_blocks())


def write_onnx(
    model: ExportableModel,
    path: Path,
    *,
    around: Around = lambda stage: nullcontext(),
    metadata: Mapping[str, str] = MappingProxyType({}),
    on_progress: OnProgress | None = None,
) -> OnnxFile:
    """Write ``model`` as it is, in FP32 where nothing was quantized, to ``path`` and ``<path>.data``.

    around: entered for each stage while it is traced and its weights are written. Nodes are named
    ``<block>/<module path in the block>/<op type>[_n]``. Opset 23, compute type FP32; the same model, the same bytes.
    ``LoweringError`` names an operator that has no translation, or what the ONNX checker objects to.
    """
    data_path = path.with_name(path.name + ".data")
    try:
        with data_path.open("wb") as stream:
            graph = _assembler(model, DataFile(stream, data_path.name))
            templates = _add_stages(model, graph, around, on_progress or (lambda done, total: None))
            path.write_bytes(graph.model(metadata).SerializeToString(deterministic=True))
    except BaseException:  # half of a graph is worse than none
        for made in (path, data_path):
            made.unlink(missing_ok=True)
        raise
    _check(path)
    return OnnxFile(
        path=path,
        data_path=data_path,
        input_names=(IMAGES,),
        output_names=tuple(model.output_names),
        nodes=len(graph.nodes),
        data_bytes=data_path.stat().st_size,
        block_bytes=_block_bytes(graph.data.sizes, tuple(model.blocks())),
        templates=templates,
    )


def plan_metadata(plan: PrecisionPlan) -> dict[str, str]:
    """What the ONNX file says about its origin: plan and model digests, and the scheme of each block."""
    schemes = {assignment.block: assignment.scheme for assignment in plan.assignments}
    return {
        "vggt_edge.plan_digest": plan.digest,
        "vggt_edge.model_digest": plan.model_digest,
        "vggt_edge.rest_scheme": plan.rest_scheme,
        "vggt_edge.schemes": json.dumps(schemes, sort_keys=True),
    }


def _whole_program(model: ExportableModel, plan: PrecisionPlan, stats: CalibrationStats) -> ExportedProgram:
    """Holds all quantized weights at once, as the program does."""
    assert isinstance(model, nn.Module)
    with ExitStack() as stack:
        for stage in model.stages():
            read = list(stage.module.parameters())
            stack.enter_context(quantized_stage(model, stage, plan, stats))
            release_pages(read)  # mapped from a checkpoint: what was quantized is not needed again
        return annotate(model, model.example_input())


def _assembler(model: ExportableModel, data: DataFile) -> GraphAssembler:
    images = model.example_input()
    paths = {id(module): path for path, module in model.named_modules()}
    return GraphAssembler(
        Namer(model.blocks(), paths.values()),
        data,
        paths,
        inputs=[Value(IMAGES, tuple(images.shape), images.dtype)],
        constants=model.constants(),
        outputs=model.output_names,
    )


def _add_stages(model: StagedModel, graph: GraphAssembler, around: Around, on_progress: OnProgress) -> int:
    """Add every stage that an output depends on; returns how many of them were translated."""
    stages = model.stages()
    templates: dict[Hashable, Template] = {}
    translated = 0
    for index, (stage, kept) in enumerate(zip(stages, _kept(stages, model.output_names), strict=True)):
        if kept:
            with around(stage), alone(model, stage):
                program = StageProgram(stage, kept)
                reads = graph.reads(program)
                template = templates.get(signature := program.signature(reads))
                if template is None:
                    template, translated = translate(program.trace(reads)), translated + 1
                    if template.reusable:
                        templates[signature] = template
                graph.add(program, template)
            model.release(stage)
        on_progress(index + 1, len(stages))
    return translated


def _kept(stages: Sequence[Stage], outputs: Sequence[str]) -> list[frozenset[str]]:
    """For each stage, those of its writes that an output depends on."""
    wanted, found = set(outputs), []
    for stage in reversed(stages):
        kept = frozenset(wanted.intersection(stage.writes))
        found.append(kept)
        wanted |= set(stage.reads) if kept else set()
    return found[::-1]


def _block_bytes(sizes: Mapping[str, int], blocks: Sequence[str]) -> dict[str, int]:
    return {block: sum(size for name, size in sizes.items() if name.startswith(f"{block}.")) for block in blocks}


def _check(path: Path) -> None:
    """From the path, so that the checker leaves the weights where they are."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LoweringError(
            f"the ONNX checker objects: {error}", where=str(path), expected=f"a valid ONNX model of opset {OPSET}"
        ) from error
