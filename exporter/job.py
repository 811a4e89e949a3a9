"""The straight line: load, calibrate, plan, annotate and lower, validate, report, bundle.

``export`` is the whole of it; ``calibrate`` and ``plan`` stop after their step and leave its artifacts; ``validate``
runs a bundle again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.planning.assign import checked_group_size, rest_scheme
from vggt_edge.calibration.planning.cost import rest_bytes
from vggt_edge.calibration.scenes.names import shown
from vggt_edge.devices.errors import AccuracyGateError, InputError, ToolchainError, UsageError
from vggt_edge.devices.profile import DeviceProfile, load_profile
from vggt_edge.exporter.bundle import Manifest, verify_bundle, write_bundle
from vggt_edge.exporter.machine.estimate import PROBE_FORWARDS, Estimate, Sizes, check, estimate
from vggt_edge.exporter.machine.progress import SILENT, Progress, note_random
from vggt_edge.exporter.machine.runtimes import JudgedWith
from vggt_edge.exporter.machine.usage import peak_memory_bytes
from vggt_edge.exporter.models.checkpoint import Checkpoint
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.request import ExportRequest, resolve_request, to_toml
from vggt_edge.exporter.steps.annotate import annotate_step
from vggt_edge.exporter.steps.assemble import (
    PLAN,
    REPORT,
    RESOLVED,
    assemble,
    manifest_inputs,
    stored_bytes,
    validation_digest,
)
from vggt_edge.exporter.steps.cache import StepCache, check_free, is_work_folder
from vggt_edge.exporter.steps.calibrate import calibrate_step
from vggt_edge.exporter.steps.context import SENSITIVITY, Job, fp32_bytes, options_of
from vggt_edge.exporter.steps.inputs import SceneSets, choose_scenes, scenes_to_judge
from vggt_edge.exporter.steps.lock import output_lock
from vggt_edge.exporter.steps.lower import lower_step
from vggt_edge.exporter.steps.plan import make_plan
from vggt_edge.exporter.steps.prepare import prepare_step
from vggt_edge.exporter.steps.sample import sample_step, save_calibration
from vggt_edge.exporter.steps.sensitivity import sensitivities_json, sensitivity_step
from vggt_edge.exporter.steps.tune import tune_step
from vggt_edge.exporter.steps.validate import (
    VALIDATION,
    Places,
    chosen_executors,
    golden_size,
    judge,
    judged_with,
    validate_step,
)
from vggt_edge.exporter.validation import SIMULATION, Row, Status, ValidationReport
from vggt_edge.exporter.validation.rows import FP32
from vggt_edge.runtimes.base import Backend
from vggt_edge.runtimes.registry import backend

ChooseScenes: TypeAlias = Callable[[ExportRequest, Checkpoint], SceneSets]


@dataclass(frozen=True)
class ExportResult:
    """What an export made. status: of the validation as a whole. model_bytes: of the QDQ ONNX, graph included.

    forward_seconds: what the model's own forwards took, in the steps that ran now; other_seconds: everything else.
    judged_with: the runtimes that the validation ran with, and how they differ from those of the device.
    """

    output: Path
    report: Path
    status: str
    target: str
    model_bytes: int
    fp32_bytes: int
    plan_digest: str
    peak_memory_bytes: int
    forward_seconds: float
    other_seconds: float
    judged_with: tuple[JudgedWith, ...] = ()
    random_weights: str = ""


@dataclass(frozen=True)
class StepResult:
    """What ``calibrate`` or ``plan`` made."""

    output: Path
    target: str
    digest: str
    peak_memory_bytes: int


def open_job(request: ExportRequest, progress: Progress, choose: ChooseScenes = choose_scenes) -> Job:
    """Read the inputs; whatever is wrong with them, or missing on this machine, is said here, before any work."""
    profile = load_profile(request.target)
    checked_group_size(profile, request.group_size)
    own = backend(profile.runtime)
    check_runnable(request, profile, own)
    companions = {name: backend(name) for name in profile.companions}
    states = {name: companion.availability() for name, companion in companions.items()}
    with progress.step("load model and scenes"):
        checkpoint = open_model(request.model, revision=request.revision, architecture=request.architecture)
        job = Job(
            request=request,
            profile=profile,
            backend=own,
            companions=tuple(companions[name] for name in companions if states[name].ok),
            absent={name: f"{state.reason}; {state.remedy}" for name, state in states.items() if not state.ok},
            checkpoint=checkpoint,
            scenes=choose(request, checkpoint),
            cache=StepCache(request.output, resume=request.resume, on_note=progress.note),
            progress=progress,
        )
        _ = job.excluded  # builds the model: a checkpoint that does not fit, or a pattern without a match, ends here
    note_random(checkpoint.random, progress)
    for text in (*job.notes, *job.scenes.notes):
        progress.note(text)
    return job


def check_runnable(request: ExportRequest, profile: DeviceProfile, own: Backend) -> None:
    """What can be refused before anything is read: a missing toolchain, a scheme or an option of another runtime."""
    ready = own.availability()
    if not ready.ok:
        raise ToolchainError(
            f"the runtime {own.name} cannot lower here: {ready.reason}",
            where=f"target {profile.name}",
            remedy=ready.remedy,
        )
    known = own.schemes(profile)
    if request.precision not in (*known, "mixed"):
        raise UsageError(
            f"{own.name} has no form of {request.precision} for {profile.name}",
            where="--precision",
            expected=f"one of: {', '.join((*known, 'mixed'))}",
        )
    for name in request.execute:
        _check_emulation(name, profile, own)
    if foreign := sorted(set(options_of(request).asked) - own.options):
        raise UsageError(
            f"the runtime {own.name} of {profile.name} does not know {foreign[0]}",
            where=f"--{foreign[0].replace('_', '-')}",
            expected=f"one of: {', '.join(sorted(own.options)) or 'no such option'}",
        )


def _check_emulation(name: str, profile: DeviceProfile, own: Backend) -> None:
    emulations = [one for one in own.executors() if one.on_request == name and one.fits(profile)]
    if not emulations:
        raise UsageError(
            f"the runtime {own.name} of {profile.name} has no emulation {name}",
            where="--execute",
            expected="a target whose artifact runs on such a processor",
        )
    state = emulations[0].availability()
    if not state.ok:
        raise ToolchainError(
            f"the emulation {name} cannot run here: {state.reason}", where="--execute", remedy=state.remedy
        )


LAST_STEP = {"calibrate": "calibrate", "plan": "sensitivity", "export": "report and bundle"}


def dry_run(verb: str, request: ExportRequest, progress: Progress) -> Estimate:
    """What ``export``, ``calibrate`` or ``plan`` would need; nothing is written."""
    counted = partial(choose_scenes, read=False)
    return needed_by(open_job(request.model_copy(update={"resume": True}), progress, counted), verb)


def needed_by(job: Job, verb: str) -> Estimate:
    """Disk, memory and time."""
    pairs = sum(len(job.schemes_of(block)) for block in job.blocks)
    exact = job.sensitivity_method == "exact"
    config = job.checkpoint.config
    return estimate(
        Sizes(
            blocks=job.blocks,
            rest_bytes=rest_bytes(job.form, rest_scheme(job.request.precision, job.profile)),
            fp32_bytes=fp32_bytes(job.model),
            shape=job.shape,
            embed_dim=config.embed_dim,
            heads=config.heads,
            output_values=sum(math.prod(output.shape(*job.scenes.size)) for output in job.model.outputs),
            calibration=len(job.scenes.calibration),
            pool=len(job.scenes.pool),
            # With one block quantized, what lies before it is not computed again: half a forward on average.
            probe_forwards=len(job.scenes.probes) * pairs / 2 if exact else 1 + PROBE_FORWARDS,
            validation=len(job.scenes.validation),
            precision=job.request.precision,
            whole_forward=exact,
            effort=job.request.effort,
            tuned_on=job.tuned_on,
            max_memory_bytes=job.request.max_memory_bytes,
            lowering=tuple(one.rates for one in job.backends),
            writes_form=job.backend.writes_form,
            executions=1 + len(chosen_executors(job, job.backend)),
        )
    ).up_to(LAST_STEP[verb])


def admit(job: Job, verb: str) -> None:
    """Say what ``verb`` will need; ``ResourceError`` where this machine does not have it."""
    needed = needed_by(job, verb)
    job.progress.note(f"needs {needed.text}")
    check(needed, job.request.output, job.cache.root)


def export(request: ExportRequest, progress: Progress = SILENT) -> ExportResult:
    """The whole line. ``AccuracyGateError`` when validation fails: the bundle and its report are there all the same."""
    with output_lock(request.output):
        if not request.resume:
            check_free(request.output)
        job = open_job(request, progress)
        manifest = _published(job) or _make_bundle(job)
        job.cache.clear()
    report = ValidationReport.from_json((request.output / VALIDATION).read_text())
    if report.status is Status.FAILED:
        raise gate_error(report, request.output / REPORT)
    return _result(job, manifest, report)


def _published(job: Job) -> Manifest | None:
    """The bundle of an earlier run that was ended between publishing it and forgetting its steps.

    ``UsageError`` when the output is anything else.
    """
    output = job.request.output
    if not (job.request.resume and output.is_dir() and is_work_folder(job.cache.root)):
        check_free(output)
        return None
    same = (output / RESOLVED).is_file() and (output / RESOLVED).read_text(encoding="utf-8") == to_toml(job.request)
    if not same:
        check_free(output)
    job.progress.note(f"{output} is finished already")
    return verify_bundle(output)


def _make_bundle(job: Job) -> Manifest:
    admit(job, "export")
    job = sample_step(job)
    prepared = prepare_step(job)
    stats = calibrate_step(job, prepared)
    sensitivities = sensitivity_step(job, prepared, stats)
    plan = make_plan(job, stats, sensitivities)
    tuned = tune_step(job, prepared, stats, plan)
    artifacts = lower_step(job, tuned, stats, plan, annotate_step(job, tuned, stats, plan))
    judged = validate_step(job, tuned, stats, plan, artifacts)
    with job.progress.step("report and bundle"):
        return write_bundle(
            job.cache,
            lambda folder: assemble(folder, job, stats, sensitivities, plan, artifacts, judged),
            manifest_inputs(job, stats, plan, judged_with(job, artifacts)),
        )


def _result(job: Job, manifest: Manifest, report: ValidationReport) -> ExportResult:
    output = job.request.output
    forward_s = sum(timing.forward_seconds for timing in manifest.timings)
    return ExportResult(
        output=output,
        report=output / REPORT,
        status=report.status.value,
        target=job.profile.name,
        model_bytes=stored_bytes(output),
        fp32_bytes=fp32_bytes(job.model),
        plan_digest=manifest.digests["plan"],
        peak_memory_bytes=manifest.peak_memory_bytes,
        forward_seconds=forward_s,
        other_seconds=sum(timing.seconds for timing in manifest.timings) - forward_s,
        judged_with=manifest.judged_with,
        random_weights=job.checkpoint.random,
    )


def calibrate(request: ExportRequest, progress: Progress = SILENT) -> StepResult:
    """Up to the statistics: ``stats.json`` and ``stats.safetensors`` in the output folder."""
    with output_lock(request.output):
        check_free(request.output)
        job = open_job(request, progress)
        admit(job, "calibrate")
        job = sample_step(job)
        stats = calibrate_step(job, prepare_step(job))
        job.cache.publish(partial(save_calibration, job, stats))
        job.cache.clear()
    return StepResult(request.output, job.profile.name, stats.digest, peak_memory_bytes())


def plan(request: ExportRequest, progress: Progress = SILENT) -> StepResult:
    """Up to the plan: ``plan.json``, ``sensitivity.json`` and the statistics in the output folder."""
    with output_lock(request.output):
        check_free(request.output)
        job = open_job(request, progress)
        admit(job, "plan")
        job = sample_step(job)
        prepared = prepare_step(job)
        stats = calibrate_step(job, prepared)
        sensitivities = sensitivity_step(job, prepared, stats)
        chosen = make_plan(job, stats, sensitivities)

        def fill(folder: Path) -> None:
            save_calibration(job, stats, folder)
            (folder / PLAN).write_text(chosen.to_json())
            (folder / SENSITIVITY).write_bytes(sensitivities_json(sensitivities))

        job.cache.publish(fill)
        job.cache.clear()
    return StepResult(request.output, job.profile.name, chosen.digest, peak_memory_bytes())


def validate(
    bundle: Path, progress: Progress = SILENT, *, scenes: Path | None = None, execute: str | None = None
) -> ValidationReport:
    """Run a bundle's graph again, on its own validation scenes or on others, and judge it against FP32.

    The model named in ``resolved.toml`` must be at hand and be the same one. Raises ``AccuracyGateError`` as ``export``
    does; the bundle is left as it is.
    """
    manifest = verify_bundle(bundle)
    request = resolve_request({"execute": execute}, (), bundle / RESOLVED)
    other = scenes or request.validate_on
    choose = _choose_from(other, bundle) if other else choose_scenes
    if scenes:  # the bundle's number is of its own scenes
        request = request.model_copy(update={"validation_scenes": None})
    stats = CalibrationStats.load(bundle)
    chosen = PrecisionPlan.from_json((bundle / PLAN).read_text(), where=str(bundle / PLAN))
    with TemporaryDirectory() as folder:
        job = open_job(request.model_copy(update={"output": Path(folder) / "validate"}), progress, choose)
        if job.checkpoint.digest != manifest.digests["model"]:
            raise InputError(
                f"{request.model} is not the model that this bundle was made from",
                where=str(bundle),
                expected=f"a checkpoint with sha256 {manifest.digests['model']}",
                remedy="put the original checkpoint back, or export again",
            )
        # A tuned model is not in the bundle: what it computed as a simulation is in the report that is.
        simulated = None if job.transforms else job.model
        report = judge(job, simulated, stats, chosen, Places.in_bundle(bundle, job), Path(folder) / "state").report
        replaced = () if scenes else replaced_scenes(job, manifest)
    for text in replaced:
        progress.note(text)
    report = replace(report, notes=(*report.notes, *replaced))
    if report.status is Status.FAILED:
        raise gate_error(report, bundle)
    return report


def _choose_from(path: Path, bundle: Path) -> ChooseScenes:
    size = golden_size(bundle)
    return lambda request, one: scenes_to_judge(request, path, one.architecture.shape(*size))


def replaced_scenes(job: Job, manifest: Manifest) -> tuple[str, ...]:
    """A remark where the scenes of the request are no longer those that the bundle was judged on."""
    if manifest.digests.get("validation", validation_digest(job)) == validation_digest(job):
        return ()
    where = job.request.validate_on or job.request.scenes or "the synthetic scenes"
    return (f"these are not the pictures that the bundle was judged on: {shown(str(where))} has changed since",)


def gate_error(report: ValidationReport, where: Path) -> AccuracyGateError:
    """Names the failed figures; the report at ``where`` shows the rest."""
    return AccuracyGateError(
        f"{len(report.failures)} of the accuracy checks failed:\n  " + "\n  ".join(map(_figure, report.failures[:8])),
        where=str(where),
        expected="every figure within the profile's tolerances",
        remedy="; ".join(dict.fromkeys(map(_advice, report.failures))),
    )


def _advice(row: Row) -> str:
    """What to do about one failed row: too little precision, an artifact that is wrong, or a model that is."""
    if row.subject == FP32:
        return "check the checkpoint and the scenes: the model itself gives nothing usable before any quantization"
    if row.against == SIMULATION:
        return (
            f"{row.subject} computes something else than the plan says, which no other plan mends: "
            "report it with the manifest"
        )
    return "read the report; raise --max-memory, --exclude the blocks it shows as most sensitive, or add scenes"


def _figure(row: Row) -> str:
    what = row.reason or f"{row.value:.4g} against a limit of {row.tolerance:.4g}"
    return f"{row.subject} {row.output} {row.metric}: {what}"
