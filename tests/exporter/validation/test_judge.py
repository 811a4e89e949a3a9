"""Validation of outputs whose quality is known: what passes, what fails, and what is never called a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.devices.errors import InputError
from vggt_edge.devices.profile import Tolerances
from vggt_edge.exporter.models.vggt import ARCHITECTURE
from vggt_edge.exporter.validation import Row, Status, ValidationReport
from vggt_edge.exporter.validation import validate as judge

Outputs = list[dict[str, npt.NDArray[Any]]]
Disturb = Callable[[float], Outputs]
TOLERANCES = Tolerances(
    auc30_drop_points_max=3.0,
    abs_rel_increase_max=0.02,
    delta125_drop_max=0.02,
    pose_auc30_vs_fp32_min=90.0,
    depth_abs_rel_vs_fp32_max=0.05,
    points_rel_vs_fp32_max=0.05,
    backend_sqnr_db_min=40.0,
)
AGAINST_FP32 = {
    "pose_auc30_vs_fp32_min",
    "pose_focal_vs_fp32_max",
    "depth_abs_rel_vs_fp32_max",
    "points_rel_vs_fp32_max",
    "confidence_rel_vs_fp32_max",
}
AGAINST_TRUTH = {"auc30_drop_points_max", "abs_rel_increase_max", "delta125_drop_max"}


def validate(*arguments: Any, **settings: Any) -> ValidationReport:
    """With VGGT's outputs declared, unless others are."""
    return judge(*arguments, **({"declared": ARCHITECTURE.outputs} | settings))


def row(report: ValidationReport, subject: str, output: str, metric: str, against: str) -> Row:
    key = (subject, output, metric, against)
    (found,) = [row for row in report.rows if (row.subject, row.output, row.metric, row.against) == key]
    return found


def test_a_faithful_artifact_passes_against_ground_truth(scenes: list[Scene], disturbed: Disturb) -> None:
    subjects = {"simulation": disturbed(0.002), "onnxruntime": disturbed(0.002)}
    report = validate(scenes, disturbed(0.001), subjects, TOLERANCES)
    assert report.failures == ()
    assert report.status is Status.PASSED
    assert report.ground_truth_scenes == report.scenes == tuple(scene.name for scene in scenes)
    gated = {row.tolerance_key for row in report.of("onnxruntime") if row.status is Status.PASSED}
    assert gated == AGAINST_TRUTH | AGAINST_FP32 | {"backend_sqnr_db_min"}


def test_fp32_stands_in_the_same_table(scenes: list[Scene], perfect: Outputs, disturbed: Disturb) -> None:
    report = validate(scenes, perfect, {"simulation": disturbed(0.01)}, TOLERANCES)
    base = row(report, "fp32", "depth", "abs_rel", "ground_truth")
    ours = row(report, "simulation", "depth", "abs_rel", "ground_truth")
    increase = row(report, "simulation", "depth", "abs_rel_increase", "ground_truth")
    assert base.value == pytest.approx(0, abs=1e-5)
    assert ours.value is not None
    assert increase.value == pytest.approx(ours.value)
    assert row(report, "fp32", "pose_enc", "auc30", "ground_truth").value == 100


def test_a_ruined_artifact_fails_each_of_its_gates(scenes: list[Scene], perfect: Outputs, disturbed: Disturb) -> None:
    report = validate(scenes, perfect, {"simulation": disturbed(0.5)}, TOLERANCES)
    assert report.status is Status.FAILED
    assert {row.tolerance_key for row in report.failures} == AGAINST_TRUTH | AGAINST_FP32


@pytest.mark.parametrize(("share", "status"), [(0.002, Status.PASSED), (0.5, Status.FAILED)])
def test_photos_are_judged_against_fp32(
    photos: list[Scene], perfect: Outputs, disturbed: Disturb, share: float, status: Status
) -> None:
    report = validate(photos, perfect, {"simulation": disturbed(share)}, TOLERANCES)
    assert report.ground_truth_scenes == ()
    gated = {row.tolerance_key for row in report.of("simulation") if row.tolerance_key and row.status is status}
    assert gated == AGAINST_FP32
    reasons = {row.reason for row in report.of("simulation") if row.tolerance_key in AGAINST_TRUTH}
    assert reasons == {"no scene has this ground truth"}


def test_a_backend_that_departs_from_the_simulation_fails_though_its_geometry_holds(
    scenes: list[Scene], perfect: Outputs, disturbed: Disturb
) -> None:
    strict = replace(TOLERANCES, backend_sqnr_db_min=60.0)
    report = validate(scenes, perfect, {"simulation": perfect, "onnxruntime": disturbed(0.002)}, strict)
    assert report.status_of("simulation") is Status.PASSED
    assert {row.tolerance_key for row in report.failures} == {"backend_sqnr_db_min"}


def test_missing_hardware_is_not_run_and_alone_never_a_pass(scenes: list[Scene], perfect: Outputs) -> None:
    report = validate(scenes, perfect, {}, TOLERANCES, not_run={"tensorrt": "no NVIDIA GPU on this machine"})
    assert report.status_of("tensorrt") is Status.NOT_RUN
    assert report.status_of("fp32") is Status.PASSED
    assert report.status is Status.NOT_RUN
    (only,) = report.of("tensorrt")
    assert only.reason == "no NVIDIA GPU on this machine"


def test_a_quantity_without_tolerance_is_a_gate_that_did_not_run(scenes: list[Scene], perfect: Outputs) -> None:
    report = validate(scenes, perfect, {"simulation": perfect}, replace(TOLERANCES, auc30_drop_points_max=None))
    found = row(report, "simulation", "pose_enc", "auc30_drop", "ground_truth")
    assert found.status is Status.NOT_RUN
    assert found.reason == "the device profile sets no tolerance"


def test_the_sign_of_a_quaternion_is_not_drift(scenes: list[Scene], perfect: Outputs) -> None:
    flipped = [dict(outputs) for outputs in perfect]
    for outputs in flipped:
        outputs["pose_enc"] = outputs["pose_enc"] * np.where(np.isin(np.arange(9), (3, 4, 5, 6)), -1, 1)
    report = validate(scenes, perfect, {"simulation": flipped}, TOLERANCES)
    assert row(report, "simulation", "pose_enc", "max_abs", "fp32").value == 0


@pytest.mark.parametrize("kept", [("pose_enc",), ("depth", "depth_conf"), ("points", "points_conf")])
def test_outputs_that_were_not_exported_are_not_judged(
    scenes: list[Scene], perfect: Outputs, disturbed: Disturb, kept: tuple[str, ...]
) -> None:
    def subset(outputs: Outputs) -> Outputs:
        return [{name: each[name] for name in kept} for each in outputs]

    report = validate(scenes, subset(perfect), {"simulation": subset(disturbed(0.001))}, TOLERANCES)
    assert {row.output for row in report.rows} == set(kept)
    assert report.failures == ()


class TestBrokenSubjects:
    """An artifact that gives nonsense is a failed gate with a reason, not a crash and not a pass."""

    def test_nan(self, scenes: list[Scene], perfect: Outputs) -> None:
        broken = [{**outputs, "depth": outputs["depth"] * np.nan} for outputs in perfect]
        report = validate(scenes, perfect, {"simulation": broken}, TOLERANCES)
        found = row(report, "simulation", "depth", "abs_rel_increase", "ground_truth")
        assert found.status is Status.FAILED
        assert "NaN" in found.reason
        assert row(report, "simulation", "depth", "sqnr_db", "fp32").status is Status.FAILED

    def test_zero_quaternions(self, scenes: list[Scene], perfect: Outputs) -> None:
        broken = [{**outputs, "pose_enc": np.zeros_like(outputs["pose_enc"])} for outputs in perfect]
        report = validate(scenes, perfect, {"simulation": broken}, TOLERANCES)
        assert "no rotation" in row(report, "simulation", "pose_enc", "auc30", "ground_truth").reason
        assert report.status is Status.FAILED

    def test_missing_output(self, scenes: list[Scene], perfect: Outputs) -> None:
        broken = [{name: value for name, value in each.items() if name != "points"} for each in perfect]
        report = validate(scenes, perfect, {"simulation": broken}, TOLERANCES)
        assert (
            row(report, "simulation", "points", "accuracy", "ground_truth").reason == "the output 'points' is missing"
        )

    def test_wrong_shape(self, scenes: list[Scene], perfect: Outputs) -> None:
        broken = [{**outputs, "depth": outputs["depth"][..., :-1]} for outputs in perfect]
        (only,) = validate(scenes, perfect, {"simulation": broken}, TOLERANCES).of("simulation")
        assert only.status is Status.FAILED
        assert "shape (1, 3, 28, 41)" in only.reason

    def test_wrong_number_of_scenes(self, scenes: list[Scene], perfect: Outputs) -> None:
        (only,) = validate(scenes, perfect, {"simulation": perfect[:1]}, TOLERANCES).of("simulation")
        assert only.status is Status.FAILED


class TestBaseline:
    """The FP32 reference is suspected first: a wrong one makes every comparison worthless."""

    @pytest.mark.parametrize(("factor", "metric"), [(np.nan, "finite_share"), (0.0, "relative_spread")])
    def test_unusable_reference_fails_and_compares_nothing(
        self, scenes: list[Scene], perfect: Outputs, factor: float, metric: str
    ) -> None:
        broken = [{**outputs, "depth": outputs["depth"] * np.float32(factor)} for outputs in perfect]
        report = validate(scenes, broken, {"simulation": perfect}, TOLERANCES)
        assert metric in {row.metric for row in report.failures}
        assert report.status_of("simulation") is Status.NOT_RUN

    def test_heads_that_contradict_each_other_are_pointed_out(self, photos: list[Scene], perfect: Outputs) -> None:
        good = validate(photos, perfect, {}, TOLERANCES)
        far = [{**outputs, "points": 4 * outputs["points"]} for outputs in perfect]
        bad = validate(photos, far, {}, TOLERANCES)
        consistent, contradictory = (row(report, "fp32", "points", "cross_head", "") for report in (good, bad))
        assert consistent.value == pytest.approx(0, abs=1e-4)
        assert consistent.reason == ""
        assert "contradict" in contradictory.reason

    def test_wrong_reference_shape_is_the_callers_error(self, scenes: list[Scene], perfect: Outputs) -> None:
        broken = [{**outputs, "pose_enc": outputs["pose_enc"][..., :8]} for outputs in perfect]
        with pytest.raises(InputError, match="pose_enc has the shape"):
            validate(scenes, broken, {}, TOLERANCES)

    def test_no_scenes(self) -> None:
        with pytest.raises(InputError, match="without scenes"):
            validate([], [], {}, TOLERANCES)


def test_what_is_white_does_not_count(photos: list[Scene], perfect: Outputs) -> None:
    """Where a picture was filled up, a subject may say anything: figures and drift of maps come from the rest alone."""
    padded = [replace(scene, content=((7, 0, 35, 28),) * 3) for scene in photos]
    maps = ("depth", "depth_conf", "points", "points_conf")
    spoilt = [{name: value.copy() for name, value in outputs.items()} for outputs in perfect]
    for outputs in spoilt:
        for name in maps:
            outputs[name][:, :, :, :7] = 1e3
    report = validate(padded, perfect, {"simulation": spoilt, "tensorrt": spoilt}, TOLERANCES)
    assert report.status_of("tensorrt") is Status.PASSED
    assert {row(report, "simulation", name, "sqnr_db", "fp32").value for name in maps} == {200.0}
    assert row(report, "simulation", "points", "cross_head", "").value == pytest.approx(0, abs=1e-4)
    seen = validate(photos, perfect, {"simulation": spoilt}, TOLERANCES)
    assert seen.status_of("simulation") is Status.FAILED


def test_a_second_opinion_is_compared_with_its_peer_without_a_gate(
    scenes: list[Scene], perfect: Outputs, disturbed: Disturb
) -> None:
    """Figures of drift from the other artifact; none where that one did not run."""
    subjects = {"simulation": perfect, "coreml-fp32": disturbed(0.001), "coreai": perfect}
    report = validate(scenes, perfect, subjects, TOLERANCES, peers={"coreai": "coreml-fp32"})
    apart = row(report, "coreai", "depth", "sqnr_db", "coreml-fp32")
    assert apart.value == pytest.approx(60, abs=1)
    assert apart.status is Status.INFO
    alone = {"simulation": perfect, "coreai": perfect}
    report = validate(scenes, perfect, alone, TOLERANCES, peers={"coreai": "coreml-fp32"})
    assert not [entry for entry in report.rows if entry.against == "coreml-fp32"]
