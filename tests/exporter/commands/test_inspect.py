"""What ``inspect`` shows, what it says of damage, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vggt_edge.calibration.observation.stats import BlockRange, CalibrationStats, Sample, TensorStats
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.exporter.bundle import ManifestInputs, write_bundle
from vggt_edge.exporter.lowered import lowered_file, lowered_json
from vggt_edge.exporter.machine.usage import MEASURED, Measured, Timing
from vggt_edge.exporter.steps.cache import StepCache
from vggt_edge.runtimes.base import Check, Computed, Finding, Lowered

Run = Callable[..., Any]


def test_inspect_shows_a_plan(vggt_edge: Run, tmp_path: Path) -> None:
    plan = PrecisionPlan(
        "model", "stats", "jetson-orin", 64, (Assignment("frame_blocks.0", "w8a8", "robust", 0.25, 2048, 1.5),)
    )
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    finished = vggt_edge("inspect", path)
    assert finished.code == 0
    assert all(part in finished.out for part in ("frame_blocks.0", "w8a8", "robust", "2.0 KiB", plan.digest))
    assert vggt_edge("inspect", path, "--json").document["result"]["kind"] == "plan"


def test_inspect_shows_an_onnx_file(vggt_edge: Run, tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2))],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), tmp_path / "tiny.onnx")
    finished = vggt_edge("inspect", tmp_path / "tiny.onnx")
    assert all(part in finished.out for part in ("MatMul", "onnx 21", "6 x float", "x (1, 3)"))


def test_inspect_shows_a_type_that_onnx_does_not_know(vggt_edge: Run, tmp_path: Path) -> None:
    """Files of later versions, and damaged ones, have others."""
    weight = onnx.TensorProto(name="w", dims=[3, 2], data_type=99)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "tiny",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 2))],
        [weight],
    )
    onnx.save(helper.make_model(graph), tmp_path / "tiny.onnx")
    finished = vggt_edge("inspect", tmp_path / "tiny.onnx")
    assert finished.code == 0
    assert "6 x unknown type 99" in finished.out


COST = Measured(
    peak_memory_bytes=3 << 30,
    timings=(Timing("calibrate", 100.0, 90.0), Timing("lower", 3.5, 0.0)),
    checks={"tensorrt": {"TensorRT for RTX": {"seconds": 1.23456, "plan_bytes": 700}}, "onnxruntime": {"oracle": {}}},
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with plan and statistics of one export, and placeholders for every other file."""

    def assemble(folder: Path) -> None:
        tensor = TensorStats("frame_blocks.0.attn.qkv", "patch", -3.0, 2.5, (1.0, 1.25, 1.5, 2.0), 640)
        stats = CalibrationStats("m" * 64, (), (tensor,), (), {tensor.key: np.ones(4, np.float32)})
        stats.save(folder)
        plan = PrecisionPlan("m" * 64, stats.digest, "jetson-orin", 64, ())
        (folder / "plan.json").write_text(plan.to_json())
        for name in ("model.onnx", "model.onnx.data", "validation.json", "golden.safetensors", "resolved.toml"):
            (folder / name).write_text(name)
        (folder / "report.html").write_text("x" * 2048)
        (folder / MEASURED).write_text(COST.to_json())
        digests.update(model="m" * 64, plan=plan.digest, stats=stats.digest)

    digests: dict[str, str] = {}
    cache = StepCache(tmp_path / "out", resume=False)
    write_bundle(cache, assemble, ManifestInputs("vggt-mini", "jetson-orin", digests, {}))
    cache.clear()
    return tmp_path / "out"


def test_inspect_shows_a_bundle(vggt_edge: Run, bundle: Path) -> None:
    finished = vggt_edge("inspect", bundle)
    assert finished.code == 0
    assert all(part in finished.out for part in ("jetson-orin", "report.html", "2.0 KiB", "as exported"))


def test_inspect_shows_what_an_export_took(vggt_edge: Run, bundle: Path) -> None:
    facts = vggt_edge("inspect", bundle, "--json").document["result"]["facts"]
    cost = {
        "time": "1 min 44 s, 1 min 30 s of it forwards",
        "peak memory": "3.0 GiB",
        "tensorrt, TensorRT for RTX": "plan_bytes 700, seconds 1.235",
    }
    assert facts.items() >= {**cost, "time of calibrate": "1 min 40 s", "time of lower": "3.5 s"}.items()
    assert not any("oracle" in name for name in facts)
    alone = vggt_edge("inspect", bundle / MEASURED, "--json").document["result"]
    assert alone["facts"] == cost
    assert alone["rows"] == [["calibrate", "1 min 40 s", "1 min 30 s"], ["lower", "3.5 s", "0.0 s"]]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda bundle: (bundle / "report.html").write_text("y" * 2048), "report.html: has changed (sha256 differs)"),
        (lambda bundle: (bundle / "model.onnx.data").unlink(), "model.onnx.data: is missing"),
        (lambda bundle: (bundle / "more").touch(), "more: not in the manifest"),
        (lambda bundle: (bundle / "model.onnx").write_text("m"), "model.onnx: has 1 bytes instead of 10"),
        (lambda bundle: (bundle / MEASURED).write_text("{}"), "not what an export measured: peak_memory_bytes"),
    ],
)
def test_inspect_says_that_a_bundle_is_damaged(
    vggt_edge: Run, bundle: Path, damage: Callable[[Path], object], problem: str
) -> None:
    """``inspect`` shows the bundle all the same."""
    damage(bundle)
    finished = vggt_edge("inspect", bundle)
    assert finished.code == 0
    assert "damaged: 1 problem" in finished.out
    assert problem in finished.out
    facts = vggt_edge("inspect", bundle, "--json").document["result"]["facts"]
    assert facts["problem 1"].startswith(problem)


def test_inspect_shows_what_a_compiled_plan_computes(vggt_edge: Run, bundle: Path) -> None:
    """Per block, with the findings of the audit; a file that says nothing is left to ``verify``."""
    finding = Finding(
        "computed type", "b/conv", "gemm", "point_head", "computed in fp16", "exclude it", "plan", "warning"
    )
    computed = (
        Computed("frame_blocks.0", "w8a8", "w8a8", "int8 x 4", "passed"),
        Computed("point_head", "w8a8", "w8a8", "fp16 x 2, int8 x 30", "failed"),
        Computed("", "fp16", "fp16", "fp16 x 17", "passed"),
    )
    check = Check("Plan audit", "failed", "51 products, 2 of them in another type", {})
    lowered = Lowered("tensorrt", (), (), (check,), (finding,), computed)
    (bundle / lowered_file("tensorrt")).write_bytes(lowered_json(lowered))
    (bundle / lowered_file("coreml")).write_bytes(b"{")
    finished = vggt_edge("inspect", bundle)
    assert finished.code == 0
    for text in (
        "51 products, 2 of them",
        "point_head: b/conv: computed in fp16",
        "fp16 x 2, int8 x 30",
        "outside the",
    ):
        assert text in finished.out
    (part,) = vggt_edge("inspect", bundle, "--json").document["result"]["parts"]
    assert part["rows"][1] == ["point_head", "w8a8", "w8a8", "fp16 x 2, int8 x 30", "failed"]


@pytest.mark.parametrize("name", ["plan", "stats", "model"])
def test_the_digests_of_a_manifest_are_compared_with_the_files(vggt_edge: Run, bundle: Path, name: str) -> None:
    assert vggt_edge("verify", bundle).code == 0
    content = json.loads((bundle / "manifest.json").read_text())
    content["digests"][name] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(content))
    refused = vggt_edge("verify", bundle)
    assert refused.code == 2
    assert f"its digest of the {name} is not that of the bundle's files" in refused.err


def test_inspect_refuses_a_folder_whose_manifest_is_none(vggt_edge: Run, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"target": "jetson-orin", "files": {}}))
    finished = vggt_edge("inspect", tmp_path)
    assert finished.code == 2
    assert "not a bundle manifest" in finished.err


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_codes_for_the_terminal_are_printed_as_text(vggt_edge: Run, tmp_path: Path, json: tuple[str, ...]) -> None:
    """Results, tables and errors show them as text; names in files come from anyone."""
    hostile = "\x1b[2J\u202ered"
    plan = PrecisionPlan("m", "s", hostile, 64, (Assignment(hostile, "w8a8", hostile, 0.25, 2048, 1.5),))
    (tmp_path / "plan.json").write_text(plan.to_json())
    finished = vggt_edge("inspect", tmp_path / "plan.json", *json)
    assert finished.code == 0
    assert not {"\x1b", "\u202e"} & set(finished.out)
    failed = vggt_edge("inspect", tmp_path / f"{hostile}.json", *json)
    assert failed.code == 2
    assert not {"\x1b", "\u202e"} & set(failed.out + failed.err)
    assert r"\x1b[2J\u202ered" in failed.err


def test_inspect_shows_statistics(vggt_edge: Run, tmp_path: Path) -> None:
    tensor = TensorStats("frame_blocks.0.attn.qkv", "patch", -3.0, 2.5, (1.0, 1.25, 1.5, 2.0), 640)
    ranges = (BlockRange("frame_blocks.0", 60000.0, "mlp"),)
    stats = CalibrationStats("model", (Sample("room", "d"),), (tensor,), ranges, {tensor.key: np.ones(4, np.float32)})
    stats.save(tmp_path)
    finished = vggt_edge("inspect", tmp_path / "stats.json")
    assert finished.code == 0
    assert "frame_blocks.0.attn.qkv\tpatch\t-3\t2.5\t1.25\t640" in finished.out
    assert "blocks that need FP32  frame_blocks.0" in finished.out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plan.json", b"{"),
        ("plan.json", b"[1]"),
        ("plan.json", b'{"assignments": 3}'),
        ("a.onnx", b"\xff" * 40),
        ("empty.onnx", b""),
        ("two_fields.onnx", b"\x08\x0a\x12\x00"),
        ("a.txt", b""),
    ],
)
def test_inspect_refuses_what_is_no_artifact(vggt_edge: Run, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    finished = vggt_edge("inspect", tmp_path / name)
    assert finished.code == 2
    assert name in finished.err


def test_inspect_refuses_a_folder_without_a_manifest(vggt_edge: Run, tmp_path: Path) -> None:
    finished = vggt_edge("inspect", tmp_path)
    assert finished.code == 2
    assert "manifest.json" in finished.err


def test_inspect_shows_names_that_are_not_utf_8(vggt_edge: Run, tmp_path: Path) -> None:
    """Beside others, with which they are sorted."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1,)) for name in ("x", "y")]
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "tiny", ends[:1], ends[1:]))
    (tmp_path / "tiny.onnx").write_bytes(model.SerializeToString().replace(b"Tanh", b"T\xffnh"))
    finished = vggt_edge("inspect", tmp_path / "tiny.onnx")
    assert finished.code == 0
    assert r"T\xffnh" in finished.out
