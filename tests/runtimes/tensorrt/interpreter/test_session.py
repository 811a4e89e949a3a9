"""FP16 means FP16: results are rounded to it one by one, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.runtimes.tensorrt.interpreter.session import GraphSession


def doubled_and_halved(path: Path) -> Path:
    """images (3,) to FP16, times 200, then divided by 200: a runtime that joins the two never rounds between them."""
    factor = numpy_helper.from_array(np.array(200, np.float16), "factor")
    nodes = [
        helper.make_node("Cast", ["images"], ["half"], name="in/Cast", to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "factor"], ["large"], name="block/Mul"),
        helper.make_node("Div", ["large", "factor"], ["small"], name="block/Div"),
        helper.make_node("Cast", ["small"], ["out"], name="out/Cast", to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("images", "out")]
    graph = helper.make_graph(nodes, "halves", ends[:1], ends[1:], [factor])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_every_result_is_rounded_to_its_type(tmp_path: Path) -> None:
    images = np.array([0.1, 1.001, 300.3], np.float32)
    half, factor = images.astype(np.float16), np.float16(200)
    ours = GraphSession(doubled_and_halved(tmp_path / "model.onnx")).run({"images": images})["out"]
    np.testing.assert_array_equal(ours, ((half * factor) / factor).astype(np.float32))


def test_an_overflow_names_its_node(tmp_path: Path) -> None:
    session = GraphSession(doubled_and_halved(tmp_path / "model.onnx"))
    with pytest.raises(LoweringError, match=r"block/Mul \(Mul\) computes 8e\+04, which FP16 cannot hold"):
        session.run({"images": np.array([1, 400, 2], np.float32)})


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"frames": np.zeros(3, np.float32)},
        {"images": np.zeros(2, np.float32)},
        {"images": np.zeros(3, np.float64)},
        {"images": np.array([1, np.nan, 2], np.float32)},
    ],
)
def test_wrong_inputs_are_refused(tmp_path: Path, inputs: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        GraphSession(doubled_and_halved(tmp_path / "model.onnx")).run(inputs)


def test_no_graph_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no graph here"):
        GraphSession(tmp_path / "model.onnx")


def damaged(path: Path, damage: Callable[[onnx.GraphProto], object]) -> Path:
    """A copy of the graph with something changed."""
    model = onnx.load(doubled_and_halved(path))
    damage(model.graph)
    onnx.save(model, path)
    return path


def test_inputs_without_a_fixed_shape_are_refused(tmp_path: Path) -> None:
    """There is nothing to check inputs against."""

    def damage(graph: onnx.GraphProto) -> None:
        graph.input[0].type.tensor_type.shape.dim[0].dim_param = "any"

    with pytest.raises(InputError, match="images has no fixed shape"):
        GraphSession(damaged(tmp_path / "model.onnx", damage))


def values_of_another_type(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_type = onnx.TensorProto.INT64
    tensor.uint64_data.append(1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda graph: graph.node[1].output.append("more"), "has 2 outputs instead of 1"),
        (lambda graph: graph.initializer[0].__setattr__("raw_data", b"x"), "the weight factor cannot be read"),
        (lambda graph: values_of_another_type(graph.initializer[0]), "the weight factor cannot be read"),
    ],
)
def test_a_damaged_node_or_weight_is_named(
    tmp_path: Path, damage: Callable[[onnx.GraphProto], object], reason: str
) -> None:
    """Faults that ONNX itself does not notice."""
    with pytest.raises(InputError, match=reason):
        GraphSession(damaged(tmp_path / "model.onnx", damage)).run({"images": np.ones(3, np.float32)})
