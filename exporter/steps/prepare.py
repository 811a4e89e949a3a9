"""Step 2: the exact transforms of the model that is quantized."""

from __future__ import annotations

from pathlib import Path

from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.models.prepared import open_prepared, write_prepared
from vggt_edge.exporter.steps.context import Job


def prepare_step(job: Job) -> Model:
    """The model that is calibrated and quantized: after its exact transforms, unless the effort is ``none``."""
    if not job.transforms:
        return job.model
    return _open_prepared(job, _prepared_folder(job))


def _prepared_folder(job: Job) -> Path:
    def make(folder: Path) -> None:
        with job.timed("prepare"):
            write_prepared(job.model, job.request.seed, folder)

    return job.cache.run("prepare", job.prepared_identity, make)


def _open_prepared(job: Job, folder: Path) -> Model:
    return open_prepared(job.checkpoint, job.shape, job.heads, folder)
