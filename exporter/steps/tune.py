"""Step 6: tune the weights for the grids of the plan."""

from __future__ import annotations

from pathlib import Path

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.tuning.parts import EFFORTS
from vggt_edge.calibration.tuning.tune import tune, tuned_from
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.models.prepared import adopt_tuned, save_tuned
from vggt_edge.exporter.steps.context import Job
from vggt_edge.exporter.steps.prepare import _open_prepared, _prepared_folder


def tune_step(job: Job, model: Model, stats: CalibrationStats, plan: PrecisionPlan) -> Model:
    """The model with the weights that the plan's grids can hold; ``model`` stays as it is."""
    if not job.transforms:
        return model
    key = job.tuned_identity(stats, plan)
    prepared = _prepared_folder(job)

    def make(folder: Path) -> None:
        state = job.cache.unfinished("tune", key)
        shards, learned = state / "tuned", state / "learned"
        shards.mkdir(exist_ok=True)
        learned.mkdir(exist_ok=True)
        found = _open_prepared(job, prepared)
        # A stage that was saved but not booked is tuned again, from its prepared weights.
        adopt_tuned(found, shards, tuned_from(state, job.stage_count))
        with job.timed("tune", job.stage_count) as on_stage:
            tune(
                found,
                plan,
                stats,
                job.scenes.calibration[: job.tuned_on],
                seed=job.request.seed,
                parts=EFFORTS[job.request.effort].parts,
                folder=state,
                on_tuned=lambda index, stage: save_tuned(found, stage, index, shards),
                on_learned=lambda index, stage: save_tuned(found, stage, index, learned),
                on_stage=on_stage,
            )
        for part in (shards, learned):  # what was learned replaces what was only tuned
            for shard in sorted(part.iterdir()):
                shard.replace(folder / shard.name)

    folder = job.cache.run("tune", key, make)
    tuned = _open_prepared(job, prepared)
    adopt_tuned(tuned, folder)
    return tuned
