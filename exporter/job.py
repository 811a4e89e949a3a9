"""The straight line: load, calibrate, plan, annotate and lower, validate, report, bundle.

``export`` is the whole of it; ``calibrate`` and ``plan`` stop after their step and leave its artifacts.
``exporter/rerun.py`` runs a bundle again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from vggt_edge.calibration.planning.assign import checked_group_size, rest_scheme
from vggt_edge.calibration.planning.cost import rest_bytes
from vggt_edge.devices.errors import ToolchainError, UsageError
from vggt_edge.devices.profile import DeviceProfile, load_profile
from vggt_edge.exporter.bundle import MANIFEST, PLAN, REPORT, Manifest, read_measured, verify_bundle, write_bundle
from vggt_edge.exporter.machine.estimate import PROBE_FORWARDS, Estimate, Sizes, check, estimate
from vggt_edge.exporter.machine.progress import SILENT, Progress, note_random
from vggt_edge.exporter.machine.runtimes import JudgedWith
from vggt_edge.exporter.machine.threads import fixed_threads
from vggt_edge.exporter.machine.usage import peak_memory_bytes
from vggt_edge.exporter.models.checkpoint import Checkpoint
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.request import ExportRequest
from vggt_edge.exporter.signing.sign import Signing, signature_state
from vggt_edge.exporter.steps.annotate import annotate_step
from vggt_edge.exporter.steps.assemble import (
    RESOLVED,
    assemble,
    documents,
    manifest_inputs,
    profile_digest,
    resolved,
    stored_bytes,
    validation_digest,
)
from vggt_edge.exporter.steps.cache import StepCache, check_free
from vggt_edge.exporter.steps.calibrate import calibrate_step
from vggt_edge.exporter.steps.context import SENSITIVITY, Job, fp32_bytes, options_of
from vggt_edge.exporter.steps.inputs import SceneSets, choose_scenes
from vggt_edge.exporter.steps.lock import output_lock
from vggt_edge.exporter.steps.lower import lower_step
from vggt_edge.exporter.steps.plan import make_plan
from vggt_edge.exporter.steps.prepare import prepare_step
from vggt_edge.exporter.steps.sample import sample_step, save_calibration
from vggt_edge.exporter.steps.sensitivity import sensitivities_json, sensitivity_step
from vggt_edge.exporter.steps.tune import tune_step
from vggt_edge.exporter.steps.validate import (
    VALIDATION,
    chosen_executors,
    judged_with,
    validate_step,
)
from vggt_edge.exporter.supply.licenses import license_of_model
from vggt_edge.exporter.validation import Status, ValidationReport
from vggt_edge.exporter.validation.advice import gate_error
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
        job.check_camera()
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
    own.check_profile(profile)
    known = own.schemes(profile)
    if request.precision not in (*known, "mixed"):
        reason = own.why_not(request.precision, profile)
        raise UsageError(
            f"{own.name} has no form of {request.precision} for {profile.name}{reason and ': ' + reason}",
            where="--precision",
            expected=f"one of: {', '.join((*known, 'mixed'))}",
        )
    own.check_options(options_of(request))
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


def export(request: ExportRequest, progress: Progress = SILENT, signing: Signing | None = None) -> ExportResult:
    """The whole line. ``AccuracyGateError`` when validation fails: the bundle and its report are there all the same.

    signing: signs the bundle before anyone can see it. A bundle that fails its validation is not signed.
    """
    with output_lock(request.output):
        if not request.resume:
            check_free(request.output)
        job = open_job(request, progress)
        if signing is not None:
            signing.check_license(license_of_model(job.checkpoint.source, request.model_license))
        manifest = _published(job, signing) or _make_bundle(job, signing)
        job.cache.clear()
    report = ValidationReport.from_json((request.output / VALIDATION).read_text())
    if report.status is Status.FAILED:
        raise gate_error(report, request.output / REPORT, request.precision)
    return _result(job, manifest, report)


def _published(job: Job, signing: Signing | None) -> Manifest | None:
    """The bundle of an earlier run that was ended when it had published it; ``UsageError`` for any other output.

    It is signed where that is still to be done.
    """
    output = job.request.output
    if not (job.request.resume and (output / MANIFEST).is_file()):
        check_free(output)
        return None
    manifest = verify_bundle(output)
    if not _is_of(manifest, job):
        check_free(output)
    job.progress.note(f"{output} is finished already")
    if signing is not None and signature_state(output).status == "unsigned":
        report = ValidationReport.from_json((output / VALIDATION).read_text())
        _seal(job, report, signing)(output, manifest)
    return manifest


def _seal(job: Job, report: ValidationReport, signing: Signing | None) -> Callable[[Path, Manifest], object]:
    """Function that signs the bundle; it does nothing where nobody asked, or where validation has failed."""
    if signing is not None and report.status is Status.FAILED:
        job.progress.note("validation failed: the bundle is not signed")
    if signing is None or report.status is Status.FAILED:
        return lambda folder, manifest: None
    return signing.seal


def _is_of(manifest: Manifest, job: Job) -> bool:
    """Whether this job would make that bundle: settings, model, scenes to judge on, device and tools are the same."""
    settings = (job.request.output / RESOLVED).read_text(encoding="utf-8")
    digests = {"model": job.checkpoint.digest, "validation": validation_digest(job), "profile": profile_digest(job)}
    same = all(manifest.digests.get(name) == digest for name, digest in digests.items())
    return same and settings == resolved(job) and manifest.tools == job.tools


@contextmanager
def _working(job: Job) -> Iterator[None]:
    """Fix the number of threads, and keep temporary files in a folder that is removed with the job."""
    with fixed_threads(fp32_bytes(job.model)), job.cache.temporary_files():
        yield


def _make_bundle(job: Job, signing: Signing | None) -> Manifest:
    admit(job, "export")
    with _working(job):
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
                describe=lambda folder, files: documents(folder, files, job, stats, plan, judged),
                seal=_seal(job, judged.report, signing),
            )


def _result(job: Job, manifest: Manifest, report: ValidationReport) -> ExportResult:
    output = job.request.output
    measured = read_measured(output) or job.measured
    return ExportResult(
        output=output,
        report=output / REPORT,
        status=report.status.value,
        target=job.profile.name,
        model_bytes=stored_bytes(output),
        fp32_bytes=fp32_bytes(job.model),
        plan_digest=manifest.digests["plan"],
        peak_memory_bytes=measured.peak_memory_bytes,
        forward_seconds=measured.forward_seconds,
        other_seconds=measured.seconds - measured.forward_seconds,
        judged_with=manifest.judged_with,
        random_weights=job.checkpoint.random,
    )


def calibrate(request: ExportRequest, progress: Progress = SILENT) -> StepResult:
    """Up to the statistics: ``stats.json`` and ``stats.safetensors`` in the output folder."""
    with output_lock(request.output):
        check_free(request.output)
        job = open_job(request, progress)
        admit(job, "calibrate")
        with _working(job):
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
        with _working(job):
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
