"""A small model with VGGT's outputs, whose weights lie in a file of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

FRAMES = 2
SIZE = (28, 42)


@pytest.fixture(scope="session")
def write_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``write_model(size)``: poses and depth that depend on the images, and the images themselves.

    The field of view goes beyond what a camera can have, and the quaternions have any length and sign.
    """

    def write(size: tuple[int, int] = SIZE) -> Path:
        height, width = size
        rng = np.random.default_rng(5)
        images, maps = (1, FRAMES, 3, height, width), (1, FRAMES, height, width)
        constants = {
            "mix": rng.normal(size=(3, 9)).astype(np.float32),
            "bias": np.array([0.1, -0.3, 0.5, 0.4, -0.2, 0.7, -1.1, 1.0, 1.2], np.float32),
            "axes": np.array([3, 4], np.int64),
            "channel": np.array([2], np.int64),
        }
        nodes = [
            helper.make_node("ReduceMean", ["images", "axes"], ["mean"], "mean", keepdims=0),
            helper.make_node("MatMul", ["mean", "mix"], ["mixed"], "mixed"),
            helper.make_node("Add", ["mixed", "bias"], ["pose_enc"], "pose"),
            helper.make_node("ReduceSum", ["images", "channel"], ["depth"], "depth", keepdims=0),
            helper.make_node("Identity", ["images"], ["seen"], "seen"),
            helper.make_node("Identity", ["depth"], ["depth_conf"], "conf"),
        ]
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, images)],
            [
                helper.make_tensor_value_info("pose_enc", TensorProto.FLOAT, (1, FRAMES, 9)),
                helper.make_tensor_value_info("depth", TensorProto.FLOAT, maps),
                helper.make_tensor_value_info("seen", TensorProto.FLOAT, images),
                helper.make_tensor_value_info("depth_conf", TensorProto.FLOAT, maps),
            ],
            [numpy_helper.from_array(values, name) for name, values in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        path = tmp_path_factory.mktemp("small") / "model.onnx"
        onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=64)
        return path

    return write
