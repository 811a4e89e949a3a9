"""The ONNX Runtime backend: exact in oracle mode, close in fast mode, strict about what it is fed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save_file

from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.devices.profile import load_profile
from vggt_edge.runtimes import all_backends
from vggt_edge.runtimes.onnxruntime import BACKEND, open_onnx, session_options

Array = np.ndarray
MIXED = ("w8a8", "w4a16", "w8a8")


def sqnr_db(actual: Array, expected: Array) -> float:
    noise = float(np.square(actual - expected).sum())
    return float(10 * np.log10(float(np.square(expected).sum()) / max(noise, 1e-30)))


def test_the_oracle_does_what_the_onnx_standard_says(builder: Any, tmp_path: Path, save: Any) -> None:
    """Against the reference evaluator of the onnx package, an implementation of its own, on each kind of linear."""
    x = "x"
    for index, scheme in enumerate(("fp16", "w8a8", "w8a16", "w4a16", "w8a8d", "w4a8d")):
        x = builder.linear(f"blocks.{index}/fc", x, 128, 128, scheme)
    path = save(builder.model({"x": (1, 16, 128)}, {"y": (x, (1, 16, 128))}), tmp_path / "model.onnx")
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 16, 128)).astype(np.float32)}
    (expected,) = ReferenceEvaluator(str(path)).run(None, inputs)
    assert sqnr_db(open_onnx(path).run(inputs)["y"], expected) > 60


@pytest.mark.parametrize("schemes", [MIXED, ("w8a16",) * 3, ("fp16",) * 3, ("w8a8d", "w4a8d", "w8a8d")], ids="-".join)
def test_fast_mode_stays_close_to_the_oracle(
    schemes: tuple[str, ...], write_mini: Callable[..., Path], tokens: Array
) -> None:
    path = write_mini(*schemes)
    oracle, fast = (open_onnx(path, mode).run({"tokens": tokens}) for mode in ("oracle", "fast"))
    for name, expected in oracle.items():
        assert sqnr_db(fast[name], expected) > 35, name


def test_dynamic_activations_are_run_here_and_in_no_backend_that_fixes_its_scales() -> None:
    every = replace(load_profile("host-cpu"), schemes=tuple(SCHEMES), on_request=())
    takers = {one.name for one in all_backends() if {"w8a8d", "w4a8d"} & set(one.schemes(every))}
    assert "onnxruntime" in takers
    assert not takers & {"coreai", "coreml", "tensorrt"}


def test_fast_mode_runs_per_channel_weights_without_zero_points(builder: Any, tmp_path: Path, save: Any) -> None:
    """Legal ONNX, and what onnxruntime 1.31 breaks when it turns int8 into uint8 by itself."""
    x = builder.fake_quantize("head/conv", "x", 0.05)
    weight = builder.weight("head/conv", builder.normal(4, 16, 1, 1), "w8a16", axis=0)
    y = builder.op("head/conv", "Conv", x, weight)
    for node in builder.nodes:
        if node.op_type == "DequantizeLinear" and node.output[0] == weight:
            del node.input[2]
    path = save(builder.model({"x": (1, 16, 8, 8)}, {"y": (y, (1, 4, 8, 8))}), tmp_path / "model.onnx")
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)}
    assert sqnr_db(open_onnx(path, "fast").run(inputs)["y"], open_onnx(path).run(inputs)["y"]) > 40


def test_the_same_input_gives_the_same_bits(write_mini: Callable[..., Path], tokens: Array) -> None:
    path = write_mini(*MIXED)
    first, second = (open_onnx(path, "fast", threads=2).run({"tokens": tokens}) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_number_of_threads_changes_the_last_bits_at_most(write_mini: Callable[..., Path], tokens: Array) -> None:
    path = write_mini("fp16", "w4a16", "w8a16")
    one, two = (open_onnx(path, threads=threads).run({"tokens": tokens}) for threads in (1, 2))
    assert all(sqnr_db(two[name], one[name]) > 110 for name in one)


def test_a_weight_is_dequantized_when_it_is_needed(builder: Any, tmp_path: Path, save: Any) -> None:
    """ONNX Runtime by default restores all weights of this graph before the first product."""
    x = "x"
    for layer in range(4):
        x = builder.op(f"b/{layer}", "Tanh", builder.linear(f"b/{layer}", x, 64, 64, "w8a16"))
    path = save(builder.model({"x": (16, 64)}, {"y": (x, (16, 64))}), tmp_path / "model.onnx")
    options, _ = session_options(path, "oracle")
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(str(path), options)
    session.run(None, {"x": np.zeros((16, 64), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event["args"]["op_name"] for event in events if event.get("cat") == "Node" and event.get("dur", 0) >= 0]
    order = [name for name in ran if name in ("DequantizeLinear", "MatMul")]
    assert order == ["DequantizeLinear", "MatMul"] * 4


@pytest.mark.parametrize(
    ("scheme", "fused"), [("w8a8", "MatMulIntegerToFloat"), ("w4a16", "MatMulNBits"), ("fp32", "MatMul")]
)
def test_fast_mode_fuses_in_opset_23(scheme: str, fused: str, builder: Any, tmp_path: Path, save: Any) -> None:
    """Else its int8 figure would be that of fake quantization."""
    model = builder.model({"x": (16, 256)}, {"y": (builder.linear("b/fc", "x", 256, 256, scheme), (16, 256))})
    model.opset_import[0].version, model.ir_version = 23, 11
    path = save(model, tmp_path / "model.onnx")
    options, disabled = session_options(path, "fast")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, disabled_optimizers=disabled)
    assert fused in {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "wrong inputs"),
        ({"image": np.zeros((1, 64, 128), np.float32)}, "wrong inputs: image"),
        ({"tokens": np.zeros((1, 64, 64), np.float32)}, r"tokens is float32 \(1, 64, 64\)"),
        ({"tokens": np.zeros((1, 64, 128), np.float64)}, "tokens is float64"),
    ],
)
def test_wrong_inputs_are_refused_by_name(
    inputs: dict[str, Array], message: str, write_mini: Callable[..., Path]
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_onnx(write_mini()).run(inputs)
    assert "tokens" in caught.value.expected


def test_a_file_that_is_no_model_is_an_input_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError) as caught:
        BACKEND.open(tmp_path)
    assert str(path) in str(caught.value)


def test_missing_weights_are_an_input_error(write_mini: Callable[..., Path]) -> None:
    path = write_mini()
    path.with_name("model.onnx.data").unlink()
    with pytest.raises(InputError, match="cannot load"):
        open_onnx(path)


def test_lowering_refuses_a_graph_that_gives_nan(
    builder: Any, tmp_path: Path, save: Any, make_plan: Callable[..., Any]
) -> None:
    from vggt_edge.devices.profile import load_profile
    from vggt_edge.runtimes.base import AnnotatedGraph

    x = builder.block("frame_blocks.0", "tokens", "fp16")
    x = builder.block("global_blocks.0", x, "fp16")
    depth, _confidence = builder.dense_head("depth_head", x, "fp16")
    broken = builder.op("depth_head", "Log", builder.op("depth_head", "Neg", depth))
    path = save(builder.model({"tokens": (1, 64, 128)}, {"depth": (broken, (1, 1, 32, 32))}), tmp_path / "model.onnx")
    graph = AnnotatedGraph(None, path, ("tokens",), ("depth",), ("depth_head",))  # type: ignore[arg-type]
    with pytest.raises(LoweringError, match="NaN or Inf for depth"):
        BACKEND.lower(graph, make_plan(), load_profile("host-cpu"), tmp_path)


def test_lowering_writes_nothing(
    write_mini: Callable[..., Path], make_plan: Callable[..., Any], tmp_path: Path
) -> None:
    from vggt_edge.devices.profile import load_profile
    from vggt_edge.runtimes.base import AnnotatedGraph

    path = write_mini(*MIXED)
    before = sorted(tmp_path.rglob("*"))
    graph = AnnotatedGraph(None, path, ("tokens",), ("depth",), ("depth_head",))  # type: ignore[arg-type]
    lowered = BACKEND.lower(graph, make_plan(*MIXED), load_profile("host-cpu"), tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    assert lowered.files == ("model.onnx", "model.onnx.data")
    assert onnx.load(path, load_external_data=False).graph.name == "graph"


def test_the_readme_of_a_bundle_reproduces_the_report(
    write_mini: Callable[..., Path], tokens: Array, tmp_path: Path
) -> None:
    """Its Python block, run as a user would, in the bundle's folder."""
    path = write_mini("w4a16", "w4a16", "w8a16")
    inputs = {"tokens": tokens}
    outputs = open_onnx(path).run(inputs)
    groups = {"input": inputs, "simulation": outputs}
    save_file({f"{group}/{name}": value for group, arrays in groups.items() for name, value in arrays.items()},
              path.parent / "golden.safetensors")  # fmt: skip
    BACKEND.write_golden(path.parent, inputs, outputs, {})
    (code,) = re.findall(r"```python\n(.*?)```", (path.parent / "README.md").read_text(), re.DOTALL)
    ran = subprocess.run([sys.executable, "-c", code], cwd=path.parent, capture_output=True, text=True, check=True)
    decibels = {line.split()[0]: float(line.split()[1]) for line in ran.stdout.splitlines()}
    assert set(decibels) == set(outputs)
    assert min(decibels.values()) > 100


def test_a_graph_that_fails_while_it_runs_is_one_clear_error(builder: Any, tmp_path: Path, save: Any) -> None:
    """The graph loads, since the shape is only known from the values. The library prints nothing of its own."""
    shape = builder.op("a", "Cast", builder.op("a", "ReduceSum", "x", builder.constant(np.array([0]))), to=7)
    y = builder.op("a", "Reshape", "x", shape)
    path = save(builder.model({"x": (4,)}, {"y": (y, (4,))}), tmp_path / "model.onnx")
    session = open_onnx(path)
    assert session.run({"x": np.ones(4, np.float32)})["y"].shape == (4,)
    with pytest.raises(InputError, match="cannot run the model"):
        session.run({"x": np.full(4, 3, np.float32)})
