"""Step 8: hand the annotated graph to the backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import VggtEdgeError
from vggt_edge.exporter.graph import annotated_graph
from vggt_edge.exporter.lowered import lowered_file, lowered_json, read_lowered, warnings_of
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.steps.context import ANNOTATED, MODEL, Job
from vggt_edge.runtimes.base import DEFAULT_OPTIONS, AnnotatedGraph, Backend, Lowered


@dataclass(frozen=True)
class LoweredFolder:
    """``folder`` holds the files of one backend."""

    folder: Path
    lowered: Lowered


@dataclass(frozen=True)
class Artifacts:
    """What lowering left behind.

    - graph: the folder of the QDQ ONNX, which ``annotate_step`` wrote.
    - made: what the backends made of the annotated graph, the target's own first.
    - absent: by companion that made nothing, why.
    """

    graph: Path
    made: tuple[LoweredFolder, ...]
    absent: Mapping[str, str]


def lower_step(job: Job, model: Model, stats: CalibrationStats, plan: PrecisionPlan, graph: Path) -> Artifacts:
    """Hand the annotated graph to the target's backend and to its companions.

    A companion is a second opinion: where it refuses or its toolchain fails, the export goes on and its report says so.
    """
    annotated = replace(
        annotated_graph(model, plan, stats, graph / ANNOTATED),
        shipped_path=graph / MODEL,
        preprocess=job.preprocess,
        pixel_centers=job.request.pixel_centers,
    )
    made, absent = [_lowered(job, stats, plan, annotated, job.backend)], dict(job.absent)
    for text in warnings_of(made[0].lowered):
        job.progress.note(text)
    for companion in job.companions:
        try:
            made.append(_lowered(job, stats, plan, annotated, companion))
        except VggtEdgeError as error:
            absent[companion.name] = reason_of(error)
            job.progress.note(f"{companion.name} made nothing: {error.what}")
    return Artifacts(graph, tuple(made), absent)


def _lowered(
    job: Job, stats: CalibrationStats, plan: PrecisionPlan, annotated: AnnotatedGraph, one: Backend
) -> LoweredFolder:
    # What the target's own backend was asked for is not its companions' business.
    options = job.options if one is job.backend else DEFAULT_OPTIONS
    key = job.tuned_identity(stats, plan) | {
        "profile": job.profile.to_dict(),
        "tools": job.tools,
        "backend": one.name,
        "options": asdict(options),
        "opset": job.request.opset,
        "preprocess": asdict(annotated.preprocess),
        "pixel_centers": annotated.pixel_centers,
    }

    def make(folder: Path) -> None:
        with job.timed(f"lower for {job.profile.name} ({one.name})"):
            lowered = one.lower(annotated, plan, job.profile, folder, options)
        job.keep_measured(lowered)
        (folder / lowered_file(one.name)).write_bytes(lowered_json(lowered))

    folder = job.cache.run(f"lower-{one.name}", key, make)
    return LoweredFolder(folder, read_lowered(folder / lowered_file(one.name)))


def reason_of(error: VggtEdgeError) -> str:
    """Why there is nothing, in one line; without the place, which is a folder of this run."""
    return "; ".join(filter(None, (error.what, error.remedy))).replace("\n", "; ")
