"""Runs the FP32 model, the simulation of the plan and every artifact over the held-out scenes, and judges them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.stages.walk import StageTime
from vggt_edge.devices.errors import InputError, VggtEdgeError
from vggt_edge.exporter.machine.runtimes import JudgedWith
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.steps.camera import camera_rows, camera_simulation
from vggt_edge.exporter.steps.context import MODEL, Job
from vggt_edge.exporter.steps.lower import Artifacts, reason_of
from vggt_edge.exporter.validation import SIMULATION, ValidationReport, validate
from vggt_edge.exporter.validation.roundings import rounds_activations
from vggt_edge.exporter.validation.simulate import run_stagewise, simulated
from vggt_edge.runtimes.base import Arrays, Backend, Executor, Session
from vggt_edge.runtimes.common.memory import give_back_memory
from vggt_edge.runtimes.onnxruntime import OnnxRuntime, open_onnx, oracle

VALIDATION, GOLDEN, CAMERA = "validation.json", "golden.safetensors", "camera.safetensors"
INPUT = "images"
ORT = OnnxRuntime.name


@dataclass(frozen=True)
class Places:
    """Where the QDQ ONNX lies, the folder that each backend filled, by its name, and why others filled none."""

    onnx: Path
    folders: Mapping[str, Path]
    absent: Mapping[str, str]

    @classmethod
    def of(cls, artifacts: Artifacts) -> Places:
        folders = {one.lowered.backend: one.folder for one in artifacts.made}
        return cls(artifacts.graph / MODEL, folders, artifacts.absent)

    @classmethod
    def in_bundle(cls, bundle: Path, job: Job) -> Places:
        """A backend has its artifact in a folder of its name."""
        folders = {one.name: bundle for one in job.backends if (bundle / one.name).is_dir() or one is job.backend}
        lacking = {one.name: "the bundle holds no artifact of it" for one in job.companions if one.name not in folders}
        return cls(bundle / MODEL, folders, {**job.absent, **lacking})


@dataclass(frozen=True)
class Judged:
    """The report, and what the first validation scene gave: ``input/``, ``fp32/`` and ``simulation/`` tensors.

    camera: outputs of the simulation for the frames of ``fuse_io``; empty without it.
    """

    report: ValidationReport
    golden: Mapping[str, npt.NDArray[np.float32]]
    camera: Arrays

    def group(self, name: str) -> dict[str, npt.NDArray[np.float32]]:
        prefix = f"{name}/"
        return {key.removeprefix(prefix): self.golden[key] for key in self.golden if key.startswith(prefix)}


def validate_step(job: Job, model: Model, stats: CalibrationStats, plan: PrecisionPlan, artifacts: Artifacts) -> Judged:
    """Judge over the held-out scenes."""
    key = job.tuned_identity(stats, plan) | {
        "profile": job.profile.to_dict(),
        "validation": [scene.digest for scene in job.scenes.validation],
        "onnxruntime": version("onnxruntime"),
        # By the folders' names, which carry the digest of all that their content depends on.
        "artifacts": [artifacts.graph.name, *(one.folder.name for one in artifacts.made)],
        "absent": dict(artifacts.absent),
        "judged_with": [asdict(one) for one in judged_with(job, artifacts)],
    }
    if job.scenes.camera is not None:
        key["camera"] = sha256(job.scenes.camera.data).hexdigest()

    def make(folder: Path) -> None:
        judged = judge(job, model, stats, plan, Places.of(artifacts), job.cache.unfinished("validate", key))
        (folder / VALIDATION).write_text(judged.report.to_json())
        save_file(dict(judged.golden), folder / GOLDEN)
        if judged.camera:
            save_file(dict(judged.camera), folder / CAMERA)

    folder = job.cache.run("validate", key, make)
    report = ValidationReport.from_json((folder / VALIDATION).read_text())
    camera = load_file(folder / CAMERA) if (folder / CAMERA).is_file() else {}
    return Judged(report, load_file(folder / GOLDEN), camera)


def judge(
    job: Job, model: Model | None, stats: CalibrationStats, plan: PrecisionPlan, places: Places, state: Path
) -> Judged:
    """Run FP32, the simulation, the QDQ ONNX and what runs here of the artifacts, and compare their outputs.

    model: what the plan quantizes, for the simulation; without it there is none. state: a folder for what is done so
    far; a killed validation goes on there.
    """
    scenes = job.scenes.validation
    ran: dict[str, Sequence[Arrays]] = {}
    with job.timed("validate: FP32", job.stage_count) as on_stage:
        ran["fp32"] = run_stagewise(job.model, scenes, state / "fp32", on_stage)
    if model is not None:
        with job.timed("validate: simulation", job.stage_count) as on_stage:
            around = simulated(model, plan, stats)
            ran[SIMULATION] = run_stagewise(model, scenes, state / SIMULATION, on_stage, around)
    give_back_memory()
    with job.timed("validate: ONNX Runtime", len(scenes)) as on_stage:
        ran[ORT] = list(run_session(open_onnx(places.onnx), scenes, on_stage))
    missing = {**not_run(job), **places.absent}
    for backend, executor in executors(job, places.folders):
        give_back_memory()
        with job.timed(f"validate: {executor.subject}", len(scenes)) as on_stage:
            try:
                session = executor.open(places.folders[backend])
                ran[executor.subject] = list(run_session(session, scenes, on_stage))
            except VggtEdgeError as error:
                # A second opinion that cannot be had is said so; what ships has to run.
                if backend == job.backend.name:
                    raise
                missing[executor.subject] = reason_of(error)
    subjects = {name: outputs for name, outputs in ran.items() if name != "fp32"}
    report = validate(
        scenes,
        ran["fp32"],
        subjects,
        job.profile.tolerances,
        declared=job.model.outputs,
        not_run=missing,
        peers=companion_peers(job),
        rounds=rounds_activations(plan),
    )
    golden = {f"input/{INPUT}": scenes[0].images[None]}
    ours = [name for name in ("fp32", SIMULATION) if name in ran]
    golden |= {f"{name}/{key}": value for name in ours for key, value in ran[name][0].items()}
    rows = (*report.rows, *camera_rows(job, places.folders[job.backend.name]))
    report = replace(report, rows=rows, notes=job.scenes.notes)
    camera = {} if model is None else camera_simulation(job, model, stats, plan, state / "camera")
    return Judged(report, {key: np.ascontiguousarray(golden[key]) for key in sorted(golden)}, camera)


def golden_size(bundle: Path) -> tuple[int, int, int]:
    """Frames, height and width of the input of a bundle's model, as its golden tensors have it."""
    path = bundle / GOLDEN
    try:
        with safe_open(path, framework="numpy") as tensors:
            _, frames, _, height, width = tensors.get_slice(f"input/{INPUT}").get_shape()
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"the golden tensors do not tell the model's input: {error}",
            where=str(path),
            expected=f"a tensor input/{INPUT} of shape (1, frames, 3, height, width)",
            remedy="export again",
        ) from error
    return frames, height, width


def executors(job: Job, made: Container[str]) -> Iterator[tuple[str, Executor]]:
    """What runs here of the backends that ``made`` an artifact, each with the backend's name."""
    backends = (backend for backend in job.backends if backend.name in made)
    return ((backend.name, executor) for backend in backends for executor in chosen_executors(job, backend))


def chosen_executors(job: Job, backend: Backend) -> tuple[Executor, ...]:
    """Those that always run, and what was asked for with ``--execute`` for processors of the device."""
    wanted = ("", *job.request.execute)
    return tuple(one for one in backend.executors() if one.on_request in wanted and one.fits(job.profile))


def judged_with(job: Job, artifacts: Artifacts) -> tuple[JudgedWith, ...]:
    """What computed the numbers of each subject of the report."""
    made = {one.lowered.backend for one in artifacts.made}
    every = (oracle(), *(executor for _, executor in executors(job, made)))
    return tuple(JudgedWith.of(executor, job.profile) for executor in every)


def companion_peers(job: Job) -> dict[str, str]:
    """A companion is compared with the target's own artifact, too: with its most exact executor, the last one."""
    own = [one for one in chosen_executors(job, job.backend) if not one.on_request]
    every = (executor for companion in job.companions for executor in chosen_executors(job, companion))
    return {executor.subject: own[-1].subject for executor in every} if own else {}


def run_session(session: Session, scenes: Sequence[Scene], on_stage: Callable[[StageTime], None]) -> Iterator[Arrays]:
    """Scene by scene."""
    for index, scene in enumerate(scenes):
        start = perf_counter()
        yield session.run({INPUT: scene.images[None]})
        on_stage(StageTime("", index + 1, len(scenes), perf_counter() - start))


def not_run(job: Job) -> dict[str, str]:
    """The device itself is never here: its row says so, and how to get it."""
    reason = job.backend.on_device(job.profile)
    return {job.backend.device_subject: reason} if reason else {}
