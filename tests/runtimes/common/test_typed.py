"""What the typed graph computes in which type, where a processor can hand over once only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.runtimes.common.typed import fp32_names, type_graph
from vggt_edge.runtimes.onnxruntime import open_onnx

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT


def goes_back(model: ir.Model) -> list[str]:
    """Casts from FP32 to FP16 behind the graph's inputs."""
    return [
        node.name or ""
        for node in model.graph
        if node.op_type == "Cast"
        and node.attributes.get_int("to") == HALF
        and node.inputs[0] is not None
        and node.inputs[0].dtype == FLOAT
        and not node.inputs[0].is_graph_input()
    ]


@pytest.mark.parametrize("one_way", [False, True])
def test_the_pose_that_is_read_again_goes_back_to_fp16_unless_told(
    write_mini: Callable[..., Path], one_way: bool
) -> None:
    """The mini graph's accumulator: a first pose is an output's part, and starts the second refinement."""
    model = ir.load(write_mini())
    type_graph(model, one_way=one_way)
    assert bool(goes_back(model)) != one_way


def test_twins_compute_what_the_source_computes(
    write_mini: Callable[..., Path], tokens: np.ndarray, tmp_path: Path
) -> None:
    source = write_mini()
    model = ir.load(source)
    islands = type_graph(model, one_way=True)
    assert not any(name.endswith("_twin") for name in islands)
    assert any((node.name or "").endswith("_twin") for node in model.graph)
    ir.save(model, tmp_path / "typed.onnx")
    expected, actual = (open_onnx(path).run({"tokens": tokens}) for path in (source, tmp_path / "typed.onnx"))
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=0.02, atol=0.01)


def test_fp32_names_are_those_of_scan_and_plan(make_plan: Callable[..., PrecisionPlan]) -> None:
    plan = make_plan("fp32", "w8a8", "fp16")
    assert fp32_names(("depth_head", "global_blocks.0"), plan) == ("depth_head", "frame_blocks.0", "global_blocks.0")
