"""The table of architectures and targets: what a row says, and that a new one leaves the others alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import model_targets
import pytest

from vggt_edge.exporter.models.architectures import architectures
from vggt_edge.exporter.models.checkpoint import build_model, read_checkpoint
from vggt_edge.runtimes.common.kit import script_module

PASSED: dict[str, Any] = {
    "exit_code": 0,
    "status": "passed",
    "model_bytes": 250_000,
    "fp32_bytes": 1_000_000,
    "rows": [
        {
            "subject": subject,
            "against": "fp32",
            "metric": "sqnr_db",
            "output": "depth",
            "value": value,
            "status": "info",
        }
        for subject, value in (("simulation", 20.0), ("onnxruntime", 40.0))
    ],
}


def test_a_row_says_the_error_of_the_runtime_nearest_the_device() -> None:
    cells = model_targets.row("pi", "host-cpu", PASSED)
    assert cells[:5] == ("pi", "`host-cpu`", "passed", "ONNX Runtime", "depth 1.0e-02")


def test_a_row_names_the_gate_that_did_not_hold() -> None:
    failed = {"subject": "onnxruntime", "against": "fp32", "metric": "abs_rel", "output": "depth", "status": "failed"}
    cells = model_targets.row("pi", "host-cpu", {**PASSED, "exit_code": 4, "rows": [*PASSED["rows"], failed]})
    assert cells[2] == "exit 4, failed: depth abs_rel"


def test_a_row_of_a_refused_export_says_why() -> None:
    refused = {"exit_code": 3, "said": "no such head", "fp32_bytes": 1_000_000}
    assert model_targets.row("pi", "android", refused)[2:4] == ("exit 3: no such head", "-")


def test_the_rows_of_other_architectures_stay() -> None:
    def rows(name: str, status: str) -> list[tuple[str, ...]]:
        return [(name, target, status, "-", "-", "-", "-") for target in ("one", "two")]

    text = model_targets.merged("# Models\n", rows("b", "failed"))
    text = model_targets.merged(model_targets.merged(text, rows("a", "passed")), rows("b", "passed"))
    assert "failed" not in text
    assert [line.split(" | ")[0] for line in text.splitlines() if "passed" in line] == ["| a", "| a", "| b", "| b"]
    assert model_targets.merged(text, rows("a", "passed")) == text


@pytest.mark.parametrize("name", sorted(path.stem for path in model_targets.TINY.glob("*.py")))
def test_every_tiny_checkpoint_is_one_of_its_architecture(name: str, tmp_path: Path) -> None:
    tiny, path = script_module(model_targets.TINY / f"{name}.py", f"tiny.{name}"), tmp_path / "tiny.safetensors"
    model_targets.write_checkpoint(name, tiny, path)
    assert path.stat().st_size < 4 << 20
    checkpoint = read_checkpoint(path, architecture=name)
    assert json.loads(checkpoint.architecture.write_config(checkpoint.config))["name"] == "tiny"
    side = tiny.CONFIG.native_resolution
    assert build_model(checkpoint, architectures()[name].shape(1, side, side), checkpoint.heads(None)).outputs
