"""The whole line for the GPU of a phone: lowered for Vulkan, interpreted, and honest about what has not run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vggt_edge.exporter.bundle import read_manifest
from vggt_edge.exporter.models.config import VGGTConfig
from vggt_edge.exporter.models.random_weights import write_random_checkpoint
from vggt_edge.runtimes.executorch.sdk import installed

Run = Callable[..., Any]
SMALL = ("--frames", "2", "--resolution", "42", "--calibration-scenes", "1", "--validation-scenes", "1")
QUICK = ("--effort", "none", "--sensitivity", "probe", "--outputs", "camera,depth")  # the two heads that differ in form
# The delegate holds the whole graph, so every block costs seconds.
SHALLOW = VGGTConfig(
    name="shallow", embed_dim=128, dino_depth=1, depth=4, heads=2, position_grid=3, taps=(0, 1, 2, 3),
    camera_trunk_depth=1, camera_heads=2, dpt_features=16, dpt_channels=(8, 16, 24, 24), dpt_hidden=8,
)  # fmt: skip

pytestmark = pytest.mark.skipif(not installed(), reason="the extra android is not installed")


@pytest.mark.slow
def test_a_mix_for_the_gpu_is_lowered_whole_and_not_run(vggt_edge: Run, tmp_path: Path) -> None:
    """Every block holds what the plan gives it, nothing is left to the CPU, and the report says what has not run."""
    out, checkpoint = tmp_path / "out", tmp_path / "shallow.safetensors"
    write_random_checkpoint(checkpoint, SHALLOW, seed=0)
    chosen = ("--model", checkpoint, *SMALL, *QUICK, "--max-memory", "4MB")
    finished = vggt_edge("export", "--target", "android-gpu", *chosen, "-o", out)
    # Random weights mean nothing: the line is tested here, not the accuracy.
    assert finished.code in (0, 4), finished.err
    lowered = json.loads((out / "lowered-vulkan.json").read_text())
    assert {entry["realised"] for entry in lowered["realised"]} == {"fp16", "w4a16"}
    assert all(entry["asked"] == entry["realised"] for entry in lowered["realised"])
    checks = {check["name"]: check for check in lowered["checks"]}
    assert checks["Vulkan lowering"]["figures"]["undelegated_operations"] == 0
    assert checks["Vulkan lowering"]["figures"]["delegates"] == 1
    assert checks["Vulkan run"]["status"] == "not_run"
    rows = json.loads((out / "validation.json").read_text())["rows"]
    (device,) = (row for row in rows if row["subject"] == "vulkan-on-device")
    assert device["status"] == "not_run"
    assert "there is no kit for it" in device["reason"]
    assert {"simulation", "onnxruntime"} <= {row["subject"] for row in rows}
    assert "ExecuTorch (Vulkan)" in (out / "report.html").read_text()
    assert worst(rows, "vulkan-fp32") > 70
    assert worst(rows, "vulkan-fp16") > 50
    assert checks["Vulkan static check"]["status"] == "passed"
    assert {"vulkan/README.md", "vulkan/model.json", "vulkan/vggt.pte"} <= {
        entry.path for entry in read_manifest(out).files
    }
    assert vggt_edge("verify", out).code == 0


def worst(rows: list[dict[str, Any]], subject: str) -> float:
    """The lowest SQNR of a subject's outputs against the simulation."""
    wanted = ("sqnr_db", "simulation", subject)
    return float(min(row["value"] for row in rows if (row["metric"], row["against"], row["subject"]) == wanted))


def test_what_the_gpu_does_not_hold_is_refused_before_any_work(vggt_edge: Run, tmp_path: Path) -> None:
    """It quantizes no activations."""
    finished = vggt_edge("export", "--target", "android-gpu", "--precision", "w4a8d", "-o", tmp_path / "out")
    assert finished.code == 2
    assert "fp16, w4a16, mixed" in finished.err
