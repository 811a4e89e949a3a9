"""The steps of the straight line, one function each; exporter/job.py strings them together.

A step that takes time is cached (exporter/steps.py) under everything its result depends on, so its key is written
out beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter
from safetensors.numpy import load_file, save_file

from vggt_edge.calibration.apply import apply_plan
from vggt_edge.calibration.assign import (
    PlanContext,
    candidate_schemes,
    check_budget,
    make_candidates,
    plan_mixed,
    plan_uniform,
)
from vggt_edge.calibration.collect import calibrate
from vggt_edge.calibration.cost import BlockCost, block_scheme, describe_blocks, rest_bytes
from vggt_edge.calibration.exclude import KEPT, excluded_layers, is_whole, pin, record
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.program import Budget
from vggt_edge.calibration.sensitivity import Sensitivity, measure
from vggt_edge.calibration.stats import CalibrationStats
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.exporter.bundle import tool_versions
from vggt_edge.exporter.config import ExportRequest
from vggt_edge.exporter.graph import build_graph
from vggt_edge.exporter.inputs import SceneSets, run_model
from vggt_edge.exporter.models.checkpoint import Checkpoint, build_model
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.exporter.progress import Progress
from vggt_edge.exporter.steps import StepCache
from vggt_edge.exporter.validation import ValidationReport, validate
from vggt_edge.runtimes.base import Arrays, Backend, Lowered
from vggt_edge.runtimes.onnxruntime import open_onnx

MODEL, LOWERED, VALIDATION, GOLDEN = "model.onnx", "lowered.json", "validation.json", "golden.safetensors"
SENSITIVITY = "sensitivity.json"
TOOLS = ("vggt-edge", "torch", "torchao", "onnx", "onnx-ir", "onnxruntime", "numpy", "scipy")
INPUT = "images"
ORT = "onnxruntime"
_SENSITIVITIES = TypeAdapter(tuple[Sensitivity, ...])
_LOWERED = TypeAdapter(Lowered)


@dataclass(frozen=True)
class Job:
    """What every step needs: the request, and what it works on."""

    request: ExportRequest
    profile: DeviceProfile
    backend: Backend
    checkpoint: Checkpoint
    scenes: SceneSets
    cache: StepCache
    progress: Progress

    @cached_property
    def model(self) -> VGGT:
        """The FP32 reference."""
        return build_model(self.checkpoint, self.scenes.shape, self.request.outputs)

    @cached_property
    def all_blocks(self) -> tuple[BlockCost, ...]:
        """The cost of the blocks before any exclusion."""
        return describe_blocks(self.model, self.model.example_input())

    @cached_property
    def excluded(self) -> Mapping[str, tuple[str, ...]]:
        return excluded_layers(self.all_blocks, self.request.exclude)

    @cached_property
    def blocks(self) -> tuple[BlockCost, ...]:
        return pin(self.all_blocks, self.excluded)

    @property
    def identity(self) -> dict[str, object]:
        """What every step depends on."""
        return {
            "vggt_edge": version("vggt-edge"),
            "torch": version("torch"),
            "model": self.checkpoint.digest,
            "outputs": self.request.outputs,
            "calibration": [scene.digest for scene in self.scenes.calibration],
        }

    def schemes_of(self, block: BlockCost) -> tuple[str, ...]:
        """What the planner may give a block: the asked precision, or under ``mixed`` all that the device runs."""
        if is_whole(block, self.excluded):
            return (KEPT,)
        if self.request.precision != "mixed":
            return (block_scheme(block, self.request.precision),)
        runnable = self.backend.schemes(self.profile)
        return tuple(name for name in candidate_schemes(block, self.profile) if name in runnable)


def calibrate_step(job: Job) -> CalibrationStats:
    """Observe the FP32 model over the calibration scenes."""

    def make(folder: Path) -> None:
        scenes = job.scenes.calibration
        with job.progress.step("calibrate", len(scenes)) as step:
            calibrate(job.model, scenes, digest=job.checkpoint.digest, on_progress=step.update).save(folder)

    return CalibrationStats.load(job.cache.run("calibrate", job.identity, make))


def sensitivity_step(job: Job, stats: CalibrationStats) -> tuple[Sensitivity, ...]:
    """The output error of every block under every scheme that it may get, by exact ablation."""
    candidates = {block.name: job.schemes_of(block) for block in job.blocks}
    key = job.identity | {
        "stats": stats.digest,
        "candidates": candidates,
        "group_size": job.request.group_size,
        "probes": [scene.digest for scene in job.scenes.probes],
    }

    def make(folder: Path) -> None:
        total = len(job.scenes.probes) * sum(map(len, candidates.values()))
        with job.progress.step("sensitivity", total) as step:
            found = measure(
                job.model, stats, job.scenes.probes, candidates, job.request.group_size, on_progress=step.update
            )
        (folder / SENSITIVITY).write_bytes(sensitivities_json(found))

    return _SENSITIVITIES.validate_json((job.cache.run("sensitivity", key, make) / SENSITIVITY).read_bytes())


def sensitivities_json(found: tuple[Sensitivity, ...]) -> bytes:
    """What ``sensitivity.json`` holds."""
    return _SENSITIVITIES.dump_json(found, indent=2)


def make_plan(job: Job, stats: CalibrationStats, sensitivities: tuple[Sensitivity, ...]) -> PrecisionPlan:
    """Solve the assignment under the request's budgets; milliseconds, so never cached."""
    request = job.request
    errors = {(one.block, one.scheme): one.error for one in sensitivities}
    context = PlanContext(
        model_digest=job.checkpoint.digest,
        stats_digest=stats.digest,
        target=job.profile.name,
        group_size=request.group_size,
        rest_bytes=rest_bytes(job.model),
    )
    budget = Budget(request.max_memory_bytes, request.max_latency_ms, request.max_accuracy_drop)
    if request.precision == "mixed":
        schemes = {block.name: job.schemes_of(block) for block in job.blocks}
        candidates = make_candidates(job.blocks, errors, job.profile, request.group_size, schemes)
        plan = plan_mixed(candidates, budget, context)
    else:
        plan = plan_uniform(job.blocks, request.precision, job.profile, context, errors)
        check_budget(plan, budget)
    plan = record(plan, job.excluded)
    plan.check_total(job.model.blocks())
    return plan


@dataclass(frozen=True)
class LoweredFolder:
    """``folder`` holds the QDQ ONNX and the backend's files."""

    folder: Path
    lowered: Lowered


def lower_step(job: Job, stats: CalibrationStats, plan: PrecisionPlan) -> LoweredFolder:
    """Annotate, write the QDQ ONNX, and hand both to the target's backend."""
    key = job.identity | {"plan": plan.digest, "profile": job.profile.to_dict(), "tools": tools()}

    def make(folder: Path) -> None:
        with job.progress.step("annotate and export"):
            graph, _ = build_graph(simulation(job, stats, plan), plan, stats, folder / MODEL)
        with job.progress.step(f"lower for {job.profile.name} ({job.backend.name})"):
            lowered = job.backend.lower(graph, plan, job.profile, folder)
        (folder / LOWERED).write_bytes(_LOWERED.dump_json(lowered, indent=2))

    folder = job.cache.run("lower", key, make)
    return LoweredFolder(folder, _LOWERED.validate_json((folder / LOWERED).read_bytes()))


def simulation(job: Job, stats: CalibrationStats, plan: PrecisionPlan) -> VGGT:
    """A copy of the model that computes with the plan's quantized weights and activations."""
    model = copy.deepcopy(job.model)
    apply_plan(model, plan, stats)
    return model


@dataclass(frozen=True)
class Judged:
    """The report, and what the first validation scene gave: ``input/``, ``fp32/`` and ``simulation/`` tensors."""

    report: ValidationReport
    golden: Mapping[str, npt.NDArray[np.float32]]

    def group(self, name: str) -> dict[str, npt.NDArray[np.float32]]:
        prefix = f"{name}/"
        return {key.removeprefix(prefix): self.golden[key] for key in self.golden if key.startswith(prefix)}


def validate_step(job: Job, stats: CalibrationStats, plan: PrecisionPlan, lowered: LoweredFolder) -> Judged:
    """Run FP32, the simulation and the artifact in ONNX Runtime over the held-out scenes and judge them."""
    key = job.identity | {
        "plan": plan.digest,
        "profile": job.profile.to_dict(),
        "validation": [scene.digest for scene in job.scenes.validation],
        "onnxruntime": version("onnxruntime"),
    }

    def make(folder: Path) -> None:
        judged = judge(job, stats, plan, lowered.folder / MODEL)
        (folder / VALIDATION).write_text(judged.report.to_json())
        save_file(dict(judged.golden), folder / GOLDEN)

    folder = job.cache.run("validate", key, make)
    return Judged(ValidationReport.from_json((folder / VALIDATION).read_text()), load_file(folder / GOLDEN))


def judge(job: Job, stats: CalibrationStats, plan: PrecisionPlan, onnx_path: Path) -> Judged:
    """Run FP32, the simulation and the QDQ ONNX over the validation scenes and compare their outputs."""
    scenes = job.scenes.validation
    models = {"fp32": job.model, "simulation": simulation(job, stats, plan)}
    session = open_onnx(onnx_path)
    ran: dict[str, list[Arrays]] = {name: [] for name in (*models, ORT)}
    with job.progress.step("validate", len(ran) * len(scenes)) as step:
        for scene in scenes:
            for name, model in models.items():
                ran[name].append(run_model(model, scene))
                step.advance()
            ran[ORT].append(session.run({INPUT: scene.images[None]}))
            step.advance()
    subjects = {name: ran[name] for name in ("simulation", ORT)}
    report = validate(scenes, ran["fp32"], subjects, job.profile.tolerances, not_run=not_run(job))
    golden = {f"input/{INPUT}": scenes[0].images[None]}
    golden |= {f"{name}/{key}": value for name in models for key, value in ran[name][0].items()}
    return Judged(report, {key: np.ascontiguousarray(golden[key]) for key in sorted(golden)})


def not_run(job: Job) -> dict[str, str]:
    """The device itself is never here: its row says so, and how to get it."""
    if job.backend.name == ORT:
        return {}
    return {job.backend.name: f"runs on the device only: use the kit in {job.backend.name}/ on a {job.profile.title}"}


def tools() -> dict[str, str]:
    """The versions that a result depends on."""
    return tool_versions(TOOLS)
