"""What --exclude and --precision fp32 keep as it is, read from the graph that an export wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.profile import PROFILE_FOLDER

pytestmark = pytest.mark.slow

Run = Callable[..., Any]
SMALL = (
    *("--frames", "1", "--resolution", "28", "--calibration-scenes", "1", "--validation-scenes", "1"),
    *("--outputs", "camera", "--effort", "none", "--sensitivity", "probe"),
)
INTEGERS = {TensorProto.INT8, TensorProto.INT4, TensorProto.UINT8, TensorProto.UINT4}


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """The profile of ``ios-ar`` without Core AI beside it, which takes longer than all the rest."""
    lines = (PROFILE_FOLDER / "iphone-15-pro.toml").read_text().splitlines()
    path = tmp_path / "phone.toml"
    path.write_text("\n".join(line for line in lines if not line.startswith("companions")))
    return path


def stored_types(bundle: Path, layer: str) -> set[int]:
    """The types of the matrices that a layer, such as ``mlp.fc2``, has in all blocks."""
    graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
    found = {one.data_type for one in graph.initializer if f".{layer}." in one.name and len(one.dims) == 2}
    assert found, f"no matrix of {layer}"
    return found


def read_plan(bundle: Path) -> PrecisionPlan:
    return PrecisionPlan.from_json((bundle / "plan.json").read_text())


def export(vggt_edge: Run, out: Path, *options: object) -> Path:
    finished = vggt_edge("export", *SMALL, *options, "-o", out)
    assert finished.code in (0, 4), finished.err  # 4: one frame of 28 pixels is not what the model was made for
    return out


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("host-cpu", ("--precision", "w8a8")),
        ("phone", ("--precision", "w8a16")),
        ("host-cpu", ("--precision", "mixed")),
    ],
    ids=["w8a8", "phone-w8a16", "mixed"],
)
def test_what_is_excluded_is_not_quantized(
    vggt_edge: Run, tmp_path: Path, phone: Path, target: str, options: tuple[str, ...]
) -> None:
    chosen = phone if target == "phone" else target
    out = export(vggt_edge, tmp_path / "out", "--target", chosen, *options, "--exclude", r".*mlp\.fc2")
    assert stored_types(out, "mlp.fc2") == {TensorProto.FLOAT16}
    assert stored_types(out, "mlp.fc1") & INTEGERS
    plan = read_plan(out)
    assert plan.kept_scheme == "fp16"
    for assignment in plan.assignments:
        assert assignment.excluded == ("mlp.fc2",)
        assert assignment.reason.endswith("; --exclude keeps mlp.fc2 at 16 bits")


def test_a_block_that_the_solver_leaves_at_16_bits_says_why(vggt_edge: Run, tmp_path: Path, phone: Path) -> None:
    out = tmp_path / "out"
    options = ("--target", phone, "--precision", "mixed", "--max-memory", "1GB", "--exclude", r".*mlp\.fc2")
    assert vggt_edge("plan", *SMALL, *options, "-o", out).code == 0
    reasons = {assignment.reason for assignment in read_plan(out).assignments if assignment.scheme == "fp16"}
    assert reasons
    assert all(reason.startswith("fp16: the widest form, error ") for reason in reasons)
    assert all(reason.endswith("; --exclude keeps mlp.fc2 at 16 bits") for reason in reasons)


def test_a_whole_block_that_is_excluded_has_the_kept_scheme(vggt_edge: Run, tmp_path: Path) -> None:
    options = ("--target", "host-cpu", "--precision", "w8a8", "--exclude", r"frame_blocks\.1")
    out = export(vggt_edge, tmp_path / "out", *options)
    assert read_plan(out).assignment("frame_blocks.1").scheme == "fp16"
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    held = {one.data_type for one in graph.initializer if one.name.startswith("frame_blocks.1.") and len(one.dims) == 2}
    assert held == {TensorProto.FLOAT16}
    lowered = json.loads((out / "lowered-onnxruntime.json").read_text())["realised"]
    assert {one["realised"] for one in lowered if one["block"] == "frame_blocks.1"} == {"fp16"}


def test_a_model_in_fp32_is_in_fp32_as_a_whole(vggt_edge: Run, tmp_path: Path) -> None:
    out = export(vggt_edge, tmp_path / "out", "--target", "host-cpu", "--precision", "fp32")
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    assert not [one.name for one in graph.initializer if one.data_type in INTEGERS | {TensorProto.FLOAT16}]
    assert read_plan(out).rest_scheme == "fp32"
