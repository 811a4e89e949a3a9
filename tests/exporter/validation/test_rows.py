"""The validation report as a file: it round-trips, and its headline cannot be edited apart from its rows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.validation import Row, Status, ValidationReport

ROWS = st.builds(
    Row,
    subject=st.sampled_from(["fp32", "simulation", "tensorrt"]),
    output=st.sampled_from(["depth", "pose_enc"]),
    metric=st.text(max_size=8),
    against=st.just("fp32"),
    status=st.sampled_from(Status),
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    reason=st.text(max_size=20),
)


@given(st.lists(ROWS, max_size=6))
def test_round_trip_is_exact_and_canonical(rows: list[Row]) -> None:
    report = ValidationReport(("a", "b"), ("a",), tuple(rows))
    text = report.to_json()
    assert ValidationReport.from_json(text) == report
    assert ValidationReport.from_json(text).to_json() == text
    assert json.loads(text)["status"] == report.status


@given(st.lists(ROWS, max_size=6))
def test_any_failure_fails_and_only_a_gate_of_every_output_exported_passes(rows: list[Row]) -> None:
    failed = any(row.status is Status.FAILED for row in rows)
    exported = [row for row in rows if row.subject != "fp32"]
    held = {(row.subject, row.output) for row in exported if row.status is Status.PASSED}
    every = bool(held) and held == {(row.subject, row.output) for row in exported}
    expected = Status.FAILED if failed else Status.PASSED if every else Status.NOT_RUN
    assert ValidationReport((), (), tuple(rows)).status is expected


ONE = ValidationReport(("a",), (), (Row("simulation", "depth", "abs_rel", "fp32", Status.FAILED, 0.5, 0.1),))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"status": "failed"\n}', '"status": "passed"\n}'),
        ('"schema_version": 1', '"schema_version": 2'),
        ('"metric": "abs_rel",', ""),
        ('"status": "failed",\n', '"status": "splendid",\n'),
        ("{", "["),
    ],
)
def test_a_report_that_was_tampered_with_is_refused(old: str, new: str) -> None:
    text = ONE.to_json()
    assert old in text
    with pytest.raises(InputError, match="not a validation report") as caught:
        ValidationReport.from_json(text.replace(old, new), where="out/validation.json")
    assert caught.value.where == "out/validation.json"
