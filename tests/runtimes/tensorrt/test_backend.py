"""Lowering for a Jetson: what lands in the bundle, and what stops it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import InputError, LoweringError, ToolchainError
from vggt_edge.devices.profile import load_profile
from vggt_edge.runtimes.base import AnnotatedGraph, Check, Lowered, Options
from vggt_edge.runtimes.onnxruntime import open_onnx
from vggt_edge.runtimes.tensorrt import BACKEND, rtx, write_golden
from vggt_edge.runtimes.tensorrt.engine import kit_module

MIXED = ("w8a8", "w4a16", "fp16")
Lower = Callable[..., tuple[Lowered, Path]]


@pytest.fixture
def lower(write_mini: Callable[..., Path], make_plan: Callable[..., PrecisionPlan], tmp_path: Path) -> Lower:
    """``lower(fp32_blocks, rtx=Check)`` lowers the mixed mini graph; the compiler's verdict may be given."""

    def run(fp32_blocks: tuple[str, ...] = (), out: str = "out", strict: bool = False) -> tuple[Lowered, Path]:
        blocks = ("frame_blocks.0", "global_blocks.0", "depth_head")
        names = ("pose_enc", "depth", "depth_conf")
        path = write_mini(*MIXED)
        graph = AnnotatedGraph(None, path, ("tokens",), names, blocks, fp32_blocks)  # type: ignore[arg-type]
        profile, options = load_profile("jetson-orin"), Options(strict=strict)
        return BACKEND.lower(graph, make_plan(*MIXED), profile, tmp_path / out, options), tmp_path / out

    return run


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    not_run = rtx.Compiled(Check(rtx.NAME, "not_run", "not wanted here", {}))
    monkeypatch.setattr(rtx, "compile_graph", lambda *_, **__: not_run)


@pytest.mark.usefixtures("without_compiler")
def test_the_folder_holds_exactly_what_is_listed_and_the_kit_accepts_it(
    lower: Lower, fits: Callable[[str, object], None]
) -> None:
    lowered, out = lower()
    fits("kit-tensorrt", json.loads((out / "tensorrt/kit.json").read_text()))
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == sorted(lowered.files)
    assert {"tensorrt/cpp/CMakeLists.txt", "tensorrt/cpp/ros2/src/reconstructor.cpp"} < set(lowered.files)
    kit = kit_module().load_kit(out / "tensorrt")
    assert kit["target"] == "jetson-orin-nano-8gb"
    limits = load_profile("jetson-orin").tolerances
    sqnr, degrees = limits.backend_sqnr_db_min, limits.backend_pose_degrees_max
    assert kit["tolerances"] == {"sqnr_db_min": sqnr, "pose_degrees_max": degrees}
    assert kit["outputs"] == [("pose_enc", (1, 1, 9)), ("depth", (1, 1, 32, 32)), ("depth_conf", (1, 1, 32, 32))]
    by_name = {block["block"]: block for block in kit["blocks"]}
    assert [by_name[name]["computed"] for name in ("frame_blocks.0", "global_blocks.0", "depth_head")] == list(MIXED)
    assert len(by_name["frame_blocks.0"]["nodes"]) == 4


@pytest.mark.usefixtures("without_compiler")
def test_lowering_twice_gives_the_same_bytes(lower: Lower) -> None:
    lowered, first = lower(out="a")
    _, second = lower(out="b")
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in lowered.files)


@pytest.mark.usefixtures("without_compiler")
def test_an_fp32_island_is_told_to_the_kit(lower: Lower) -> None:
    """Else the device would report its FP32 kernels as a lost precision."""
    _, out = lower(("depth_head",))
    blocks = {block["block"]: block for block in json.loads((out / "tensorrt" / "kit.json").read_text())["blocks"]}
    assert (blocks["depth_head"]["scheme"], blocks["depth_head"]["computed"]) == ("fp16", "fp32")


@pytest.mark.usefixtures("without_compiler")
def test_what_ships_is_executed_and_near_the_graph_that_it_was_made_from(lower: Lower, tokens: np.ndarray) -> None:
    _, out = lower()
    (executor,) = BACKEND.executors()
    ours = executor.open(out).run({"tokens": tokens})
    for name, wanted in open_onnx(out.parent / "model.onnx").run({"tokens": tokens}).items():
        error = float(np.square(ours[name] - wanted).sum())
        assert error > 0  # FP16 rounds
        assert 10 * np.log10(float(np.square(wanted).sum()) / error) > 25, (
            name
        )  # the limit of the profile: some INT8 roundings flip


@pytest.mark.usefixtures("without_compiler")
def test_what_was_not_checked_is_not_called_passed(lower: Lower) -> None:
    lowered, _ = lower()
    statuses = {check.name: check.status for check in lowered.checks}
    assert statuses[rtx.NAME] == "not_run"
    assert statuses["TensorRT rules"] == "passed"


def test_a_refusal_by_the_compiler_is_an_error_that_quotes_it(lower: Lower, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Check(rtx.NAME, "failed", "n/MatMul: no such kernel", {})
    monkeypatch.setattr(rtx, "compile_graph", lambda *_, **__: rtx.Compiled(refusal))
    with pytest.raises(LoweringError, match="n/MatMul: no such kernel"):
        lower()


def test_strict_refuses_what_was_not_proven(lower: Lower, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler nothing is known of the computed types; with one, a product in another type is named."""
    not_run = rtx.Compiled(Check(rtx.NAME, "not_run", "not wanted here", {}))
    monkeypatch.setattr(rtx, "compile_graph", lambda *_, **__: not_run)
    with pytest.raises(ToolchainError, match="was not checked"):
        lower(strict=True)


@pytest.mark.skipif(not rtx.availability().ok, reason=rtx.availability().reason)
def test_the_compiled_plan_is_audited(lower: Lower) -> None:
    lowered, _ = lower()
    # The hand-made graph gathers q, k and v from one product, and the compiler splits the weight at every run for it.
    assert [(one.block, one.computed, one.status) for one in lowered.computed[:3]] == [
        ("frame_blocks.0", "fp16 (weights widened) x 1, int8 x 3", "failed"),
        ("global_blocks.0", "fp16 x 3, fp16 (weights widened) x 1", "failed"),
        ("depth_head", "fp16 x 3", "passed"),
    ]
    warnings = [(one.block, one.rule) for one in lowered.findings if one.severity == "warning"]
    assert warnings == [("frame_blocks.0", "computed type"), ("global_blocks.0", "widened weights")]
    with pytest.raises(LoweringError, match="computed in fp16, the graph asks for int8"):
        lower(out="strict", strict=True)


def test_opening_an_engine_without_tensorrt_says_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    if kit_module().__dict__.get("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    with pytest.raises(ToolchainError, match="TensorRT"):
        BACKEND.open(tmp_path)


@pytest.mark.usefixtures("without_compiler")
def test_golden_tensors_have_to_be_float32(lower: Lower) -> None:
    _, out = lower()
    doubles: Any = {"tokens": np.zeros(3)}
    with pytest.raises(InputError, match="input/tokens is float64"):
        write_golden(out / "tensorrt", doubles, {}, {})


def test_a_scheme_that_a_gpu_cannot_have_is_refused_with_the_reason() -> None:
    reason = BACKEND.why_not("nvfp4", load_profile("jetson-orin"))
    assert reason == "it takes a GPU of compute capability 10.0 or later, and this one is 8.7"
    assert BACKEND.why_not("fp8", load_profile("jetson-orin"))
    assert not BACKEND.why_not("w8a8d", load_profile("jetson-orin"))
    assert not BACKEND.why_not("nvfp4", load_profile("jetson-thor"))
