"""A device's result is believed where it is one of this bundle, and no further."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.bundle import FileEntry, Manifest
from vggt_edge.exporter.device_report import DeviceReport, read_report

MANIFEST = Manifest("mini", "orin", {"plan": "p" * 64}, {}, (FileEntry("tensorrt/model.onnx", 1, "a" * 64),))


def result(**changes: Any) -> bytes:
    """As a kit writes it, keys that we do not read among them."""
    content = {
        "schema_version": 1, "status": "passed", "target": "orin", "plan_digest": "p" * 64, "model_sha256": "a" * 64,
        "runtime": {"name": "tensorrt", "version": "10.3.0"}, "device": {"model": None, "system": "R36"},
        "thermal": {"before": None, "after": "cpu 48 C"}, "low_power_mode": None, "another": [1],
        "timings_ms": {"compile": 1, "load": 2.5, "first_prediction": 3, "measured": None},
        "memory_bytes": {"value": 5, "how": "VmHWM"},
        "outputs": [
            {
                "output": "depth", "status": "passed", "finite": True, "sqnr_db_min": 25.0, "against_fp32": None,
                "against_simulation": {"cosine": 1.0, "sqnr_db": 40.0, "max_abs": 0.1, "p99_abs": 0.1},
            }
        ],
    }  # fmt: skip
    return json.dumps(content | changes).encode()


def read(content: bytes) -> DeviceReport:
    return read_report(content, MANIFEST, ["depth"], "ssh://orin")


def test_a_result_of_this_bundle() -> None:
    report = read(result(times={"runs": 2, "mean_ms": 4.5, "load_ms": None}))
    assert (report.status, report.median_ms, report.memory_bytes.value) == ("passed", 4.5, 5)
    assert report.worst is not None
    assert report.worst.against_simulation is not None
    assert report.worst.against_simulation.sqnr_db == 40


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"target": "thor"}, "target 'thor'"),
        ({"plan_digest": "q" * 64}, "another precision plan"),
        ({"model_sha256": "b" * 64}, "a model that the bundle lacks"),
        ({"outputs": []}, "passed, with an output that has not"),
        ({"outputs": [{"output": "x", "status": "failed", "finite": False, "sqnr_db_min": None,
                       "against_simulation": None}]}, "the outputs"),
        ({"status": "great"}, "status"),
        ({"schema_version": 2}, "schema_version"),
        ({"memory_bytes": {"value": -1, "how": None}}, "memory_bytes.value"),
        ({"timings_ms": {"compile": None, "load": float("nan"), "first_prediction": None, "measured": None}}, "load"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        read(result(**changes))
    assert caught.value.where == "ssh://orin"


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff", b"null"])
def test_no_result_at_all(content: bytes) -> None:
    with pytest.raises(InputError, match="not a device's result"):
        read(content)
