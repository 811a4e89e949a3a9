"""TensorRT for RTX as a check: what it compiles, and that nothing it does can take us down.

The facts of docs/runtimes/tensorrt.md that can be shown without a GPU are shown here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from vggt_edge.devices.profile import load_profile
from vggt_edge.runtimes.common.process import Ending, run_worker, worker
from vggt_edge.runtimes.tensorrt import rtx
from vggt_edge.runtimes.tensorrt.prepare import prepare

needs_rtx = pytest.mark.skipif(not rtx.availability().ok, reason=rtx.availability().reason)


def compile_source(source: Path, folder: Path) -> Any:
    return rtx.compile_graph(prepare(source, folder / "trt" / "model.onnx").path, timeout_s=300).check


@needs_rtx
def test_every_scheme_compiles_together_and_stays_packed(write_mini: Callable[..., Path], tmp_path: Path) -> None:
    check = compile_source(write_mini("w8a8", "w4a16", "w8a16"), tmp_path)
    assert check.status == "passed", check.detail
    assert check.figures["constants_sought"] == 10
    assert check.figures["constants_found"] == 10
    assert check.figures["weights_packed"] == "yes"
    assert check.figures["capability"] == "SM86"


@needs_rtx
@pytest.mark.parametrize(("scheme", "bytes_per_weight"), [("fp16", 2.0), ("w8a8", 1.0), ("w8a16", 1.0), ("w4a16", 0.5)])
def test_the_plan_is_as_large_as_the_packed_weights(
    scheme: str, bytes_per_weight: float, builder: Any, tmp_path: Path, save: Any
) -> None:
    """A linear large enough to outweigh the kernels, a few hundred kilobytes."""
    weights = 2048 * 2048
    y = builder.linear("blocks.0/fc", "x", 2048, 2048, scheme)
    source = save(builder.model({"x": (1, 64, 2048)}, {"y": (y, (1, 64, 2048))}), tmp_path / "model.onnx")
    check = compile_source(source, tmp_path)
    assert check.status == "passed", check.detail
    assert bytes_per_weight * weights < check.measured["plan_bytes"] < (bytes_per_weight + 0.2) * weights


@needs_rtx
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("scheme", ["fp16", "w8a16", "w8a8"])
def test_convolutions_compile_in_every_scheme(
    scheme: str, operator: str, builder: Any, tmp_path: Path, save: Any
) -> None:
    attributes = {"pads": [1, 1, 1, 1]} if operator == "Conv" else {"strides": [3, 3]}
    y = builder.conv("head/conv", "x", (64, 64, 3, 3), scheme, operator, **attributes)
    shape = (1, 64, 16, 16) if operator == "Conv" else (1, 64, 48, 48)
    source = save(builder.model({"x": (1, 64, 16, 16)}, {"y": (y, shape)}), tmp_path / "model.onnx")
    check = compile_source(source, tmp_path)
    assert check.status == "passed", check.detail
    assert check.figures["weights_packed"] == ("nothing to pack" if scheme == "fp16" else "yes")


@needs_rtx
@pytest.mark.parametrize("scheme", ["fp32", "w8a8", "w4a16"])
def test_an_opset_23_block_with_gemm_and_attention_compiles(
    scheme: str, builder: Any, tmp_path: Path, save: Any
) -> None:
    """As the exporter writes it: Gemm where nothing is quantized, Attention as one node, tokens in one matrix."""
    shape = builder.constant(np.array([1, 64, 6, 64]))
    weight, bias = builder.constant(builder.normal(128, 384)), builder.constant(builder.normal(384))
    qkv = builder.op("b/attn.qkv", "Gemm", "x", weight, bias)
    heads = builder.op("b/attn", "Transpose", builder.op("b/attn", "Reshape", qkv, shape), perm=[0, 2, 1, 3])
    parts = [builder.constant(np.array(two)) for two in ([0, 1], [2, 3], [4, 5])]
    q, k, v = (builder.op("b/attn", "Gather", heads, part, axis=1) for part in parts)
    mixed = builder.op("b/attn", "Attention", q, k, v, scale=0.125)
    mixed = builder.op("b/attn", "Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = builder.op("b/attn", "Reshape", mixed, builder.constant(np.array([64, 128])))
    model = builder.model({"x": (64, 128)}, {"y": (builder.linear("b/attn.proj", mixed, 128, 128, scheme), (64, 128))})
    model.opset_import[0].version, model.ir_version = 23, 11
    check = compile_source(save(model, tmp_path / "model.onnx"), tmp_path)
    assert check.status == "passed", check.detail
    assert check.figures["weights_packed"] == ("nothing to pack" if scheme == "fp32" else "yes")
    assert 0 < check.measured["peak_memory_bytes"] < 2e9
    assert sorted(path.name for path in (tmp_path / "trt").iterdir()) == ["model.onnx", "model.onnx.data"]


def test_the_time_limit_grows_with_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert rtx.time_limit_s(path) == 600
    with (tmp_path / "model.onnx.data").open("wb") as file:
        file.truncate(2_000_000_000)
    assert rtx.time_limit_s(path) == 2400


def broken_type(b: Any) -> str:
    return str(b.op("n", "MatMul", b.op("n", "Cast", "x", to=TensorProto.FLOAT16), b.constant(b.normal(128, 128))))


def broken_zero_point(b: Any) -> str:
    scale, zero = b.constant(np.array(0.1, np.float32)), b.constant(np.array(3, np.int8))
    return str(b.op("n", "DequantizeLinear", b.op("n", "QuantizeLinear", "x", scale, zero), scale, zero))


def broken_scale(b: Any) -> str:
    return str(b.fake_quantize("n", "x", 0.0))


def broken_resize(b: Any) -> str:
    image = b.op("n", "Unsqueeze", "x", b.constant(np.array([0])))
    return str(b.op("n", "Resize", image, "", "", b.constant(np.array([1, 1, 8, 64])), mode="linear", antialias=1))


def int4_with_int8_input(b: Any) -> str:
    return str(b.op("n", "MatMul", b.fake_quantize("n", "x", 0.1), b.weight("n", b.normal(128, 128), "w4a16", 1)))


@needs_rtx
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (broken_type, "must have same input types"),
        (broken_zero_point, "Non-zero zero point"),
        (broken_scale, "must all be positive"),
        (broken_resize, "Antialiasing is not supported"),
        (int4_with_int8_input, "is_constant"),
    ],
)
def test_what_the_rules_forbid_is_really_refused(
    build: Callable[[Any], str], message: str, builder: Any, tmp_path: Path, save: Any
) -> None:
    y = builder.op("n", "Cast", build(builder), to=TensorProto.FLOAT)
    path = save(builder.model({"x": (1, 16, 128)}, {"y": (y, None)}), tmp_path / "model.onnx")
    check = rtx.compile_graph(path, timeout_s=300).check
    assert check.status == "failed"
    assert message in check.detail


@needs_rtx
def test_a_file_that_is_no_model_fails_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    check = rtx.compile_graph(path, timeout_s=300).check
    assert check.status == "failed"
    assert check.detail


def test_missing_packages_are_not_run_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rtx, "PACKAGES", ("no_such_bindings",))
    check = rtx.compile_graph(tmp_path / "model.onnx").check
    assert (check.status, dict(check.figures)) == ("not_run", {})
    assert "no_such_bindings" in check.detail
    assert "pip install 'vggt-edge[jetson]'" in check.detail


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed", "crashed with SIGSEGV"),
        ("import os; os.abort()", "failed", "crashed with SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "not_run", "want of memory"),
        ("import time; time.sleep(60)", "not_run", "no result after 0.5 s"),
        ("raise RuntimeError('the bindings are broken')", "failed", "the bindings are broken"),
        ("pass", "failed", "ended with 0"),
    ],
)
def test_however_the_compiler_ends_we_go_on(code: str, status: str, message: str) -> None:
    timeout_s = 0.5 if "sleep" in code else 60
    check = rtx.judge(run_worker([sys.executable, "-c", code], timeout_s), "SM86")
    assert check.status == status
    assert message in check.detail


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_full_disk_is_no_refusal(builder: Any, tmp_path: Path, save: Any) -> None:
    """The compiler swallows what its writer raises; the worker says it all the same."""
    model = builder.model({"x": (4, 64)}, {"y": (builder.linear("b/proj", "x", 64, 64, "fp16"), (4, 64))})
    source = save(model, tmp_path / "model.onnx")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "plan").symlink_to("/dev/full")
    outcome = run_worker(
        worker("vggt_edge.runtimes.tensorrt._rtx_worker", str(source), str(tmp_path / "full"), "SM86"), 120
    )
    assert outcome.ending is Ending.NO_ROOM
    assert "No space left" in outcome.detail


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("8.7", "SM86"),
        ("8.6", "SM86"),
        ("8.9", "SM89"),
        ("9.0", "SM89"),  # no Hopper is on offer
        ("10.0", "SM120"),
        ("11.0", "SM120"),  # Thor is a Blackwell and no Ada
        ("12.1", "SM121"),
        ("7.2", "SM75"),
        (None, "SM86"),
    ],
)
def test_the_capability_is_the_nearest_of_the_same_generation(wanted: str | None, offered: str) -> None:
    assert rtx.offered_capability(wanted) == offered


@pytest.mark.parametrize(("target", "offered"), [("rtx-40-laptop", "SM89"), ("rtx-50-laptop", "SM120")])
def test_a_laptop_s_plan_is_compiled_for_its_very_gpu(target: str, offered: str) -> None:
    assert rtx.offered_capability(load_profile(target).compute_capability) == offered
