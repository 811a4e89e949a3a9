"""Measure a model on held-out synthetic rooms: FP32, and each precision with plain rounding beside it."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from vggt_edge.calibration.apply import apply_plan
from vggt_edge.calibration.metrics.output import Output
from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.planning.assign import PlanContext, plan_uniform
from vggt_edge.calibration.planning.cost import describe_blocks, rest_bytes
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import scheme
from vggt_edge.devices.profile import load_profile
from vggt_edge.exporter.contest.measure import geometry
from vggt_edge.exporter.graph import build_graph
from vggt_edge.exporter.machine.progress import Progress, note_random
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.steps.context import MODEL
from vggt_edge.exporter.steps.inputs import (
    BENCH_SEED,
    CALIBRATION_SCENES,
    CALIBRATION_SEED,
    Outputs,
    run_model,
    synthetic,
)
from vggt_edge.exporter.validation.outputs import without_batch

# Any machine can simulate these; which of them a device runs is its profile's business.
PROFILE = "host-cpu"
PRECISIONS = ("fp16", "w8a16", "w8a8", "w8a8d", "p6a16", "w4a16", "w4a8d", "p4a16")
GROUP_SIZE = 64  # recorded in plans without 4-bit groups; each scheme with groups has its own size


@dataclass(frozen=True)
class BenchRow:
    """One precision. file_bytes: of its QDQ ONNX with weights; latency_ms: median of one scene in torch on this CPU.

    auc*: in points of 100. cross_head: median |points - unproject(depth, pose)| over the scene scale. None where the
    model lacks the output.
    """

    precision: str
    auc30: float | None
    auc15: float | None
    auc5: float | None
    abs_rel: float | None
    delta125: float | None
    point_accuracy: float | None
    cross_head: float | None
    latency_ms: float
    file_bytes: int


@dataclass(frozen=True)
class BenchResult:
    """The figures of FP32 and of every precision, with what they were measured on."""

    model: str
    scene_count: int
    frames: int
    seed: int
    rows: tuple[BenchRow, ...]
    random_weights: str = ""


def bench(
    model: str, progress: Progress, *, frames: int | None = None, scene_count: int = 64, seed: int = 0
) -> BenchResult:
    """FP32 first, then every uniform precision calibrated by rounding alone, on the same held-out scenes."""
    checkpoint = open_model(model)
    note_random(checkpoint.random, progress)
    side = checkpoint.config.native_resolution
    one = checkpoint.architecture
    shape = one.shape(frames or one.default_frames, side, side)
    reference = build_model(checkpoint, shape, checkpoint.heads(None))
    with progress.step("render scenes"):
        scenes = synthetic(BENCH_SEED, scene_count, seed, shape.frames, side, side)
        calibration = synthetic(CALIBRATION_SEED, CALIBRATION_SCENES, seed, shape.frames, side, side)
    stats = calibrate(reference, calibration, digest=checkpoint.digest)
    rows = []
    for precision in ("fp32", *PRECISIONS):
        plan = _plan(reference, precision, stats)
        simulated = copy.deepcopy(reference)
        apply_plan(simulated, plan, stats)
        with progress.step(precision, len(scenes)) as step:
            outputs, latency_ms = [], []
            for scene in scenes:
                start = perf_counter()
                outputs.append(run_model(simulated, scene))
                latency_ms.append(1e3 * (perf_counter() - start))
                step.advance()
        size = _file_bytes(reference, plan, stats)
        rows.append(_row(precision, reference.outputs, scenes, outputs, statistics.median(latency_ms), size))
    return BenchResult(model, scene_count, shape.frames, seed, tuple(rows), checkpoint.random)


def _plan(model: Model, precision: str, stats: CalibrationStats) -> PrecisionPlan:
    rest = "fp32" if precision == "fp32" else "fp16"
    group_size = scheme(precision).group_size or GROUP_SIZE
    context = PlanContext(stats.model_digest, stats.digest, PROFILE, group_size, rest_bytes(model, rest), rest)
    blocks = describe_blocks(model, model.example_input())
    return plan_uniform(blocks, precision, load_profile(PROFILE), context)


def _file_bytes(model: Model, plan: PrecisionPlan, stats: CalibrationStats) -> int:
    with TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        build_graph(model, plan, stats, path)
        return sum(file.stat().st_size for file in Path(folder).iterdir())


def _row(
    precision: str,
    declared: Sequence[Output],
    scenes: Sequence[Scene],
    outputs: Sequence[Outputs],
    latency_ms: float,
    file_bytes: int,
) -> BenchRow:
    value = geometry(declared, scenes, [_single(declared, *each) for each in zip(outputs, scenes, strict=True)])
    names = ("auc30", "auc15", "auc5", "abs_rel", "delta125", "cross_head")
    return BenchRow(
        precision=precision,
        point_accuracy=value.get("accuracy"),
        latency_ms=latency_ms,
        file_bytes=file_bytes,
        **{name: value.get(name) for name in names},
    )


def _single(declared: Sequence[Output], outputs: Outputs, scene: Scene) -> Outputs:
    frames, _, height, width = scene.images.shape
    return without_batch(declared, outputs, (frames, height, width), scene.name)
