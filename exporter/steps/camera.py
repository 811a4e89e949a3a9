"""Judges the program that takes a camera's frames: it has to give what the one without the fused stages gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.metrics import figures
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.stages.walk import IMAGES
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.steps.context import Job
from vggt_edge.exporter.validation.rows import Row, Status
from vggt_edge.exporter.validation.simulate import run_stagewise, simulated
from vggt_edge.runtimes.base import Arrays, CameraRun

Array = npt.NDArray[np.float32]
_GATE = "backend_sqnr_db_min"
OUR_OWN = "numpy"
# Of a stage by itself. Geometry: float32 keeps more than 100 dB. Images: a level in a thousand pixels is 70 dB; of NV12
# some levels, since FFmpeg interpolates chroma in its own way.
GEOMETRY_DB, RGB_DB, NV12_DB = 80.0, 50.0, 30.0


def camera_rows(job: Job, folder: Path) -> list[Row]:
    """The program of ``--fuse-io`` against the one without it, and its stages against our own code.

    Empty where nobody asked. folder: of the artifact.
    """
    if job.camera is None or job.scenes.camera is None:
        return []
    with job.timed("validate: camera frames"):
        ran = job.backend.run_camera(folder, job.scenes.camera, job.model.outputs)
    images = RGB_DB if job.camera.yuv is None else NV12_DB
    limit = job.profile.tolerances.backend_sqnr_db_min
    return [
        *(_row(ran, name, ran.against, ran.apart[name], limit, _GATE) for name in ran.apart),
        *(_row(ran, name, OUR_OWN, ran.staged[name], images if name == IMAGES else GEOMETRY_DB) for name in ran.staged),
    ]


def _row(ran: CameraRun, name: str, against: str, wanted: Array, limit: float | None, key: str = "") -> Row:
    row = Row(ran.subject, name, "sqnr_db", against, Status.FAILED, tolerance=limit, tolerance_key=key)
    try:
        value = figures.drift(ran.fused[name], wanted).sqnr_db
    except (InputError, KeyError) as error:
        return replace(row, reason=str(error).replace("\n", ";"))
    return row.judged(value, limit, is_floor=True)


def camera_simulation(job: Job, model: Model, stats: CalibrationStats, plan: PrecisionPlan, state: Path) -> Arrays:
    """The outputs of the plan's simulation for the camera's frames, after our own preprocessing."""
    if job.camera is None or job.scenes.camera is None:
        return {}
    size = (job.shape.height, job.shape.width)
    images = job.camera.prepared(job.camera.of_rgb(job.scenes.camera), size, job.preprocess)
    scene = Scene("camera", images, ("camera",) * len(images))
    with job.timed("simulate: camera frames", job.stage_count) as on_stage:
        return run_stagewise(model, [scene], state, on_stage, simulated(model, plan, stats))[0]
