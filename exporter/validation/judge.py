"""Validation: FP32 against the simulation against each backend's artifact, gated by the profile's tolerances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from vggt_edge.calibration.metrics.geometry import AnyArray
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.devices.errors import InputError
from vggt_edge.devices.profile import Tolerances
from vggt_edge.exporter.validation import figures
from vggt_edge.exporter.validation.baseline import check_baseline
from vggt_edge.exporter.validation.figures import GROUND_TRUTH, Figure, Sample
from vggt_edge.exporter.validation.outputs import Outputs, without_batch
from vggt_edge.exporter.validation.rows import FP32, Row, Status, ValidationReport

SIMULATION = "simulation"
_NONE: Mapping[str, str] = MappingProxyType({})
# (output, metric) of a figure -> the tolerance that gates it. The two tables are one for each kind of reference.
_DROP_KEYS = {
    ("pose_enc", "auc30"): "auc30_drop_points_max",
    ("depth", "abs_rel"): "abs_rel_increase_max",
    ("depth", "delta125"): "delta125_drop_max",
}
_FP32_KEYS = {
    ("pose_enc", "auc30"): "pose_auc30_vs_fp32_min",
    ("depth", "abs_rel"): "depth_abs_rel_vs_fp32_max",
    ("points", "relative_error"): "points_rel_vs_fp32_max",
}
_BACKEND_KEY = "backend_sqnr_db_min"


def validate(
    scenes: Sequence[Scene],
    reference: Sequence[Outputs],
    subjects: Mapping[str, Sequence[Outputs]],
    tolerances: Tolerances,
    not_run: Mapping[str, str] = _NONE,
    peers: Mapping[str, str] = _NONE,
) -> ValidationReport:
    """Judge every subject's outputs.

    scenes: held-out scenes. reference: per scene the FP32 outputs by name, shapes ``(1, S, ...)``. subjects: the same
    by subject; ``simulation`` is the torch simulation, every other name a backend, which is compared with the
    simulation as well. not_run: by backend, why it gave no outputs. peers: by subject, another one that it is compared
    with, too; figures without a gate.

    Gates: against ground truth, the drop from FP32, where scenes have it; against FP32 on the scenes without. Raises
    ``InputError`` when the reference's own shapes or counts do not fit the scenes; a subject that does not fit fails.
    """
    if not scenes:
        raise InputError("validation without scenes", where="scenes", expected="at least one held-out scene")
    base = [_checked(scene, outputs, FP32) for scene, outputs in zip(scenes, reference, strict=True)]
    fp32 = [Sample(scene, ours, ours) for scene, ours in zip(scenes, base, strict=True)]
    rows = check_baseline(fp32)
    if any(row.status is Status.FAILED for row in rows):
        broken = "the FP32 reference is not usable"
        rows += [_not_run(name, broken) for name in subjects]
    else:
        truth = _geometry(fp32)
        rows += [_plain_row(FP32, figure, GROUND_TRUTH) for figure in truth]
        for name, outputs in subjects.items():
            rows += _judge_subject(name, fp32, outputs, subjects.get(SIMULATION), truth, tolerances)
            if (peer := peers.get(name)) in subjects:
                rows += _peer_rows(name, fp32, outputs, str(peer), subjects[str(peer)])
    rows += [_not_run(name, reason) for name, reason in not_run.items()]
    with_truth = tuple(scene.name for scene in scenes if scene.ground_truth is not None)
    return ValidationReport(tuple(scene.name for scene in scenes), with_truth, tuple(rows))


def _judge_subject(
    name: str,
    fp32: Sequence[Sample],
    outputs: Sequence[Outputs],
    simulation: Sequence[Outputs] | None,
    truth: Sequence[Figure],
    tolerances: Tolerances,
) -> list[Row]:
    try:
        ours = [_checked(sample.scene, each, name) for sample, each in zip(fp32, outputs, strict=True)]
    except (InputError, ValueError) as error:
        return [Row(name, "all", "outputs", FP32, Status.FAILED, reason=str(error).replace("\n", ";"))]
    samples = [replace(sample, ours=each) for sample, each in zip(fp32, ours, strict=True)]
    rows = _ground_truth_rows(name, samples, truth, tolerances)
    rows += _fp32_rows(name, samples, tolerances)
    rows += [_plain_row(name, figure, "") for figure in figures.cross_head(samples)]
    base = [sample.reference for sample in samples]
    rows += [_plain_row(name, figure, FP32) for figure in figures.drifts(ours, base)]
    if name != SIMULATION and simulation is not None:
        rows += _backend_rows(name, samples, simulation, tolerances)
    return rows


def _geometry(samples: Sequence[Sample]) -> list[Figure]:
    with_truth = [sample for sample in samples if sample.scene.ground_truth is not None]
    return figures.against_ground_truth(with_truth) if with_truth else []


def _ground_truth_rows(
    name: str, samples: Sequence[Sample], truth: Sequence[Figure], tolerances: Tolerances
) -> list[Row]:
    """The figures themselves, and for the gated ones how much worse than FP32 they are."""
    rows = []
    for ours, base in zip(_geometry(samples), truth, strict=True):
        rows.append(_plain_row(name, ours, GROUND_TRUTH))
        key = _DROP_KEYS.get((ours.output, ours.metric))
        if key is None:
            continue
        word = "increase" if key.endswith("increase_max") else "drop"
        worse = None
        if ours.value is not None and base.value is not None:
            worse = ours.value - base.value if word == "increase" else base.value - ours.value
        # Where FP32 has no figure either, the subject cannot have lost it.
        missing = ours.missing or (f"FP32 has no such figure: {base.fault}" if base.fault else "")
        change = Figure(ours.output, f"{ours.metric}_{word}", worse, "" if missing else ours.fault, missing)
        rows.append(_gated(name, change, GROUND_TRUTH, key, tolerances))
    return rows


def _fp32_rows(name: str, samples: Sequence[Sample], tolerances: Tolerances) -> list[Row]:
    """Gated on the scenes without ground truth; figures only where every scene has it."""
    without = [sample for sample in samples if sample.scene.ground_truth is None]
    if not without:
        return [_plain_row(name, figure, FP32) for figure in figures.against_fp32(samples)]
    return [
        _gated(name, figure, FP32, _FP32_KEYS[figure.output, figure.metric], tolerances)
        for figure in figures.against_fp32(without)
    ]


def _backend_rows(
    name: str, samples: Sequence[Sample], simulation: Sequence[Outputs], tolerances: Tolerances
) -> list[Row]:
    try:
        simulated = [_checked(each.scene, it, SIMULATION) for each, it in zip(samples, simulation, strict=True)]
    except (InputError, ValueError) as error:
        return [Row(name, "all", "outputs", SIMULATION, Status.NOT_RUN, reason=f"no simulation: {error}")]
    rows = []
    for figure in figures.drifts([sample.ours for sample in samples], simulated):
        if figure.metric == "sqnr_db":
            rows.append(_gated(name, figure, SIMULATION, _BACKEND_KEY, tolerances))
        else:
            rows.append(_plain_row(name, figure, SIMULATION))
    return rows


def _peer_rows(
    name: str, fp32: Sequence[Sample], outputs: Sequence[Outputs], peer: str, theirs: Sequence[Outputs]
) -> list[Row]:
    """Drift from another artifact of the same plan; nothing where one of them does not fit, which its own rows say."""
    try:
        ours = [_checked(sample.scene, each, name) for sample, each in zip(fp32, outputs, strict=True)]
        base = [_checked(sample.scene, each, peer) for sample, each in zip(fp32, theirs, strict=True)]
    except (InputError, ValueError):
        return []
    return [_plain_row(name, figure, peer) for figure in figures.drifts(ours, base)]


def _checked(scene: Scene, outputs: Outputs, subject: str) -> dict[str, AnyArray]:
    frames, _, height, width = scene.images.shape
    checked = without_batch(outputs, (frames, height, width), f"{subject} on scene {scene.name}")
    if not checked:
        raise InputError("no known outputs", where=f"{subject} on scene {scene.name}", expected="pose_enc, depth, ..")
    return checked


def _plain_row(subject: str, figure: Figure, against: str) -> Row:
    """A figure without a gate. One that the subject's own output made impossible is a failure all the same."""
    status = Status.FAILED if figure.fault else Status.NOT_RUN if figure.missing else Status.INFO
    reason = figure.fault or figure.missing
    return Row(subject, figure.output, figure.metric, against, status, figure.value, reason=reason)


def _gated(subject: str, figure: Figure, against: str, key: str, tolerances: Tolerances) -> Row:
    row = replace(_plain_row(subject, figure, against), tolerance_key=key)
    limit: float | None = getattr(tolerances, key)
    if figure.value is None:
        return replace(row, tolerance=limit)
    if limit is None:
        return replace(row, reason="the device profile sets no tolerance")
    ok = figure.value >= limit if key.endswith("_min") else figure.value <= limit
    return replace(row, tolerance=limit, status=Status.PASSED if ok else Status.FAILED)


def _not_run(subject: str, reason: str) -> Row:
    return Row(subject, "all", "outputs", FP32, Status.NOT_RUN, reason=reason)
