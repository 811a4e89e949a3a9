"""Flipped roundings are no failure; a fault as large as the quantization error is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.devices.errors import AccuracyGateError
from vggt_edge.devices.profile import load_profile
from vggt_edge.exporter.models.vggt import ARCHITECTURE
from vggt_edge.exporter.validation import Row, Status, ValidationReport, validate
from vggt_edge.exporter.validation.advice import gate_error
from vggt_edge.exporter.validation.roundings import rounds_activations

TOLERANCES = replace(load_profile("host-cpu").tolerances, depth_abs_rel_vs_fp32_max=1.0)
FRAMES, SIDE = 2, 28
DEPTH = tuple(output for output in ARCHITECTURE.outputs if output.name == "depth")
QUANTIZED = 0.03  # error of the simulation, relative to FP32: 30 dB


def scene() -> Scene:
    return Scene("room", np.zeros((FRAMES, 3, SIDE, SIDE), np.float32), ("a", "b"))


def noisy(depth: np.ndarray, share: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(depth.shape).astype(np.float32)
    return depth + share * noise * np.float32(np.sqrt(np.mean(depth**2)))


FP32_DEPTH = np.random.default_rng(0).uniform(1, 2, (1, FRAMES, SIDE, SIDE)).astype(np.float32)
SIMULATED = noisy(FP32_DEPTH, QUANTIZED, seed=1)


def judged(artifact: np.ndarray, *, rounds: bool = True) -> Row:
    """The gate of the artifact against the simulation."""
    subjects = {"simulation": [{"depth": SIMULATED}], "onnxruntime": [{"depth": artifact}]}
    report = validate([scene()], [{"depth": FP32_DEPTH}], subjects, TOLERANCES, declared=DEPTH, rounds=rounds)
    (row,) = (one for one in report.rows if one.subject == "onnxruntime" and one.tolerance_key == "backend_sqnr_db_min")
    return row


def test_other_roundings_are_told_from_a_fault_and_the_row_says_so() -> None:
    """Another draw of the same error, about 27 dB from the simulation, whose limit is 40."""
    row = judged(noisy(FP32_DEPTH, QUANTIZED, seed=2))
    assert row.value is not None
    assert row.value < 40
    assert row.status is Status.PASSED
    assert "roundings that went the other way" in row.reason


@pytest.mark.parametrize("share", [0.06, 0.2])
def test_a_fault_as_large_as_the_quantization_error_fails(share: float) -> None:
    assert judged(noisy(SIMULATED, share, seed=3)).status is Status.FAILED


def test_without_quantized_activations_nothing_is_excused() -> None:
    assert judged(noisy(FP32_DEPTH, QUANTIZED, seed=2), rounds=False).status is Status.FAILED


def test_what_is_within_the_limit_needs_no_excuse() -> None:
    row = judged(noisy(SIMULATED, 0.001, seed=4))
    assert (row.status, row.reason) == (Status.PASSED, "")


@pytest.mark.parametrize(("scheme", "expected"), [("w8a16", False), ("w4a16", False), ("w8a8", True), ("w4a8d", True)])
def test_only_quantized_activations_round(scheme: str, expected: bool) -> None:
    plan = PrecisionPlan("model", "stats", "none", 64, (Assignment("b", scheme, "asked", 0.0, 1, 0.0),))
    assert rounds_activations(plan) is expected


@pytest.mark.parametrize(
    ("row", "precision", "advice"),
    [
        (Row("fp32", "depth", "finite_share", "", Status.FAILED, reason="NaN"), "nvfp4", "check the checkpoint"),
        (
            Row("onnxruntime", "depth", "sqnr_db", "simulation", Status.FAILED, 9, 40),
            "fp8",
            "which no other plan mends",
        ),
        (Row("simulation", "depth", "abs_rel", "fp32", Status.FAILED, 1, 0.1), "mixed", "raise --max-memory"),
        (Row("simulation", "depth", "abs_rel", "fp32", Status.FAILED, 1, 0.1), "nvfp4", "--precision mixed"),
    ],
)
def test_advice_fits_the_check_that_failed(row: Row, precision: str, advice: str, tmp_path: Path) -> None:
    error = gate_error(ValidationReport(("room",), (), (row,)), tmp_path, precision)
    assert isinstance(error, AccuracyGateError)
    assert advice in error.remedy
    assert error.remedy.count(";") <= 1
