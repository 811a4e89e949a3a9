"""The line on VGGT-1B's own architecture, every block of it, at an eighth of its width: the path of the full size."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from vggt_edge.exporter.bundle import read_manifest, read_measured
from vggt_edge.exporter.models.random_weights import scaled_config, write_random_checkpoint

pytestmark = pytest.mark.slow

Run = Callable[..., Any]
FEW = ("--target", "host-cpu", "--frames", "2", "--resolution", "42", "--calibration-scenes", "1")
FEW = (*FEW, "--validation-scenes", "1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    write_random_checkpoint(path, scaled_config(8), seed=0)
    return path


@pytest.fixture
def exported(vggt_edge: Run, checkpoint: Path, tmp_path: Path) -> Any:
    finished = vggt_edge(
        "export", *FEW, "--model", checkpoint, "--precision", "w4a16", "-o", tmp_path / "out", "--json"
    )
    # Random weights mean nothing, nor does the accuracy gate: 4 is as good as 0 here.
    assert finished.code in (0, 4), finished.err
    return tmp_path / "out", finished


def test_every_block_is_exported_small_and_marked_as_random(exported: Any, checkpoint: Path) -> None:
    bundle, finished = exported
    plan = json.loads((bundle / "plan.json").read_text())
    assert len(plan["assignments"]) == 24 + 48 + 4 + 2
    nodes = Counter(node.op_type for node in onnx.load(bundle / "model.onnx", load_external_data=False).graph.node)
    assert nodes["Softmax"] == 24 + 48 + 4 * 4  # one an attention, which opset 21 writes out
    stored = sum((bundle / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert checkpoint.stat().st_size / stored > 5  # 6.8 at full width, where tables and the graph weigh nothing
    manifest = read_manifest(bundle)
    assert manifest.random_weights == "seed 0"
    measured = read_measured(bundle)
    assert measured is not None
    assert {timing.step for timing in measured.timings} >= {"calibrate", "sensitivity", "annotate"}
    assert measured.forward_seconds > 0
    assert "Random weights (seed 0)" in (bundle / "report.html").read_text()
    assert "random weights (seed 0)" in finished.err


def test_a_dry_run_estimates_and_writes_nothing(vggt_edge: Run, checkpoint: Path, tmp_path: Path) -> None:
    finished = vggt_edge("export", *FEW, "--model", checkpoint, "-o", tmp_path / "out", "--dry-run", "--json")
    assert finished.code == 0, finished.err
    needed = finished.document["estimate"]
    assert needed["disk_bytes"] > 20e6
    assert needed["memory_bytes"] > 500e6
    assert [step["step"] for step in needed["steps"]][1:3] == ["prepare", "calibrate"]
    assert not list(tmp_path.iterdir())


def test_another_width_is_named_before_work(vggt_edge: Run, checkpoint: Path, tmp_path: Path) -> None:
    """Without the metadata that says its sizes, a checkpoint is taken for VGGT-1B."""
    from safetensors.torch import load_file, save_file

    save_file(load_file(checkpoint), tmp_path / "bare.safetensors")
    finished = vggt_edge("export", *FEW, "--model", tmp_path / "bare.safetensors", "-o", tmp_path / "out")
    assert finished.code == 2
    assert "embed dim 128" in finished.err
    assert "calibrate" not in finished.err
    assert not (tmp_path / "out.work").exists()
