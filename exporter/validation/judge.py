"""Validation: FP32 against the simulation against each backend's artifact, gated by the profile's tolerances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from vggt_edge.calibration.metrics.geometry import AnyArray
from vggt_edge.calibration.metrics.output import Output
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.devices.errors import InputError
from vggt_edge.devices.profile import Tolerances
from vggt_edge.exporter.validation import figures
from vggt_edge.exporter.validation.baseline import check_baseline
from vggt_edge.exporter.validation.figures import GROUND_TRUTH, Figure, Sample
from vggt_edge.exporter.validation.outputs import Outputs, without_batch
from vggt_edge.exporter.validation.roundings import explains
from vggt_edge.exporter.validation.rows import ALL, FP32, Row, Status, ValidationReport

SIMULATION = "simulation"
_NONE: Mapping[str, str] = MappingProxyType({})
_BACKEND_KEY = "backend_sqnr_db_min"


def validate(
    scenes: Sequence[Scene],
    reference: Sequence[Outputs],
    subjects: Mapping[str, Sequence[Outputs]],
    tolerances: Tolerances,
    *,
    declared: Sequence[Output],
    not_run: Mapping[str, str] = _NONE,
    peers: Mapping[str, str] = _NONE,
    rounds: bool = False,
) -> ValidationReport:
    """Judge every subject's outputs by the gates that the quantities of the declared outputs name.

    - scenes: held-out scenes.
    - reference: per scene the FP32 outputs by name, shapes ``(1, S, ...)``.
    - subjects: the same by subject; ``simulation`` is the torch simulation, every other name a backend, which is
      compared with the simulation as well.
    - declared: what the model says of its outputs.
    - not_run: by backend, why it gave no outputs.
    - peers: by subject, another one that it is compared with, too; figures without a gate.
    - rounds: whether the plan quantizes activations, so that roundings may flip (validation/roundings.py).

    Every output is judged against FP32 on all scenes. Where scenes have ground truth, the drop from FP32 is judged in
    addition. A gate that cannot be applied has a row that says why. Raises ``InputError`` when the reference's own
    shapes or counts do not fit the scenes; a subject that does not fit fails.
    """
    if not scenes:
        raise InputError("validation without scenes", where="scenes", expected="at least one held-out scene")
    judge = _Judge(tuple(declared), tolerances)
    base = [judge.checked(scene, outputs, FP32) for scene, outputs in zip(scenes, reference, strict=True)]
    fp32 = [Sample(scene, ours, ours) for scene, ours in zip(scenes, base, strict=True)]
    rows = check_baseline(declared, fp32)
    if any(row.status is Status.FAILED for row in rows):
        broken = "the FP32 reference is not usable"
        rows += [_not_run(name, broken) for name in subjects]
    else:
        if any(scene.ground_truth is not None for scene in scenes):
            rows += [_plain_row(FP32, figure, GROUND_TRUTH) for figure in judge.truth(fp32)]
        for name, outputs in subjects.items():
            rows += judge.subject(name, fp32, outputs, subjects.get(SIMULATION))
            if (peer := peers.get(name)) in subjects:
                rows += judge.peer(name, fp32, outputs, str(peer), subjects[str(peer)])
        rows = _without_flips(rows) if rounds else rows
    rows += [_not_run(name, reason) for name, reason in not_run.items()]
    with_truth = tuple(scene.name for scene in scenes if scene.ground_truth is not None)
    return ValidationReport(tuple(scene.name for scene in scenes), with_truth, tuple(rows))


@dataclass(frozen=True)
class _Judge:
    """What is judged, and by which limits."""

    declared: tuple[Output, ...]
    tolerances: Tolerances

    def subject(
        self, name: str, fp32: Sequence[Sample], outputs: Sequence[Outputs], simulation: Sequence[Outputs] | None
    ) -> list[Row]:
        try:
            ours = [self.checked(sample.scene, each, name) for sample, each in zip(fp32, outputs, strict=True)]
        except (InputError, ValueError) as error:
            return [Row(name, ALL, "outputs", FP32, Status.FAILED, reason=str(error).replace("\n", ";"))]
        samples = [replace(sample, ours=each) for sample, each in zip(fp32, ours, strict=True)]
        rows = self._against_truth(name, samples, fp32)
        rows += [self._row(name, figure, FP32) for figure in figures.against_fp32(self.declared, samples)]
        rows += [_plain_row(name, figure, "") for figure in figures.cross_head(self.declared, samples)]
        base, scenes = [sample.reference for sample in samples], [sample.scene for sample in samples]
        rows += [_plain_row(name, figure, FP32) for figure in figures.drifts(self.declared, ours, base, scenes)]
        if name != SIMULATION and simulation is not None:
            rows += self._backend_rows(name, samples, simulation)
        return rows

    def truth(self, samples: Sequence[Sample]) -> list[Figure]:
        return figures.against_ground_truth(self.declared, samples)

    def _against_truth(self, name: str, samples: Sequence[Sample], fp32: Sequence[Sample]) -> list[Row]:
        """The figures themselves, and for the gated ones how much worse than FP32 they are.

        Without any ground truth only the gates are listed, each with the reason why it does not apply.
        """
        rows = []
        for ours, base in zip(self.truth(samples), self.truth(fp32), strict=True):
            if any(sample.truth is not None for sample in samples):
                rows.append(_plain_row(name, ours, GROUND_TRUTH))
            if ours.gate:
                rows.append(self._row(name, _loss(ours, base), GROUND_TRUTH))
        return rows

    def _backend_rows(self, name: str, samples: Sequence[Sample], simulation: Sequence[Outputs]) -> list[Row]:
        try:
            simulated = [self.checked(one.scene, it, SIMULATION) for one, it in zip(samples, simulation, strict=True)]
        except (InputError, ValueError) as error:
            return [Row(name, ALL, "outputs", SIMULATION, Status.NOT_RUN, reason=f"no simulation: {error}")]
        drifts = figures.drifts(self.declared, [one.ours for one in samples], simulated, [one.scene for one in samples])
        gated = [replace(one, gate=_BACKEND_KEY) if one.metric == "sqnr_db" else one for one in drifts]
        return [self._row(name, figure, SIMULATION) for figure in gated]

    def peer(
        self, name: str, fp32: Sequence[Sample], outputs: Sequence[Outputs], peer: str, theirs: Sequence[Outputs]
    ) -> list[Row]:
        """Drift from another artifact of the same plan; nothing where one does not fit, which its own rows say."""
        try:
            ours = [self.checked(sample.scene, each, name) for sample, each in zip(fp32, outputs, strict=True)]
            base = [self.checked(sample.scene, each, peer) for sample, each in zip(fp32, theirs, strict=True)]
        except (InputError, ValueError):
            return []
        scenes = [sample.scene for sample in fp32]
        return [_plain_row(name, figure, peer) for figure in figures.drifts(self.declared, ours, base, scenes)]

    def checked(self, scene: Scene, outputs: Outputs, subject: str) -> dict[str, AnyArray]:
        frames, _, height, width = scene.images.shape
        where = f"{subject} on scene {scene.name}"
        checked = without_batch(self.declared, outputs, (frames, height, width), where)
        if not checked:
            known = ", ".join(output.name for output in self.declared)
            raise InputError("no known outputs", where=where, expected=f"some of: {known}")
        return checked

    def _row(self, subject: str, figure: Figure, against: str) -> Row:
        """A figure, judged where it has a gate."""
        row = replace(_plain_row(subject, figure, against), tolerance_key=figure.gate)
        if not figure.gate:
            return row
        limit: float | None = getattr(self.tolerances, figure.gate)
        if figure.value is None:
            return replace(row, tolerance=limit)
        return row.judged(figure.value, limit, is_floor=row.is_floor)


def _without_flips(rows: Sequence[Row]) -> list[Row]:
    """The rows; what flipped roundings explain of a departure from the simulation is no failure."""
    found = {(row.subject, row.output, row.against): row.value for row in rows if row.metric == "sqnr_db"}
    return [_excused(row, found) for row in rows]


def _excused(row: Row, found: Mapping[tuple[str, str, str], float | None]) -> Row:
    if row.status is not Status.FAILED or row.tolerance_key != _BACKEND_KEY or row.value is None:
        return row
    ours, simulated = (found.get((subject, row.output, FP32)) for subject in (row.subject, SIMULATION))
    if ours is None or simulated is None or not (why := explains(ours, simulated, row.value)):
        return row
    return replace(row, status=Status.PASSED, reason=why)


def _loss(ours: Figure, base: Figure) -> Figure:
    """How much worse than FP32 a figure against ground truth is, by what its gate limits: an increase or a drop."""
    word = "increase" if ours.gate.endswith("increase_max") else "drop"
    worse = None
    if ours.value is not None and base.value is not None:
        worse = ours.value - base.value if word == "increase" else base.value - ours.value
    # Where FP32 has no figure either, the subject cannot have lost it.
    missing = ours.missing or (f"FP32 has no such figure: {base.fault}" if base.fault else "")
    return replace(
        ours, metric=f"{ours.metric}_{word}", value=worse, fault="" if missing else ours.fault, missing=missing
    )


def _plain_row(subject: str, figure: Figure, against: str) -> Row:
    """A figure without a gate. One that the subject's own output made impossible is a failure all the same."""
    status = Status.FAILED if figure.fault else Status.NOT_RUN if figure.missing else Status.INFO
    reason = figure.fault or figure.missing
    return Row(subject, figure.output, figure.metric, against, status, figure.value, reason=reason)


def _not_run(subject: str, reason: str) -> Row:
    return Row(subject, ALL, "outputs", FP32, Status.NOT_RUN, reason=reason)
