"""`diff` names what two bundles do not share, with both values, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.exporter.bundle import ManifestInputs, write_bundle
from vggt_edge.exporter.lowered import lowered_json
from vggt_edge.exporter.steps.cache import StepCache
from vggt_edge.exporter.validation.rows import Row, Status, ValidationReport
from vggt_edge.runtimes.base import Check, Lowered, Realised

Run = Callable[..., Any]


def write(out: Path, scheme: str, weight_bytes: int, latency_ms: float, sqnr_db: float) -> Path:
    """A bundle with the documents that are compared, one block and one figure."""
    plan = PrecisionPlan(
        "a" * 64, "b" * 64, "jetson-orin", 64, (Assignment("blocks.0", scheme, "", 0.0, weight_bytes, latency_ms),)
    )
    row = Row("simulation", "depth", "sqnr_db", "fp32", Status.PASSED, sqnr_db, 20.0, "sqnr_db_min")
    lowered = Lowered(
        "tensorrt", (), (Realised("blocks.0", scheme, scheme, "types"),), (Check("rules", "passed", "", {}),)
    )

    def assemble(folder: Path) -> None:
        (folder / "tensorrt").mkdir()
        (folder / "tensorrt" / "model.onnx").write_bytes(b"\0" * weight_bytes)
        (folder / "plan.json").write_text(plan.to_json())
        (folder / "resolved.toml").write_text(f'precision = "{scheme}"\nseed = 0\n')
        (folder / "validation.json").write_text(ValidationReport(("room",), (), (row,)).to_json())
        (folder / "lowered-tensorrt.json").write_bytes(lowered_json(lowered))

    cache = StepCache(out, resume=False)
    write_bundle(cache, assemble, ManifestInputs("vggt-mini", "jetson-orin", {"model": "a" * 64}, {"torch": "2.13.0"}))
    cache.clear()
    return out


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write(tmp_path / "one", "w8a8", 1000, 2.0, 30.0)


def test_a_bundle_is_like_its_copy(one: Path, tmp_path: Path, vggt_edge: Run) -> None:
    same = write(tmp_path / "same", "w8a8", 1000, 2.0, 30.0)
    assert vggt_edge("diff", one, same).out == "no difference\n"
    assert vggt_edge("diff", one, same, "--json").document["result"]["changes"] == []


def test_what_differs_is_named_with_both_values(one: Path, tmp_path: Path, vggt_edge: Run) -> None:
    two = write(tmp_path / "two", "w4a16", 500, 3.0, 24.0)
    changes = vggt_edge("diff", one, two, "--json").document["result"]["changes"]
    found = {(change["section"], change["name"]): (change["first"], change["second"]) for change in changes}
    assert found.pop(("setting", "precision")) == ("w8a8", "w4a16")
    assert found.pop(("plan", "blocks.0")) == ("w8a8", "w4a16")
    assert found.pop(("size", "weights as planned")) == (1000, 500)
    assert found.pop(("size", "tensorrt/")) == (1000, 500)
    assert found.pop(("latency", "blocks as predicted, ms")) == (2.0, 3.0)
    assert found.pop(("accuracy", "simulation, depth: sqnr_db against fp32")) == (30.0, 24.0)
    assert found.pop(("audit", "tensorrt, blocks.0: stored")) == ("w8a8", "w4a16")
    assert {section for section, _ in found} == {"size", "file"}
    assert ("file", "tensorrt/model.onnx") in found
    (latency,) = (change for change in changes if change["section"] == "latency")
    assert latency["relative"] == 0.5
    assert "+50.0 %" in vggt_edge("diff", one, two).out


def test_a_file_that_one_bundle_lacks(one: Path, tmp_path: Path, vggt_edge: Run) -> None:
    two = write(tmp_path / "two", "w8a8", 1000, 2.0, 30.0)
    (two / "lowered-tensorrt.json").unlink()
    (change,) = (
        change
        for change in vggt_edge("diff", one, two, "--json").document["result"]["changes"]
        if change["name"] == "tensorrt: rules"
    )
    assert (change["section"], change["first"], change["second"]) == ("audit", "passed", None)


@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "resolved.toml", "validation.json"])
def test_what_is_no_bundle(one: Path, tmp_path: Path, name: str, vggt_edge: Run) -> None:
    two = write(tmp_path / "two", "w8a8", 1000, 2.0, 30.0)
    (two / name).unlink()
    assert vggt_edge("diff", one, two).code == 2
    (two / name).write_text("[")
    assert vggt_edge("diff", one, two).code == 2
