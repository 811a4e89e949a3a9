"""What goes into a bundle, and where it comes from; docs/bundle-format.md is its description for readers."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from plotly.offline import get_plotlyjs_version
from safetensors.numpy import save_file
from torch import nn

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scenes.names import shown
from vggt_edge.calibration.sensitivity.ablation import Sensitivity
from vggt_edge.exporter.bundle import PLAN, REPORT, FileEntry, ManifestInputs
from vggt_edge.exporter.machine.runtimes import JudgedWith
from vggt_edge.exporter.machine.usage import MEASURED
from vggt_edge.exporter.report import Budget, ReportData, SceneView, component_sizes, render_report
from vggt_edge.exporter.request import ExportRequest, to_settings, to_toml
from vggt_edge.exporter.steps.cache import digest_of, place_tree
from vggt_edge.exporter.steps.context import ANNOTATED, MODEL, Job
from vggt_edge.exporter.steps.lower import Artifacts
from vggt_edge.exporter.steps.sample import save_calibration
from vggt_edge.exporter.steps.validate import GOLDEN, INPUT, VALIDATION, Judged, judged_with
from vggt_edge.exporter.supply.licenses import license_of_model
from vggt_edge.exporter.supply.origin import PROVENANCE, SBOM, Figure, Material, Origin
from vggt_edge.exporter.supply.provenance import provenance_json
from vggt_edge.exporter.supply.sbom import sbom_json

RESOLVED = "resolved.toml"


def assemble(
    folder: Path,
    job: Job,
    stats: CalibrationStats,
    sensitivities: tuple[Sensitivity, ...],
    plan: PrecisionPlan,
    artifacts: Artifacts,
    judged: Judged,
) -> None:
    """Fill the bundle's folder with everything but the manifest; last, with what all of it took."""
    for made in (artifacts.graph, *(one.folder for one in artifacts.made)):
        place_tree(made, folder, without=ANNOTATED)
    save_calibration(job, stats, folder)
    (folder / PLAN).write_text(plan.to_json())
    (folder / RESOLVED).write_text(resolved(job), encoding="utf-8")
    (folder / VALIDATION).write_text(judged.report.to_json())
    save_file(dict(judged.golden), folder / GOLDEN)
    job.backend.write_golden(folder, judged.group("input"), judged.group("simulation"), judged.group("fp32"))
    if job.scenes.camera is not None:
        job.backend.write_camera_golden(folder, job.scenes.camera, judged.camera, job.model.outputs)
    page = render_report(report_data(job, stats, sensitivities, plan, artifacts, judged))
    (folder / REPORT).write_text(page, encoding="utf-8")
    (folder / MEASURED).write_text(job.measured.to_json(), encoding="utf-8")


def report_data(
    job: Job,
    stats: CalibrationStats,
    sensitivities: tuple[Sensitivity, ...],
    plan: PrecisionPlan,
    artifacts: Artifacts,
    judged: Judged,
) -> ReportData:
    """What the report shows; its scene is the first of the validation."""
    shape, request = job.shape, job.request
    runtimes = judged_with(job, artifacts)
    inputs = manifest_inputs(job, stats, plan, runtimes)
    parameters = {name: _count(block) for name, block in job.model.blocks().items()}
    rest = _count(job.model) - sum(parameters.values())
    name = job.scenes.validation[0].name + ("" if job.scenes.held_out else " (the only one, also calibrated on)")
    images = judged.group("input")[INPUT][0]
    return ReportData(
        model=shown(job.checkpoint.source),
        target=job.profile.name,
        device_title=job.profile.title,
        device_chip=job.profile.figures_hold_for,
        input_shape=(shape.frames, shape.height, shape.width),
        outputs=job.heads,
        plan=plan,
        validation=judged.report,
        sensitivity=sensitivities,
        sizes=component_sizes(plan, parameters, rest),
        budget=Budget(request.max_memory_bytes, request.max_latency_ms, request.max_accuracy_drop),
        lowered=tuple(one.lowered for one in artifacts.made),
        judged_with=runtimes,
        scenes=(SceneView(name, images, judged.group("fp32"), judged.group("simulation"), job.model.outputs),),
        digests=inputs.digests,
        tools=inputs.tools,
        random_weights=job.checkpoint.random,
        calibration=calibration_words(job),
        notes=job.scenes.notes,
        components=job.checkpoint.architecture.components,
        output_titles={output.name: output.title for output in job.model.outputs},
    )


def calibration_words(job: Job) -> str:
    """Such as ``16 of 40 scenes (8 dropped as outliers), effort balanced``."""
    count, sampling = len(job.scenes.calibration), job.scenes.sampling
    scenes = "1 scene" if count == 1 else f"{count} scenes"
    if sampling is not None:
        scenes = f"{count} of {len(sampling.names)} scenes ({len(sampling.dropped)} dropped as outliers)"
    return f"{scenes}, effort {job.request.effort}"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def manifest_inputs(
    job: Job, stats: CalibrationStats, plan: PrecisionPlan, judged_with: tuple[JudgedWith, ...]
) -> ManifestInputs:
    """What the manifest says of this job."""
    sampling = job.scenes.sampling
    return ManifestInputs(
        model=shown(job.checkpoint.source),
        target=job.profile.name,
        digests={
            "model": job.checkpoint.digest,
            "scenes": digest_of({"scenes": [scene.digest for scene in job.scenes.calibration]}),
            "validation": validation_digest(job),
            "plan": plan.digest,
            "stats": stats.digest,
            "profile": profile_digest(job),
            **({} if sampling is None else {"sampling": sampling.digest}),
        },
        tools=job.tools,
        random_weights=job.checkpoint.random,
        judged_with=judged_with,
        preprocess=job.preprocess,
    )


def validation_digest(job: Job) -> str:
    """Of the scenes that judge."""
    return digest_of({"scenes": [scene.digest for scene in job.scenes.validation]})


def profile_digest(job: Job) -> str:
    """Digest of the device profile."""
    return digest_of(job.profile.to_dict())


def documents(
    folder: Path,
    files: tuple[FileEntry, ...],
    job: Job,
    stats: CalibrationStats,
    plan: PrecisionPlan,
    judged: Judged,
) -> dict[str, str]:
    """What lies beside the files for those who ship them: SBOM and provenance."""
    origin = origin_of(job, stats, plan, judged)
    has_charts = "plotly.js v" in (folder / REPORT).read_text(encoding="utf-8")
    sbom = sbom_json(origin, files, plotly=get_plotlyjs_version() if has_charts else None)
    about = FileEntry(SBOM, len(sbom.encode()), hashlib.sha256(sbom.encode()).hexdigest())
    return {SBOM: sbom, PROVENANCE: provenance_json(origin, (*files, about))}


def origin_of(job: Job, stats: CalibrationStats, plan: PrecisionPlan, judged: Judged) -> Origin:
    """Where the bundle comes from."""
    inputs = manifest_inputs(job, stats, plan, ())
    request, digests = _named(job), inputs.digests
    scenes = "synthetic rooms" if request.scenes is None else str(request.scenes)
    frames, height, width = job.scenes.size
    named = {
        "model": inputs.model,
        "calibration": scenes,
        "validation": scenes if request.validate_on is None else str(request.validate_on),
        "profile": job.profile.name,
    }
    return Origin(
        model=inputs.model,
        model_license=license_of_model(job.checkpoint.source, request.model_license),
        architecture=job.checkpoint.architecture.name,
        target=job.profile.name,
        settings=to_settings(request),
        materials=tuple(
            Material(role, name, digests["scenes" if role == "calibration" else role]) for role, name in named.items()
        ),
        tools=job.tools,
        properties=_properties(job, plan),
        inputs=(f"{INPUT}: (1, {frames}, 3, {height}, {width})",),
        outputs=tuple(f"{output.name}: {output.shape(frames, height, width)}" for output in job.model.outputs),
        figures=tuple(
            Figure(f"{row.output}: {row.metric}, {row.subject} against {row.against or 'nothing'}", row.value)
            for row in judged.report.rows
            if row.value is not None
        ),
    )


def _properties(job: Job, plan: PrecisionPlan) -> dict[str, str]:
    """How the model was quantized, and what the device needs."""
    counts = Counter(assignment.scheme for assignment in plan.assignments)
    return {
        "target": job.profile.name,
        "device": job.profile.title,
        **{f"device:requires:{name}": versions for name, versions in job.profile.toolchain.requires.items()},
        **{f"quantization:blocks:{scheme}": str(count) for scheme, count in sorted(counts.items())},
        "quantization:outside-blocks": plan.rest_scheme,
        "quantization:group-size": str(plan.group_size),
        "quantization:plan-sha256": plan.digest,
        "random-weights": job.checkpoint.random or "no",
    }


def resolved(job: Job) -> str:
    """The configuration as a bundle holds it."""
    return to_toml(_named(job))


def _named(job: Job) -> ExportRequest:
    """The request with the names of files alone, since their folders are this machine's."""
    request = job.request
    files = {"scenes": request.scenes, "validate_on": request.validate_on}
    names: dict[str, object] = {key: Path(path.name) for key, path in files.items() if path is not None}
    names |= {"model": job.checkpoint.source, "target": job.profile.name}
    return request.model_copy(update=names)


def stored_bytes(bundle: Path) -> int:
    """Size of the QDQ ONNX, graph and weights."""
    return sum((bundle / name).stat().st_size for name in (MODEL, f"{MODEL}.data"))
