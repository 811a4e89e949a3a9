"""``validate``: a bundle's graph and artifacts run again, and are judged against FP32.

A bundle comes from elsewhere, so it opens nothing outside of itself. Its configuration names a model and scenes without
their places; the caller says where they are, and the manifest's digests say whether they are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scenes.camera import CameraFrames
from vggt_edge.calibration.scenes.framing import Rectangle
from vggt_edge.calibration.scenes.names import shown
from vggt_edge.calibration.scenes.scene import Float, Scene
from vggt_edge.devices.errors import InputError
from vggt_edge.devices.profile import resolve
from vggt_edge.exporter.bundle import PLAN, Manifest, verify_bundle
from vggt_edge.exporter.job import ChooseScenes, open_job
from vggt_edge.exporter.machine.progress import SILENT, Progress
from vggt_edge.exporter.machine.threads import fixed_threads
from vggt_edge.exporter.models.registry import embedded_models
from vggt_edge.exporter.request import ExportRequest, resolve_request
from vggt_edge.exporter.steps.assemble import RESOLVED, profile_digest, validation_digest
from vggt_edge.exporter.steps.context import Job, fp32_bytes
from vggt_edge.exporter.steps.inputs import SceneSets, choose_scenes, enlarged, scenes_to_judge
from vggt_edge.exporter.steps.validate import GOLDEN, INPUT, Places, golden_size, judge
from vggt_edge.exporter.validation import Status, ValidationReport
from vggt_edge.exporter.validation.advice import gate_error

ONE_SCENE = "judged on the one scene that the bundle holds; --scenes reads others"


def validate(
    bundle: Path,
    progress: Progress = SILENT,
    *,
    model: str | None = None,
    target: str | None = None,
    scenes: Path | None = None,
    execute: str | None = None,
) -> ValidationReport:
    """Run a bundle's graph again and judge it against FP32; the bundle is left as it is.

    model: the checkpoint that the bundle was made from, unless that is embedded in the package. target: the file of its
    device profile, unless that is built in. scenes: to judge on. By default the synthetic ones, or for a bundle that
    was judged on pictures the one scene that it holds. Raises ``AccuracyGateError`` as ``export`` does, ``InputError``
    for another model.
    """
    manifest = verify_bundle(bundle)
    request = resolve_request({"execute": execute, "model": model, "target": target}, (), bundle / RESOLVED)
    request = _without_foreign_names(request, bundle, manifest, model, target)
    choose = _scenes_of(request, bundle, scenes)
    stats = CalibrationStats.load(bundle)
    chosen = PrecisionPlan.from_json((bundle / PLAN).read_text(), where=str(bundle / PLAN))
    with TemporaryDirectory() as folder:
        job = open_job(request.model_copy(update={"output": Path(folder) / "validate"}), progress, choose)
        if job.checkpoint.digest != manifest.digests["model"]:
            raise InputError(
                f"{request.model} is not the model that this bundle was made from",
                where=str(bundle),
                expected=f"a checkpoint with sha256 {manifest.digests['model']}",
                remedy="give the original checkpoint with --model, or export again",
            )
        # A tuned model is not in the bundle: what it computed as a simulation is in the report that is.
        simulated = None if job.transforms else job.model
        with fixed_threads(fp32_bytes(job.model)):
            report = judge(job, simulated, stats, chosen, Places.in_bundle(bundle, job), Path(folder) / "state").report
        changed = (*_other_scenes(job, manifest, scenes), *_other_profile(job, manifest))
    for text in changed:
        progress.note(text)
    report = replace(report, notes=(*report.notes, *changed))
    if report.status is Status.FAILED:
        raise gate_error(report, bundle, job.request.precision)
    return report


def _without_foreign_names(
    request: ExportRequest, bundle: Path, manifest: Manifest, model: str | None, target: str | None
) -> ExportRequest:
    """``InputError`` where only a name out of the bundle says which model, ``UnknownNameError`` for a device."""
    if model is None and request.model not in embedded_models():
        raise InputError(
            f"the bundle does not hold the model that it was made from, {request.model!r}",
            where=str(bundle),
            expected=f"--model with a checkpoint of sha256 {manifest.digests['model']}",
            remedy=f"vggt-edge validate {bundle} --model CHECKPOINT",
        )
    if target is None:
        resolve(request.target)
    return request if model is None else request.model_copy(update={"revision": None})


def _scenes_of(request: ExportRequest, bundle: Path, given: Path | None) -> ChooseScenes:
    """Choose the source of the scenes to judge on. Every scene has the size of the bundle's golden input."""
    size = golden_size(bundle)
    if given is None and _scenes_of_export(request) is not None:
        return lambda request, one: _golden_scene(request, bundle)
    if given is not None and not _are_of_export(request, given):
        every = {"validation_scenes": None}  # the bundle's number is of its own scenes
        return lambda request, one: scenes_to_judge(
            request.model_copy(update=every), given, one.architecture.shape(*size)
        )
    if given is not None and request.validate_on is not None:
        return lambda request, one: scenes_to_judge(request, given, one.architecture.shape(*size))
    own = _of_size(request, size, bundle).model_copy(update={"scenes": given})
    return lambda request, one: choose_scenes(own, one)


def _scenes_of_export(request: ExportRequest) -> Path | None:
    """The name of the scenes that the export was judged on; None for the synthetic ones."""
    return request.validate_on or request.scenes


def _are_of_export(request: ExportRequest, given: Path) -> bool:
    """Whether the scenes have the name of those that the export was judged on; the bundle holds no more than that."""
    known = _scenes_of_export(request)
    return known is not None and shown(given.name) == shown(known.name)


def _golden_scene(request: ExportRequest, bundle: Path) -> SceneSets:
    images = load_file(bundle / GOLDEN)[f"input/{INPUT}"][0]
    content = None if request.preprocess == "fit" else tuple(map(inside_white, images))
    scene = Scene("golden", images, (GOLDEN,), content=content)
    camera = None if request.fuse_io is None else enlarged(scene, CameraFrames.parse(request.fuse_io).size)
    return SceneSets((scene,), (scene,), (scene,), held_out=True, notes=(ONE_SCENE,), camera=camera)


def inside_white(image: Float) -> Rectangle:
    """The part of a frame (3, H, W) inside of white borders; all of a frame that is white everywhere.

    Golden tensors do not say what was filled up. A border that is white in the picture itself is left out too.
    """
    mask = np.any(image < 1, axis=0)
    columns, rows = (np.flatnonzero(np.any(mask, axis=axis)) for axis in (0, 1))
    if not rows.size:
        return 0, 0, mask.shape[1], mask.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _of_size(request: ExportRequest, size: tuple[int, int, int], bundle: Path) -> ExportRequest:
    """The request, unless it asks for more than the bundle's model takes: such scenes may not fit into memory."""
    frames, *sides = size
    asked = request.resolution
    known: Mapping[object, bool] = {None: True, max(sides): True, tuple(sides): True}
    if request.frames not in (None, frames) or asked not in known:
        raise InputError(
            f"frames {request.frames} and resolution {asked} are not those of the bundle's model",
            where=str(bundle / RESOLVED),
            expected=f"{frames} frames of {sides[0]} x {sides[1]}",
            remedy="do not trust this bundle; export again",
        )
    return request


def _other_scenes(job: Job, manifest: Manifest, given: Path | None) -> tuple[str, ...]:
    """A remark where pictures of the name that the export knew are no longer those that judged the bundle."""
    if given is None or not _are_of_export(job.request, given):
        return ()
    if manifest.digests.get("validation") in (None, validation_digest(job)):
        return ()
    return (f"these are not the pictures that the bundle was judged on: {shown(str(given))} has changed since",)


def _other_profile(job: Job, manifest: Manifest) -> tuple[str, ...]:
    if manifest.digests.get("profile") in (None, profile_digest(job)):
        return ()
    return (f"the device profile {job.profile.name} is not the one of the export: its limits are those of now",)
