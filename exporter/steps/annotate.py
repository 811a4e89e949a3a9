"""Step 7: write the one QDQ-annotated graph."""

from __future__ import annotations

from pathlib import Path

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.stages.walk import StageTime
from vggt_edge.exporter.graph import build_graph
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.steps.context import MODEL, Job


def annotate_step(job: Job, model: Model, stats: CalibrationStats, plan: PrecisionPlan) -> Path:
    """The folder with the QDQ ONNX and its weights."""
    key = job.tuned_identity(stats, plan) | {"tools": job.tools}

    def make(folder: Path) -> None:
        with job.timed("annotate", job.stage_count) as on_stage:
            build_graph(
                model,
                plan,
                stats,
                folder / MODEL,
                on_progress=lambda done, total: on_stage(StageTime("", done, total, 0.0)),
            )

    return job.cache.run("annotate", key, make)
