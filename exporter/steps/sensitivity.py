"""Step 4: the output error of every block under every scheme that it may get."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from vggt_edge.calibration.documents import read_document
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.sensitivity.ablation import Sensitivity, measure
from vggt_edge.calibration.sensitivity.probes import estimate
from vggt_edge.calibration.stages.walk import StageTime
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.steps.context import SENSITIVITY, Job

PROBED_SCENES = 1
_SENSITIVITIES = TypeAdapter(tuple[Sensitivity, ...])


def sensitivity_step(job: Job, model: Model, stats: CalibrationStats) -> tuple[Sensitivity, ...]:
    """The output error of every block under every scheme that it may get: by exact ablation, or from probes."""
    candidates = {block.name: job.schemes_of(block) for block in job.blocks}
    key = job.prepared_identity | {
        "stats": stats.digest,
        "candidates": candidates,
        "group_size": job.request.group_size,
        "probes": [scene.digest for scene in job.scenes.probes],
        "method": job.sensitivity_method,
        "seed": job.request.seed,
    }

    def exact(state: Path) -> tuple[Sensitivity, ...]:
        total = len(job.scenes.probes) * sum(map(len, candidates.values()))
        with job.timed("sensitivity", total) as on_stage:
            return measure(
                model,
                stats,
                job.scenes.probes,
                candidates,
                job.request.group_size,
                on_progress=lambda done, total: on_stage(StageTime("", done, total, 0.0)),
            )

    def probed(state: Path) -> tuple[Sensitivity, ...]:
        with job.timed("sensitivity", 2 * job.stage_count) as on_stage:
            return estimate(
                model,
                stats,
                job.scenes.probes[:PROBED_SCENES],
                candidates,
                job.request.group_size,
                seed=job.request.seed,
                journal_folder=state,
                on_stage=on_stage,
            )

    def make(folder: Path) -> None:
        method = exact if job.sensitivity_method == "exact" else probed
        found = method(job.cache.unfinished("sensitivity", key))
        (folder / SENSITIVITY).write_bytes(sensitivities_json(found))

    return read_sensitivities(job.cache.run("sensitivity", key, make) / SENSITIVITY)


def sensitivities_json(found: tuple[Sensitivity, ...]) -> bytes:
    """What ``sensitivity.json`` holds."""
    return _SENSITIVITIES.dump_json(found, indent=2)


def read_sensitivities(path: Path) -> tuple[Sensitivity, ...]:
    """What ``sensitivities_json`` wrote; ``InputError`` says which field is wrong."""
    return read_document(
        tuple[Sensitivity, ...],
        path.read_bytes(),
        what="a list of sensitivities",
        where=str(path),
        expected="the file that `vggt-edge plan` writes",
        remedy="plan or export again without --resume",
    )
