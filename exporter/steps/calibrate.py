"""Step 3: observe the prepared model over the calibration scenes."""

from __future__ import annotations

from pathlib import Path

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.steps.context import Job


def calibrate_step(job: Job, model: Model) -> CalibrationStats:
    """Observe the prepared model over the calibration scenes."""

    def make(folder: Path) -> None:
        state = job.cache.unfinished("calibrate", job.prepared_identity)
        with job.timed("calibrate", job.stage_count) as on_stage:
            found = calibrate(
                model, job.scenes.calibration, digest=job.checkpoint.digest, folder=state, on_stage=on_stage
            )
        found.save(folder)

    return CalibrationStats.load(job.cache.run("calibrate", job.prepared_identity, make))
