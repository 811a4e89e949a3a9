"""Each rule finds the graph that breaks it, names the node, and lets the good graph pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.tensorrt.rules import RULES, enforce, violations

X = {"x": (1, 16, 128)}


def quantized(b: Any, zero: np.ndarray | None, scale: float | list[float] = 0.05) -> str:
    constants = [b.constant(np.array(scale, np.float32))]
    constants += [] if zero is None else [b.constant(zero)]
    return str(b.op("n", "DequantizeLinear", b.op("n", "QuantizeLinear", "x", *constants, axis=2), *constants, axis=2))


def matmul(b: Any, x: str, weight: str) -> str:
    return str(b.op("n", "MatMul", x, weight))


def weight8(b: Any, axis: int = 1) -> str:
    return str(b.weight("n", b.normal(128, 128), "w8a16", axis))


def weight4(b: Any, block: int = 64) -> str:
    stored = b.constant(np.ones((128, 128), np.int8), TensorProto.INT4)
    scale = b.constant(np.ones((128 // block, 128), np.float32))
    return str(b.op("n", "DequantizeLinear", stored, scale, axis=0, block_size=block))


def zeros(count: int | None = None, dtype: type = np.int8) -> np.ndarray:
    return np.zeros(() if count is None else count, dtype)


def unscaled_attention(b: Any) -> str:
    logits = matmul(b, "x", b.op("n", "Transpose", "x", perm=[0, 2, 1]))
    return str(b.op("n", "Softmax", b.op("n", "Mul", logits, b.constant(np.array(0.125, np.float32))), axis=-1))


def decomposed_norm(b: Any) -> str:
    square = b.op("n", "Pow", "x", b.constant(np.array(2, np.float32)))
    return str(b.op("n", "ReduceMean", square, b.constant(np.array([2])), keepdims=1))


def mixed_types(b: Any) -> str:
    return str(b.op("n", "Add", "x", b.constant(np.zeros(128, np.float16))))


def resized(b: Any, **attributes: object) -> str:
    image = b.op("n", "Unsqueeze", "x", b.constant(np.array([0])))
    return str(b.op("n", "Resize", image, "", "", b.constant(np.array([1, 1, 8, 64])), **attributes))


BROKEN: list[tuple[str, str, Callable[[Any], str]]] = [
    ("zero point", "a zero point other than 0", lambda b: matmul(b, quantized(b, np.array(3, np.int8)), weight8(b))),
    ("zero point", "type UINT8", lambda b: matmul(b, quantized(b, zeros(dtype=np.uint8)), weight8(b))),
    ("zero point", "quantizes to UINT8", lambda b: matmul(b, quantized(b, None), weight8(b))),
    ("scale", "not a positive number", lambda b: matmul(b, quantized(b, zeros(), 0.0), weight8(b))),
    ("scale", "not a positive number", lambda b: matmul(b, quantized(b, zeros(), -1.0), weight8(b))),
    (
        "activation granularity",
        "with 128 scales",
        lambda b: matmul(b, quantized(b, zeros(128), [0.1] * 128), weight8(b)),
    ),
    (
        "weight granularity",
        "axis 0, output channels along 1",
        lambda b: matmul(b, quantized(b, zeros()), weight8(b, 0)),
    ),
    ("int4", "in blocks of 32", lambda b: matmul(b, "x", weight4(b, 32))),
    ("int4", "4-bit weights and a quantized input", lambda b: matmul(b, quantized(b, zeros()), weight4(b))),
    ("resize", "mode cubic", lambda b: resized(b, mode="cubic")),
    ("resize", "antialias", lambda b: resized(b, mode="linear", antialias=1)),
    ("native operators", "decomposed Gelu", lambda b: b.op("n", "Erf", "x")),
    ("native operators", "averages squares", decomposed_norm),
    ("linears only", "feeds Add", lambda b: b.op("n", "Add", quantized(b, zeros()), "x")),
    ("linears only", "feeds Softmax", lambda b: b.op("n", "Softmax", b.op("n", "Squeeze", quantized(b, zeros())))),
    ("one type", "mixes FLOAT and FLOAT16", mixed_types),
    ("attention scale", "after the MatMul", unscaled_attention),
]


def loaded(builder: Any, output: str, tmp_path: Path, save: Any, opset: int = 21) -> ir.Model:
    model = builder.model(X, {"y": (output, None)})
    model.opset_import[0].version = opset
    graph = ir.load(save(model, tmp_path / "model.onnx"))
    ir.passes.common.ShapeInferencePass()(graph)
    return graph


@pytest.mark.parametrize(("rule", "message", "build"), BROKEN, ids=[f"{rule}: {what}" for rule, what, _ in BROKEN])
def test_a_broken_rule_is_found_with_its_node_and_a_remedy(
    rule: str, message: str, build: Callable[[Any], str], builder: Any, tmp_path: Path, save: Any
) -> None:
    found = violations(loaded(builder, build(builder), tmp_path, save))
    assert {violation.rule for violation in found} == {rule}
    assert any(message in violation.what for violation in found)
    assert all(violation.node.startswith("n/") and violation.remedy for violation in found)


GOOD: list[Callable[[Any], str]] = [
    lambda b: matmul(b, quantized(b, zeros()), weight8(b)),
    lambda b: matmul(b, "x", weight4(b, 64)),
    lambda b: matmul(b, "x", weight4(b, 128)),
    # Stored as torch does, (out, in), and transposed behind the DequantizeLinear.
    lambda b: matmul(b, "x", b.op("n", "Transpose", weight8(b, 0), perm=[1, 0])),
    lambda b: matmul(b, "x", b.op("n", "Transpose", weight8(b, 0))),
    lambda b: resized(b, mode="linear", coordinate_transformation_mode="align_corners"),
    lambda b: b.norm("n", b.op("n", "Gelu", "x"), 128),
    lambda b: b.conv("n", b.op("n", "Unsqueeze", "x", b.constant(np.array([0]))), (4, 1, 3, 3), "w8a8"),
    lambda b: b.conv(
        "n", b.op("n", "Unsqueeze", "x", b.constant(np.array([0]))), (1, 4, 2, 2), "w8a8", "ConvTranspose"
    ),
]


@pytest.mark.parametrize("build", GOOD)
def test_what_tensorrt_accepts_breaks_no_rule(
    build: Callable[[Any], str], builder: Any, tmp_path: Path, save: Any
) -> None:
    assert violations(loaded(builder, build(builder), tmp_path, save)) == ()


def test_every_rule_is_broken_by_some_graph_here() -> None:
    assert {rule.name for rule in RULES} == {rule for rule, _, _ in BROKEN} | {"opset", "borders"}


def test_another_opset_is_refused(builder: Any, tmp_path: Path, save: Any) -> None:
    model = loaded(builder, builder.op("n", "Relu", "x"), tmp_path, save, opset=22)
    assert [violation.what for violation in violations(model)] == ["is of opset 22"]


def test_an_open_shape_is_refused(builder: Any, tmp_path: Path, save: Any) -> None:
    model = builder.model({"x": ("frames", 16, 128)}, {"y": (builder.op("n", "Relu", "x"), None)})
    (found,) = violations(ir.load(save(model, tmp_path / "model.onnx")))
    assert (found.rule, found.node) == ("borders", "x")


def test_enforce_lists_all_of_it_in_one_error(builder: Any, tmp_path: Path, save: Any) -> None:
    twice = builder.op("n", "Erf", builder.op("n", "Erf", "x"))
    with pytest.raises(LoweringError, match="breaks 2 rules") as caught:
        enforce(loaded(builder, twice, tmp_path, save), "model.onnx")
    assert str(caught.value).count("decomposed Gelu") == 2


def test_activations_quantized_at_run_time_are_refused(builder: Any, tmp_path: Path, save: Any) -> None:
    """Their zero points are computed, and TensorRT takes any for 0."""
    x = builder.fake_quantize_rows("n", builder.op("n", "Reshape", "x", builder.constant(np.array([16, 128]))))
    with pytest.raises(LoweringError, match="zero point"):
        enforce(loaded(builder, matmul(builder, x, weight8(builder)), tmp_path, save), "model.onnx")
