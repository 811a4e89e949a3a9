"""Step 7: write the one QDQ-annotated graph, and the form of it that a bundle holds."""

from __future__ import annotations

import shutil
from pathlib import Path

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.stages.walk import StageTime
from vggt_edge.exporter.graph import build_graph
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.steps.context import ANNOTATED, MODEL, Job
from vggt_edge.runtimes.common.opset import NEWEST, write_lowered


def annotate_step(job: Job, model: Model, stats: CalibrationStats, plan: PrecisionPlan) -> Path:
    """The folder with two forms of the QDQ ONNX, which read the same weights.

    ``ANNOTATED`` is of opset 23 and for the backends. ``MODEL`` is of the opset that was asked for and for the bundle.
    """
    key = job.tuned_identity(stats, plan) | {"tools": job.tools, "opset": job.request.opset}

    def make(folder: Path) -> None:
        with job.timed("annotate", job.stage_count) as on_stage:
            build_graph(
                model,
                plan,
                stats,
                folder / MODEL,
                on_progress=lambda done, total: on_stage(StageTime("", done, total, 0.0)),
            )
        (folder / MODEL).rename(folder / ANNOTATED)
        if job.request.opset == NEWEST:
            shutil.copyfile(folder / ANNOTATED, folder / MODEL)
        else:
            write_lowered(folder / ANNOTATED, folder / MODEL)

    return job.cache.run("annotate", key, make)
