"""Step 1: choose the scenes to calibrate on."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from vggt_edge.calibration.observation.sampling import Sampling, sample
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.exporter.steps.context import SAMPLING, Job


def sample_step(job: Job) -> Job:
    """The job on calibration scenes chosen from its pool; as it is where there is nothing to choose from."""
    pool, wanted = job.scenes.pool, len(job.scenes.calibration)
    if not pool:
        return job
    key = {
        "vggt_edge": version("vggt-edge"),
        "torch": version("torch"),
        "model": job.checkpoint.digest,
        "architecture": job.checkpoint.architecture.name,
        "pool": [(scene.name, scene.digest) for scene in pool],
        "wanted": wanted,
        "seed": job.request.seed,
    }

    def make(folder: Path) -> None:
        state = job.cache.unfinished("sample", key)
        with job.timed("sample", job.stage_count) as on_stage:
            found = sample(job.model, pool, wanted, job.request.seed, folder=state, on_stage=on_stage)
        (folder / SAMPLING).write_text(found.to_json())

    path = job.cache.run("sample", key, make) / SAMPLING
    sampling = Sampling.from_json(path.read_text(), where=str(path))
    dropped = ", ".join(sampling.names[index] for index in sampling.dropped) or "none"
    job.progress.note(f"{wanted} of {len(pool)} scenes chosen to calibrate on; dropped as outliers: {dropped}")
    return job.on(job.scenes.sampled(sampling))


def save_calibration(job: Job, stats: CalibrationStats, folder: Path) -> None:
    """The statistics, and how their scenes were chosen; no file of that where there was no choice."""
    stats.save(folder)
    if job.scenes.sampling is not None:
        (folder / SAMPLING).write_text(job.scenes.sampling.to_json())
