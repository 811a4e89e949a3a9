"""The whole line for Android: lowered, executed by ExecuTorch here, judged, with its kit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from vggt_edge.exporter.bundle import read_manifest
from vggt_edge.exporter.cli import main
from vggt_edge.runtimes.executorch import BACKEND
from vggt_edge.runtimes.executorch.sdk import installed

pytestmark = pytest.mark.skipif(not installed(), reason="the extra android is not installed")
Run = Callable[..., Any]
SMALL = ("--frames", "2", "--resolution", "42", "--calibration-scenes", "2", "--validation-scenes", "2")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export for all tests here: 4 bits, which takes every form of a layer."""
    out = tmp_path_factory.mktemp("android") / "out"
    code = main(["export", "--target", "android", *SMALL, "--precision", "w4a8d", "-o", str(out)])
    # 42 pixels are half of what the model was made for: the line is tested here, not the accuracy.
    assert code in (0, 4)
    return out


def drift(bundle: Path, subject: str, against: str) -> dict[str, float]:
    rows = json.loads((bundle / "validation.json").read_text())["rows"]
    return {
        row["output"]: row["value"]
        for row in rows
        if (row["subject"], row["against"], row["metric"]) == (subject, against, "sqnr_db")
    }


def test_it_is_executed_here_and_near_the_simulation(bundle: Path) -> None:
    """Not nearer: an activation that lies between two integers is rounded to the other one here and there."""
    parity = drift(bundle, "executorch", "simulation")
    assert set(parity) == {"pose_enc", "depth", "depth_conf", "points", "points_conf"}
    assert min(parity.values()) > 20


def test_every_operation_is_delegated_and_every_block_measured(bundle: Path) -> None:
    """The checks of the lowering say so, with figures."""
    lowered = json.loads((bundle / "lowered-executorch.json").read_text())
    checks = {check["name"]: check for check in lowered["checks"]}
    figures = checks["ExecuTorch lowering"]["figures"]
    assert figures["undelegated_operations"] == 0
    assert figures["kinds"] < figures["delegates"]
    assert figures["planned_bytes"] > 0
    errors = checks["error of each block"]["figures"]
    blocks = {entry["block"] for entry in lowered["realised"]}
    assert blocks <= set(errors)
    assert min(errors[block] for block in blocks) > 20
    assert checks["Android kit compiles"]["status"] in ("passed", "not_run")
    assert lowered["findings"] == []
    assert all(entry["asked"] == entry["realised"] for entry in lowered["realised"])


def test_the_report_names_the_executor_and_the_kit(bundle: Path) -> None:
    """And the bundle verifies."""
    report = (bundle / "report.html").read_text()
    assert "ExecuTorch" in report
    assert "Android kit compiles" in report
    assert {"executorch/vggt.pte", "executorch/kit.json", "executorch/run_on_device.sh"} <= {
        entry.path for entry in read_manifest(bundle).files
    }


def test_the_bundle_verifies_and_is_validated_again(vggt_edge: Run, bundle: Path) -> None:
    """With the runtime that is here."""
    assert vggt_edge("verify", bundle).code == 0
    again = vggt_edge("validate", bundle, "--json")
    assert again.code in (0, 4), again.err


def test_the_comparison_of_the_kit_judges_the_runtime_here(bundle: Path, tmp_path: Path) -> None:
    """``compare.py``, as ``run_on_device.sh`` calls it, on what ExecuTorch computes on this machine."""
    kit = tmp_path / "executorch"
    shutil.copytree(bundle / "executorch", kit)
    images = load_file(kit / "golden.safetensors")["input/images"]
    session = BACKEND.open(bundle)
    outputs = session.run({"images": images})
    session.close()
    (kit / "pulled").mkdir()
    for index, entry in enumerate(json.loads((kit / "kit.json").read_text())["outputs"]):
        np.ascontiguousarray(outputs[entry["name"]], "<f4").tofile(kit / "pulled" / f"output-{index}.bin")
    command = [sys.executable, str(kit / "compare.py"), "--outputs", str(kit / "pulled")]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert json.loads((kit / "device_report.json").read_text())


def test_a_precision_that_xnnpack_lacks_is_refused_before_any_work(vggt_edge: Run, tmp_path: Path) -> None:
    """With those that it has."""
    finished = vggt_edge("export", "--target", "android", "--precision", "w4a16", "-o", tmp_path / "out")
    assert finished.code == 2
    assert "w4a8d" in finished.err
    assert not (tmp_path / "out").exists()
