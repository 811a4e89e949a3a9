"""Layers in FP8 and FP4, up to the file for TensorRT: the numbers of the format, and the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.linear import QuantLayer, stored_layer
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.exporter.graph.build import write_onnx
from vggt_edge.exporter.graph.functions import quantize_fp4
from vggt_edge.runtimes.common.audit import linears
from vggt_edge.runtimes.onnxruntime import open_onnx
from vggt_edge.runtimes.tensorrt import rtx
from vggt_edge.runtimes.tensorrt.interpreter.session import GraphSession
from vggt_edge.runtimes.tensorrt.prepare import prepare
from vggt_edge.runtimes.tensorrt.rules import violations

SCALES = {"fp8": 0.01, "nvfp4": 2.0**-9, "nvfp4a16": None}
NUMBERS = {"fp8": ir.DataType.FLOAT8E4M3FN, "nvfp4": ir.DataType.FLOAT4E2M1, "nvfp4a16": ir.DataType.FLOAT4E2M1}

COMPUTED = {"fp8": "fp8", "nvfp4": "fp4", "nvfp4a16": "fp16"}


def layer_of(scheme: str, inputs: int = 64, outputs: int = 32) -> QuantLayer:
    torch.manual_seed(0)
    source = nn.Linear(inputs, outputs)
    layer = stored_layer(source, Form.of(SCHEMES[scheme], LayerShape.of(source)), input_scale=SCALES[scheme])
    assert isinstance(layer, QuantLayer)
    return layer


@pytest.fixture(params=list(SCALES))
def exported(request: pytest.FixtureRequest, chain: Any, tmp_path: Path) -> tuple[str, QuantLayer, Tensor, Path]:
    layer = layer_of(request.param)
    x = torch.randn(1, 24, 64)
    return request.param, layer, x, write_onnx(chain(x, layer), tmp_path / "model.onnx").path


def test_it_computes_what_the_layer_computes(exported: tuple[str, QuantLayer, Tensor, Path], tmp_path: Path) -> None:
    """ONNX Runtime agrees to the last bits of FP32, and the typed graph as nearly as FP16 does."""
    _, layer, x, source = exported
    prepared = prepare(source, tmp_path / "trt" / "model.onnx")
    with torch.inference_mode():
        expected = layer(x).numpy()
    name = next(iter(open_onnx(source).output_names))
    inputs = {next(iter(open_onnx(source).input_shapes)): x.numpy()}
    np.testing.assert_allclose(open_onnx(source).run(inputs)[name], expected, atol=2e-6)
    actual = GraphSession(prepared.path).run(inputs)[name]
    # FP16 moves some inputs over the border between two numbers.
    assert np.linalg.norm(actual - expected) < 2e-2 * np.linalg.norm(expected)


def test_the_file_holds_the_format(exported: tuple[str, QuantLayer, Tensor, Path], tmp_path: Path) -> None:
    scheme, layer, _, source = exported
    model = ir.load(prepare(source, tmp_path / "trt" / "model.onnx").path)
    assert violations(model) == ()
    stored = [value for value in model.graph.initializers.values() if value.dtype == NUMBERS[scheme]]
    weight = next(value.const_value for value in stored if value.shape is not None and value.shape.numpy() == (64, 32))
    assert weight is not None
    assert weight.nbytes == layer.weight_q.numel() * SCHEMES[scheme].weight.bits // 8
    (found,) = linears(model, "layer0")
    assert (found.weight, found.activation) == (SCHEMES[scheme].weight, SCHEMES[scheme].activation)


def test_the_annotated_graph_is_read_as_the_scheme(exported: tuple[str, QuantLayer, Tensor, Path]) -> None:
    """Also where int8 stands in for FP4."""
    scheme, _, _, source = exported
    (found,) = linears(ir.load(source), "layer0")
    assert found.scheme == scheme


@pytest.mark.parametrize("scheme", ["nvfp4", "nvfp4a16"])
def test_weights_mean_what_onnx_says(scheme: str, chain: Any, tmp_path: Path) -> None:
    """The two DequantizeLinear of the file in ONNX's reference implementation: the layer's weight, bit for bit."""
    layer = layer_of(scheme)
    source = write_onnx(chain(torch.zeros(1, 4, 64), layer), tmp_path / "model.onnx").path
    model = ir.load(prepare(source, tmp_path / "trt" / "model.onnx").path)
    (restored,) = [
        node for node in model.graph if node.inputs[0].dtype == ir.DataType.FLOAT4E2M1 and node.inputs[0].const_value
    ]
    scales = restored.inputs[1].producer()  # type: ignore[union-attr]
    assert scales is not None
    arrays = [_array(value) for value in (restored.inputs[0], *scales.inputs)]
    numbers, blocks, unit = arrays
    assert (numbers.dtype, blocks.dtype) == (ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e4m3fn)
    weight = _dequantized(numbers, _dequantized(blocks, unit, 0, 0), 0, 16)
    np.testing.assert_array_equal(weight.T, layer.dequantized().numpy())


def _array(value: ir.Value | None) -> np.ndarray:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _dequantized(x: np.ndarray, scale: np.ndarray, axis: int, block_size: int) -> np.ndarray:
    from onnx import helper

    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=axis, block_size=block_size)
    kinds = {np.dtype(ml_dtypes.float4_e2m1fn): 23, np.dtype(ml_dtypes.float8_e4m3fn): 17}
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("x", kinds[x.dtype], x.shape),
            helper.make_tensor_value_info("s", 1, scale.shape),
        ],
        [helper.make_tensor_value_info("y", 1, x.shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    (result,) = ReferenceEvaluator(model).run(None, {"x": x, "s": scale})
    return np.asarray(result)


def test_the_function_of_an_input_means_what_the_layer_computes() -> None:
    """Blocks of zeros, of tiny and of large values among them, in ONNX's reference implementation."""
    torch.manual_seed(0)
    x = torch.randn(3, 64)
    x[0, :16], x[1, :16], x[2, :16] = 0, x[1, :16] * 1e-6, x[2, :16] * 1e4
    form = layer_of("nvfp4").form
    (result,) = ReferenceEvaluator(quantize_fp4(23)).run(
        None, {"x": x.numpy(), "scale": np.float32(2.0**-9)}, attributes={}
    )
    np.testing.assert_array_equal(result, form.fake_quantize_input(x, 2.0**-9).numpy())


@pytest.mark.skipif(not rtx.availability().ok, reason=rtx.availability().reason)
@pytest.mark.parametrize("scheme", list(SCALES))
def test_it_compiles_for_blackwell(scheme: str, chain: Any, tmp_path: Path) -> None:
    source = write_onnx(chain(torch.zeros(1, 32, 256), layer_of(scheme, 256, 256)), tmp_path / "model.onnx").path
    path = prepare(source, tmp_path / "trt" / "model.onnx").path
    compiled = rtx.compile_graph(path, capability=rtx.offered_capability("11.0"), timeout_s=300)
    assert compiled.check.status == "passed", compiled.check.detail
    assert compiled.check.figures["capability"] == "SM120"
    assert compiled.reading is not None
    (product,) = compiled.reading.products
    assert product.computed == COMPUTED[scheme]
