"""Every kernel against ONNX's own reference implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.common.fp4 import DYNAMIC_QUANTIZE
from vggt_edge.runtimes.tensorrt.interpreter.kernels import KERNELS
from vggt_edge.runtimes.tensorrt.interpreter.session import GraphSession

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 6)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
IMAGE = RNG.normal(size=(1, 4, 5, 6)).astype(np.float32)
KERNEL = RNG.normal(size=(8, 2, 3, 3)).astype(np.float32)
UP = RNG.normal(size=(4, 3, 2, 2)).astype(np.float32)
INT8 = RNG.integers(-127, 127, size=(4, 6), dtype=np.int8)


def integers(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


CASES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    **{
        name: (name, [X], {})
        for name in ("Abs", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Relu", "Sigmoid", "Sign", "Sin")
    },
    **{name: (name, [X], {}) for name in ("Sin", "Softplus", "Tanh", "Softmax", "Gelu")},
    **{name: (name, [POSITIVE], {}) for name in ("Log", "Sqrt")},
    **{name: (name, [X, POSITIVE], {}) for name in ("Add", "Div", "Max", "Min", "Mul", "Sub")},
    "Pow": ("Pow", [POSITIVE, X], {}),
    "Gelu by tanh": ("Gelu", [X], {"approximate": "tanh"}),
    "Clip": ("Clip", [X, np.float32(-0.5), np.float32(0.5)], {}),
    "Softmax of the middle": ("Softmax", [X], {"axis": 1}),
    "LayerNormalization": ("LayerNormalization", [X, X[0, 0], X[0, 1]], {"axis": -1, "epsilon": 1e-6}),
    "MatMul": ("MatMul", [X, np.swapaxes(X, 1, 2).copy()], {}),
    "Gemm": ("Gemm", [X[0], X[1], X[0, :, :4].copy()], {"transB": 1, "alpha": 2.0, "beta": 0.5}),
    "Conv": ("Conv", [IMAGE, KERNEL, X[0, :2].reshape(-1)[:8]], {"pads": [1, 1, 1, 1], "strides": [2, 2], "group": 2}),
    "ConvTranspose": ("ConvTranspose", [IMAGE, UP], {"strides": [2, 2]}),
    "Reshape": ("Reshape", [X, integers(0, -1)], {}),
    "Transpose": ("Transpose", [X], {"perm": [2, 0, 1]}),
    "Concat": ("Concat", [X, X], {"axis": 1}),
    "Slice": ("Slice", [X, integers(1), integers(5), integers(-1), integers(2)], {}),
    "Gather": ("Gather", [X, np.array([[0, -1], [2, 1]], np.int64)], {"axis": 1}),
    "Expand": ("Expand", [X[:, :1], integers(2, 4, 6)], {}),
    "Squeeze": ("Squeeze", [X[:, :1], integers(1)], {}),
    "Unsqueeze": ("Unsqueeze", [X, integers(0, 4)], {}),
    "ReduceMean": ("ReduceMean", [X, integers(-1)], {}),
    "ReduceSum": ("ReduceSum", [X, integers(0, 2)], {"keepdims": 0}),
    "DequantizeLinear": ("DequantizeLinear", [INT8, np.float32(0.1), np.int8(3)], {}),
    "DequantizeLinear of channels": ("DequantizeLinear", [INT8, POSITIVE[0, :, 0].copy()], {"axis": 0}),
    "DequantizeLinear of blocks": ("DequantizeLinear", [INT8, POSITIVE[0, :, :3].copy()], {"axis": 1, "block_size": 2}),
    "QuantizeLinear": ("QuantizeLinear", [X * 50, np.float32(0.3), np.int8(0)], {}),
    "DequantizeLinear of FP8": ("DequantizeLinear", [X.astype(ml_dtypes.float8_e4m3fn), np.float32(0.3)], {}),
    "Where": ("Where", [X > 0, X, POSITIVE], {}),
    "Equal": ("Equal", [INT8, np.abs(INT8)], {}),
    "Cast": ("Cast", [X], {"to": TensorProto.FLOAT16}),
}


def model_of(operator: str, values: list[Any], attributes: dict[str, Any], outputs: int = 1) -> onnx.ModelProto:
    """One node; its first operand is the graph's input, all others are constants."""
    arrays = [np.asarray(value) for value in values]
    names = [f"operand_{index}" for index in range(len(arrays))]
    results = [f"result_{index}" for index in range(outputs)]
    node = helper.make_node(operator, names, results, name="node", **attributes)
    constants = [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
    graph = helper.make_graph(
        [node, helper.make_node("Identity", ["images"], ["unused"], name="unused")],
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1])],
        [helper.make_empty_tensor_value_info(name) for name in results],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(path: Path) -> list[np.ndarray[Any, Any]]:
    return list(GraphSession(path).run({"images": np.zeros(1, np.float32)}).values())


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_computes_what_onnx_says(name: str, tmp_path: Path) -> None:
    model = model_of(*CASES[name])
    onnx.save(model, tmp_path / "model.onnx")
    (ours,) = run(tmp_path / "model.onnx")
    (wanted,) = ReferenceEvaluator(model).run(None, {"images": np.zeros(1, np.float32)})
    assert ours.shape == wanted.shape
    np.testing.assert_allclose(ours, wanted.astype(np.float32), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("sizes", "attributes"), [([1, 3], {"axis": 1}), (None, {"axis": 1, "num_outputs": 2})])
def test_split(sizes: list[int] | None, attributes: dict[str, Any], tmp_path: Path) -> None:
    model = model_of("Split", [X, *([integers(*sizes)] if sizes else [])], attributes, outputs=2)
    onnx.save(model, tmp_path / "model.onnx")
    wanted = ReferenceEvaluator(model).run(None, {"images": np.zeros(1, np.float32)})
    for ours, theirs in zip(run(tmp_path / "model.onnx"), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_resize_with_aligned_corners_keeps_the_corners(tmp_path: Path) -> None:
    """ONNX's reference does not know the form that TensorRT takes, so it is held against its definition."""
    attributes = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    empty = np.zeros(0, np.float32)
    onnx.save(model_of("Resize", [IMAGE, empty, empty, integers(1, 4, 9, 11)], attributes), tmp_path / "model.onnx")
    (ours,) = run(tmp_path / "model.onnx")
    np.testing.assert_allclose(ours[:, :, ::2, ::2], IMAGE, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[:, :, 1::2, ::2], (IMAGE[:, :, :-1] + IMAGE[:, :, 1:]) / 2, rtol=1e-5, atol=1e-6)


def test_every_kernel_has_a_case() -> None:
    """Blocks of FP4 are TensorRT's own: tests/exporter/graph/test_narrow_floats.py compares them."""
    assert {operator for operator, _, _ in CASES.values()} | {"Split", "Resize", DYNAMIC_QUANTIZE} == set(KERNELS)


def test_an_unknown_operator_is_refused_by_name(tmp_path: Path) -> None:
    onnx.save(model_of("Hardmax", [X], {}), tmp_path / "model.onnx")
    with pytest.raises(InputError, match="Hardmax"):
        GraphSession(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("operator", "values", "attributes"),
    [
        ("Slice", [X, integers(5), integers(0), integers(-1), integers(-1)], {}),
        ("Conv", [IMAGE, KERNEL], {"pads": [0, 0, 1, 1], "group": 2}),
        ("LayerNormalization", [X, X[0]], {"axis": 1}),
    ],
)
def test_a_form_without_a_kernel_names_its_node(
    operator: str, values: list[Any], attributes: dict[str, Any], tmp_path: Path
) -> None:
    onnx.save(model_of(operator, values, attributes), tmp_path / "model.onnx")
    with pytest.raises(InputError, match=f"node node .{operator}. cannot be computed"):
        run(tmp_path / "model.onnx")
