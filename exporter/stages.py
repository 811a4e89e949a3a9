"""The steps of the straight line, one function each; exporter/job.py strings them together.

A step that takes time is cached (exporter/steps.py) under everything its result depends on, so its key is written
out beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from pydantic import TypeAdapter
from torch import nn

from vggt_edge.calibration.assign import (
    PlanContext,
    candidate_schemes,
    check_budget,
    make_candidates,
    plan_mixed,
    plan_uniform,
    rest_scheme,
)
from vggt_edge.calibration.collect import calibrate
from vggt_edge.calibration.cost import BlockCost, block_scheme, describe_blocks, rest_bytes
from vggt_edge.calibration.exclude import excluded_layers, is_whole, kept_scheme, pin, record
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.probes import estimate
from vggt_edge.calibration.program import Budget
from vggt_edge.calibration.sampling import Sampling, sample
from vggt_edge.calibration.sensitivity import Sensitivity, measure
from vggt_edge.calibration.stats import CalibrationStats
from vggt_edge.calibration.tuning.tune import EFFORTS, tune, tuned_from
from vggt_edge.calibration.walk import StageTime
from vggt_edge.devices.errors import VggtEdgeError
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.exporter.bundle import tool_versions
from vggt_edge.exporter.config import ExportRequest
from vggt_edge.exporter.graph import annotated_graph, build_graph
from vggt_edge.exporter.inputs import SceneSets
from vggt_edge.exporter.models.checkpoint import Checkpoint, build_model
from vggt_edge.exporter.models.prepared import adopt_tuned, model_of_form, open_prepared, save_tuned, write_prepared
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.exporter.progress import Progress
from vggt_edge.exporter.steps import StepCache
from vggt_edge.exporter.usage import Timing
from vggt_edge.runtimes.base import DEFAULT_OPTIONS, AnnotatedGraph, Backend, Lowered, Options

MODEL, SAMPLING, SENSITIVITY = "model.onnx", "sampling.json", "sensitivity.json"
TOOLS = ("vggt-edge", "torch", "torchao", "onnx", "onnx-ir", "onnxruntime", "numpy", "scipy")
TOOLS_OF_BACKEND = {
    "coreml": ("coremltools",),
    "coreai": ("coreai-core", "coreai-torch"),
    "executorch": ("executorch",),
    "vulkan": ("executorch",),
}
EXACT_UP_TO_BYTES = 200_000_000  # of FP32 weights, for sensitivities by exact ablation
PROBED_SCENES = 1
_SENSITIVITIES = TypeAdapter(tuple[Sensitivity, ...])
_LOWERED = TypeAdapter(Lowered)
_SAMPLING = TypeAdapter(Sampling)


@dataclass(frozen=True)
class Job:
    """What every step needs: the request, and what it works on.

    companions: further backends of the profile that this machine has. absent: those that it lacks, and why.
    """

    request: ExportRequest
    profile: DeviceProfile
    backend: Backend
    companions: tuple[Backend, ...]
    absent: Mapping[str, str]
    checkpoint: Checkpoint
    scenes: SceneSets
    cache: StepCache
    progress: Progress
    timings: list[Timing] = field(default_factory=list)

    def on(self, scenes: SceneSets) -> Job:
        """The same job on other scenes of the same shape; what is known of the model stays as it is."""
        other = copy(self)
        vars(other)["scenes"] = scenes  # the class is frozen, and replace() would forget the model
        return other

    @cached_property
    def model(self) -> VGGT:
        """The FP32 reference."""
        return build_model(self.checkpoint, self.scenes.shape, self.request.outputs)

    @property
    def transforms(self) -> bool:
        """Whether what is quantized is a prepared and tuned model, and not the FP32 one as it came."""
        return self.request.effort != "none"

    @property
    def tuned_on(self) -> int:
        """How many of the calibration scenes tuning looks at."""
        if not self.transforms:
            return 0
        return len(self.scenes.calibration[: EFFORTS[self.request.effort].scenes])

    @cached_property
    def form(self) -> VGGT:
        """A model with the shapes of what is quantized; of its weights nothing is said."""
        if not self.transforms:
            return self.model
        _ = self.model  # a checkpoint that does not fit ends there, with a word about why
        return model_of_form(self.checkpoint, self.scenes.shape, self.request.outputs)

    @cached_property
    def all_blocks(self) -> tuple[BlockCost, ...]:
        """The cost of the blocks before any exclusion."""
        return describe_blocks(self.form, self.form.example_input())

    @cached_property
    def excluded(self) -> Mapping[str, tuple[str, ...]]:
        return excluded_layers(self.all_blocks, self.request.exclude)

    @cached_property
    def blocks(self) -> tuple[BlockCost, ...]:
        return pin(self.all_blocks, self.excluded, kept_scheme(self.profile))

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The target's own first."""
        return (self.backend, *self.companions)

    @property
    def options(self) -> Options:
        return Options(image_input=self.request.image_input, strict_ane=self.request.strict_ane)

    @property
    def tools(self) -> dict[str, str]:
        """The versions that a result depends on."""
        return tool_versions((*TOOLS, *(tool for one in self.backends for tool in TOOLS_OF_BACKEND.get(one.name, ()))))

    @cached_property
    def stage_count(self) -> int:
        return len(self.model.stages())

    @property
    def sensitivity_method(self) -> str:
        """Exact ablation costs a forward per block and scheme: only small models can afford it."""
        if self.request.sensitivity != "auto":
            return self.request.sensitivity
        return "exact" if fp32_bytes(self.model) <= EXACT_UP_TO_BYTES else "probe"

    @contextmanager
    def timed(self, name: str, total: int | None = None) -> Iterator[Callable[[StageTime], None]]:
        """A step that the progress shows, and whose time, with the model's forwards apart, goes into the manifest."""
        start, forward_s = perf_counter(), 0.0

        def on_stage(time: StageTime) -> None:
            nonlocal forward_s
            forward_s += time.forward_s
            step.update(time.done, time.total)

        with self.progress.step(name, total) as step:
            yield on_stage
        self.timings.append(Timing(name, perf_counter() - start, forward_s))

    @property
    def prepared_identity(self) -> dict[str, object]:
        """What the prepared model depends on besides: the seed of its rotations."""
        return self.identity | ({"transforms": self.request.seed} if self.transforms else {})

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

    def tuned_identity(self, stats: CalibrationStats, plan: PrecisionPlan) -> dict[str, object]:
        """What the quantized model depends on."""
        return self.prepared_identity | {"plan": plan.digest, "stats": stats.digest, "effort": self.request.effort}

    def schemes_of(self, block: BlockCost) -> tuple[str, ...]:
        """What the planner may give a block: the asked precision, or under ``mixed`` all that the device runs."""
        if is_whole(block, self.excluded):
            return (kept_scheme(self.profile),)
        if self.request.precision != "mixed":
            return (block_scheme(block, self.request.precision),)
        runnable = self.backend.schemes(self.profile)
        return tuple(name for name in candidate_schemes(block, self.profile) if name in runnable)


def sample_step(job: Job) -> Job:
    """The job on calibration scenes chosen from its pool; as it is where there is nothing to choose from."""
    pool, wanted = job.scenes.pool, len(job.scenes.calibration)
    if not pool:
        return job
    key = {
        "vggt_edge": version("vggt-edge"),
        "torch": version("torch"),
        "model": job.checkpoint.digest,
        "pool": [(scene.name, scene.digest) for scene in pool],
        "wanted": wanted,
        "seed": job.request.seed,
    }

    def make(folder: Path) -> None:
        state = job.cache.unfinished("sample", key)
        with job.timed("sample", job.stage_count) as on_stage:
            found = sample(job.model, pool, wanted, job.request.seed, folder=state, on_stage=on_stage)
        (folder / SAMPLING).write_text(found.to_json())

    sampling = _SAMPLING.validate_json((job.cache.run("sample", key, make) / SAMPLING).read_bytes())
    dropped = ", ".join(sampling.names[index] for index in sampling.dropped) or "none"
    job.progress.note(f"{wanted} of {len(pool)} scenes chosen to calibrate on; dropped as outliers: {dropped}")
    return job.on(job.scenes.sampled(sampling))


def save_calibration(job: Job, stats: CalibrationStats, folder: Path) -> None:
    """The statistics, and how their scenes were chosen; no file of that where there was no choice."""
    stats.save(folder)
    if job.scenes.sampling is not None:
        (folder / SAMPLING).write_text(job.scenes.sampling.to_json())


def prepare_step(job: Job) -> VGGT:
    """The model that is calibrated and quantized: after its exact transforms, unless the effort is ``none``."""
    if not job.transforms:
        return job.model
    return _open_prepared(job, _prepared_folder(job))


def _prepared_folder(job: Job) -> Path:
    def make(folder: Path) -> None:
        with job.timed("prepare"):
            write_prepared(job.model, job.request.seed, folder)

    return job.cache.run("prepare", job.prepared_identity, make)


def _open_prepared(job: Job, folder: Path) -> VGGT:
    return open_prepared(job.checkpoint.config, job.scenes.shape, job.request.outputs, folder)


def calibrate_step(job: Job, model: VGGT) -> CalibrationStats:
    """Observe the prepared model over the calibration scenes."""

    def make(folder: Path) -> None:
        state = job.cache.unfinished("calibrate", job.prepared_identity)
        with job.timed("calibrate", job.stage_count) as on_stage:
            found = calibrate(
                model, job.scenes.calibration, digest=job.checkpoint.digest, folder=state, on_stage=on_stage
            )
        found.save(folder)

    return CalibrationStats.load(job.cache.run("calibrate", job.prepared_identity, make))


def sensitivity_step(job: Job, model: VGGT, stats: CalibrationStats) -> tuple[Sensitivity, ...]:
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
        rest_bytes=rest_bytes(job.form, rest_scheme(request.precision, job.profile)),
        rest_scheme=rest_scheme(request.precision, job.profile),
    )
    budget = Budget(request.max_memory_bytes, request.max_latency_ms, request.max_accuracy_drop)
    if request.precision == "mixed":
        schemes = {block.name: job.schemes_of(block) for block in job.blocks}
        candidates = make_candidates(job.blocks, errors, job.profile, request.group_size, schemes)
        plan = plan_mixed(candidates, budget, context)
    else:
        plan = plan_uniform(job.blocks, request.precision, job.profile, context, errors)
        check_budget(plan, budget)
    plan = record(plan, job.excluded, kept_scheme(job.profile))
    plan.check_total(job.model.blocks())
    return plan


@dataclass(frozen=True)
class LoweredFolder:
    """``folder`` holds the files of one backend."""

    folder: Path
    lowered: Lowered


@dataclass(frozen=True)
class Artifacts:
    """``graph``: the folder of the QDQ ONNX. ``made``: what the backends made of it, the target's own first.

    ``absent``: by companion that made nothing, why.
    """

    graph: Path
    made: tuple[LoweredFolder, ...]
    absent: Mapping[str, str]


def tune_step(job: Job, model: VGGT, stats: CalibrationStats, plan: PrecisionPlan) -> VGGT:
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


def annotate_step(job: Job, model: VGGT, stats: CalibrationStats, plan: PrecisionPlan) -> Path:
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


def lower_step(job: Job, model: VGGT, stats: CalibrationStats, plan: PrecisionPlan, graph: Path) -> Artifacts:
    """Hand the annotated graph to the target's backend and to its companions.

    A companion is a second opinion: where it refuses or its toolchain fails, the export goes on and its report says so.
    """
    annotated = annotated_graph(model, plan, stats, graph / MODEL)
    made, absent = [_lowered(job, stats, plan, annotated, job.backend)], dict(job.absent)
    for companion in job.companions:
        try:
            made.append(_lowered(job, stats, plan, annotated, companion))
        except VggtEdgeError as error:
            absent[companion.name] = reason_of(error)
            job.progress.note(f"{companion.name} made nothing: {error.what}")
    return Artifacts(graph, tuple(made), absent)


def _lowered(
    job: Job, stats: CalibrationStats, plan: PrecisionPlan, annotated: AnnotatedGraph, one: Backend
) -> LoweredFolder:
    # What the target's own backend was asked for is not its companions' business.
    options = job.options if one is job.backend else DEFAULT_OPTIONS
    key = job.tuned_identity(stats, plan) | {
        "profile": job.profile.to_dict(),
        "tools": job.tools,
        "backend": one.name,
        "options": asdict(options),
    }

    def make(folder: Path) -> None:
        with job.timed(f"lower for {job.profile.name} ({one.name})"):
            lowered = one.lower(annotated, plan, job.profile, folder, options)
        (folder / lowered_file(one.name)).write_bytes(_LOWERED.dump_json(lowered, indent=2))

    folder = job.cache.run(f"lower-{one.name}", key, make)
    return LoweredFolder(folder, _LOWERED.validate_json((folder / lowered_file(one.name)).read_bytes()))


def reason_of(error: VggtEdgeError) -> str:
    """Why there is nothing, in one line; without the place, which is a folder of this run."""
    return "; ".join(filter(None, (error.what, error.remedy))).replace("\n", "; ")


def lowered_file(backend: str) -> str:
    """What a bundle says of each backend's artifact."""
    return f"lowered-{backend}.json"


def fp32_bytes(model: nn.Module) -> int:
    """What the model's parameters take in FP32."""
    return 4 * sum(parameter.numel() for parameter in model.parameters())
