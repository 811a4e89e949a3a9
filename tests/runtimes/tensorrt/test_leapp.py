"""The description for LEAPP, read as YAML by a library, as LEAPP's own inference manager reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from vggt_edge.runtimes.common.audit import load_onnx
from vggt_edge.runtimes.tensorrt.leapp import write_leapp
from vggt_edge.runtimes.tensorrt.prepare import prepare


def test_it_wires_every_input_and_output_of_the_graph(write_mini: Callable[..., Path], tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    graph = prepare(write_mini("w8a8"), tmp_path / "trt" / "model.onnx").path
    write_leapp(graph.parent, graph, load_onnx(graph))
    read = yaml.safe_load((graph.parent / "leapp.yaml").read_text())
    model = read["models"]["vggt"]
    content = graph.read_bytes()
    assert model["parameters"] == {
        "backend": "onnx",
        "model_path": "model.onnx",
        "md5sum": hashlib.md5(content).hexdigest(),
        "sha256sum": hashlib.sha256(content).hexdigest(),
    }
    stored = onnx.load(graph, load_external_data=False).graph
    for side, values in (("inputs", stored.input), ("outputs", stored.output)):
        shapes = {one.name: [int(axis.dim_value) for axis in one.type.tensor_type.shape.dim] for one in values}
        assert {one["name"]: one["shape"] for one in model[side]} == shapes
        assert read["pipeline"][side] == {"vggt": list(shapes)}
        assert {one["dtype"] for one in model[side]} == {"float32"}
