"""Each ONNX operator, translated, saved and run from the file, against ONNX Runtime on the same graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from vggt_edge.calibration.quantization.form import PALETTE_FROM_WEIGHTS, Form, LayerShape
from vggt_edge.calibration.quantization.linear import PaletteLayer
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph import write_onnx
from vggt_edge.runtimes.base import TOP
from vggt_edge.runtimes.common.typed import type_graph
from vggt_edge.runtimes.coreml.interpreter import MilSession
from vggt_edge.runtimes.coreml.mil_graph import mil_name
from vggt_edge.runtimes.coreml.program import load_program
from vggt_edge.runtimes.coreml.save import save_package
from vggt_edge.runtimes.coreml.translate import ImageInput, to_mil
from vggt_edge.runtimes.coreml.translations import TRANSLATIONS
from vggt_edge.runtimes.onnxruntime import open_onnx

Array = np.ndarray
X = (2, 4, 6, 8)
Build = Callable[..., Any]


def i64(*values: int) -> Array:
    return np.array(values, np.int64)


def f32(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def one_operator(
    operator: str, constants: tuple[Array | None, ...], shape: tuple[int, ...], opset: int = 23, **attributes: object
) -> onnx.ModelProto:
    """``x`` and constants through one node; None leaves an optional input out."""
    names = ["x", *("" if constant is None else f"c{index}" for index, constant in enumerate(constants))]
    outputs = ["y"] if operator != "Split" else ["y", "z"]
    node = helper.make_node(operator, names, outputs, name=f"block/{operator}", **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, f"c{index}") for index, array in enumerate(constants) if array is not None],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    return onnx.shape_inference.infer_shapes(model)


def run_both(model: onnx.ModelProto, folder: Path, ios: int, x: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """(ONNX Runtime, the interpreter in FP32 semantics), the graph in FP32 throughout."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "model.onnx"
    onnx.save(model, path)
    expected = open_onnx(path).run({"x": x})
    graph = ir.load(path)
    type_graph(graph, ("block",))
    package = folder / "p.mlpackage"
    save_package(to_mil(graph, ios), package, ios=ios, metadata={}, descriptions={})
    return dict(expected), MilSession(package, "fp32").run({"x": x})


CASES: dict[str, tuple[str, tuple[Array | None, ...], Mapping[str, object]]] = {
    "add a vector": ("Add", (f32(8),), {}),
    "subtract from a constant": ("Sub", (f32(1, 4, 1, 1),), {}),
    "multiply by a number": ("Mul", (np.array(3, np.float32),), {}),
    "divide": ("Div", (f32(8) + 5,), {}),
    "negate": ("Neg", (), {}),
    "exp": ("Exp", (), {}),
    "sign": ("Sign", (), {}),
    "sigmoid": ("Sigmoid", (), {}),
    "identity": ("Identity", (), {}),
    "exact gelu": ("Gelu", (), {}),
    "tanh gelu": ("Gelu", (), {"approximate": "tanh"}),
    "softmax": ("Softmax", (), {"axis": -1}),
    "softmax over channels": ("Softmax", (), {"axis": 1}),
    "layer norm": ("LayerNormalization", (f32(8), f32(8, seed=1)), {"axis": -1, "epsilon": 1e-6}),
    "layer norm without bias": ("LayerNormalization", (f32(8),), {"axis": -1}),
    "reshape": ("Reshape", (i64(8, 6, 8),), {}),
    "transpose": ("Transpose", (), {"perm": [0, 2, 3, 1]}),
    "transpose by default": ("Transpose", (), {}),
    "mean": ("ReduceMean", (i64(2, 3),), {"keepdims": 0}),
    "expand": ("Expand", (i64(3, 2, 4, 6, 8),), {}),
    "concat with a constant": ("Concat", (f32(2, 3, 6, 8),), {"axis": 1}),
    "split": ("Split", (i64(1, 3),), {"axis": 1}),
    "slice": ("Slice", (i64(1, -3), i64(4, 100), i64(1, 3)), {}),
    "slice with steps": ("Slice", (i64(0), i64(8), i64(3), i64(3)), {}),
    "gather one": ("Gather", (np.array(-1, np.int64),), {"axis": 2}),
    "gather several": ("Gather", (i64(2, 0, 2),), {"axis": 1}),
    "matmul": ("MatMul", (f32(8, 5),), {}),
    "convolution": ("Conv", (f32(6, 4, 3, 3), f32(6)), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "dilated convolution": ("Conv", (f32(4, 1, 3, 3),), {"group": 4, "dilations": [2, 2]}),
    "uneven padding": ("Conv", (f32(6, 4, 3, 2),), {"pads": [0, 1, 2, 3]}),
    "transposed convolution": ("ConvTranspose", (f32(4, 3, 2, 2), f32(3)), {"strides": [2, 2]}),
    "resize": (
        "Resize",
        (None, None, i64(2, 4, 11, 15)),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("ios", [17, 18])
@pytest.mark.parametrize("case", list(CASES))
def test_an_operator_computes_the_same(case: str, ios: int, tmp_path: Path) -> None:
    operator, constants, attributes = CASES[case]
    expected, actual = run_both(one_operator(operator, constants, X, **attributes), tmp_path, ios, f32(*X, seed=7))
    assert list(actual) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ios", [17, 18])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_attention_of_any_scale(ios: int, scale: float | None, tmp_path: Path) -> None:
    """One operator with a fixed scale on iOS 18, written out on iOS 17."""
    attributes = {} if scale is None else {"scale": scale}
    model = one_operator("Attention", (f32(2, 4, 6, 8), f32(2, 4, 6, 8, seed=3)), X, **attributes)
    expected, actual = run_both(model, tmp_path, ios, f32(*X, seed=7))
    np.testing.assert_allclose(actual["y"], expected["y"], rtol=1e-4, atol=1e-5)
    kinds = [operation.type for operation in load_program(tmp_path / "p.mlpackage").operations]
    assert ("scaled_dot_product_attention" in kinds) == (ios >= 18)


@pytest.mark.parametrize(("scope", "kind"), [("block/fc1", "linear"), (TOP, "matmul")])
def test_only_a_layers_weight_makes_a_product_a_linear(scope: str, kind: str, tmp_path: Path) -> None:
    """The audit holds every linear to the plan; a product of the model's own arithmetic is no layer."""
    model = one_operator("MatMul", (f32(8, 5),), X)
    product = model.graph.node[0]
    product.name, product.input[0] = f"{scope}/MatMul_1", "positive"
    model.graph.node.insert(0, helper.make_node("Relu", ["x"], ["positive"], name="block/Relu"))
    model = onnx.shape_inference.infer_shapes(model)
    expected, actual = run_both(model, tmp_path, 18, f32(*X, seed=7))
    np.testing.assert_allclose(actual["y"], expected["y"], rtol=2e-3, atol=1e-3)  # FP16 outside the block
    kinds = {operation.type for operation in load_program(tmp_path / "p.mlpackage").operations}
    assert kinds & {"linear", "matmul"} == {kind}


def test_every_translation_is_tried_here_or_in_the_backend_tests() -> None:
    """Gemm, Cast, Quantize- and DequantizeLinear and the activations of whole graphs are in test_backend.py."""
    tried = {operator for operator, _, _ in CASES.values()} | {"Attention"}
    elsewhere = {"Gemm", "Cast", "QuantizeLinear", "DequantizeLinear", "Relu", "Abs"}
    plain = {"Sqrt", "Tanh", "Sin", "Cos"}
    assert set(TRANSLATIONS) - {"Flatten", "Squeeze", "Unsqueeze"} == tried | elsewhere | plain


@pytest.mark.parametrize(
    ("operator", "constants", "attributes", "why"),
    [
        ("Resize", (None, None, i64(2, 4, 11, 15)), {"mode": "nearest"}, "nearest"),
        ("Slice", (i64(5), i64(0), i64(2), i64(-1)), {}, "backwards"),
        ("LayerNormalization", (f32(6, 8),), {"axis": 2}, "several axes"),
        ("Erf", (), {}, "no translation"),
    ],
)
def test_a_form_without_a_translation_names_the_node(
    operator: str, constants: tuple[Array | None, ...], attributes: dict[str, object], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(one_operator(operator, constants, X, **attributes), path)
    graph = ir.load(path)
    type_graph(graph)
    with pytest.raises(LoweringError, match=why) as caught:
        to_mil(graph, 18)
    assert caught.value.where == f"block/{operator}"


@given(
    name=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
)
def test_names_become_what_mil_allows(name: str) -> None:
    assert all(character.isalnum() or character == "_" for character in mil_name(name))
    assert mil_name(mil_name(name)) == mil_name(name)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.sampled_from([16, 48, 9]), columns=st.integers(2, 9), bits=st.sampled_from([4, 6]), seed=st.integers(0, 9)
)
def test_palettes_of_linears_arrive_as_they_are(
    rows: int, columns: int, bits: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From torch through ONNX into the package: the same values, packed to their bits."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    layer = palette(nn.Linear(columns, rows), bits)
    x = torch.randn(5, columns)
    package, actual = through_package(layer, x, tmp_path_factory.mktemp("palette"))
    torch.testing.assert_close(torch.from_numpy(actual), layer(x), rtol=1e-3, atol=1e-3)
    (weight,) = (one for one in load_program(package).operations if one.type == "constexpr_lut_to_dense")
    (index,) = weight.inputs["indices"]
    assert index.type.dtype == f"uint{bits}"
    assert np.array_equal(index.numpy(), layer.weight_index.numpy())


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("kind", ["conv", "transposed"])
def test_palettes_of_convolutions_arrive_as_they_are(kind: str, bits: int, tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(1)
    sources = {"conv": nn.Conv2d(3, 32, 3, padding=1), "transposed": nn.ConvTranspose2d(3, 32, 2, stride=2)}
    layer = palette(sources[kind], bits)
    x = torch.randn(1, 3, 6, 6)
    _, actual = through_package(layer, x, tmp_path)
    torch.testing.assert_close(torch.from_numpy(actual), layer(x), rtol=1e-3, atol=2e-3)


def palette(layer: Any, bits: int) -> PaletteLayer:
    """As a layer of more weights would be stored."""
    large = replace(LayerShape.of(layer), weights=PALETTE_FROM_WEIGHTS)
    return PaletteLayer(layer, Form.of(SCHEMES[f"p{bits}a16"], large))


def through_package(layer: Any, x: Any, folder: Path) -> tuple[Path, Array]:
    """Write a one-layer model as the exporter does, lower it, and run the package in FP32 semantics."""
    from torch import nn

    from vggt_edge.calibration.stages.walk import Stage

    class OneLayer(nn.Module):
        special_tokens, output_names = 0, ("y",)

        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def example_input(self) -> Any:
            return x

        def blocks(self) -> dict[str, nn.Module]:
            return {"layer": self.layer}

        def constants(self) -> dict[str, Any]:
            return {}

        def release(self, stage: Stage) -> None:
            pass

        def stages(self) -> tuple[Stage, ...]:
            return (
                Stage("layer", "layer", ("images",), ("y",), self.layer, lambda module, x: (module(x),), ("layer",)),
            )

    written = write_onnx(OneLayer().eval(), folder / "model.onnx")  # type: ignore[arg-type]
    graph = ir.load(written.path)
    type_graph(graph)
    package = folder / "p.mlpackage"
    save_package(to_mil(graph, 18), package, ios=18, metadata={}, descriptions={})
    return package, MilSession(package, "fp32").run({"images": x.numpy()})["y"]


def test_images_are_stacked_and_scaled(tmp_path: Path) -> None:
    """Frames of bytes come out as the tensor that the graph would have been given."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 3, 14, 28)).astype(np.float32)
    path = tmp_path / "model.onnx"
    onnx.save(one_operator("Identity", (), frames.shape), path)
    graph = ir.load(path)
    type_graph(graph)
    images, package = ImageInput(2, 14, 28), tmp_path / "p.mlpackage"
    program = to_mil(graph, 18, images)
    save_package(program, package, ios=18, metadata={}, descriptions={"image_1": "frame 1"}, images=images)
    features = {feature.name: feature for feature in load_program(package).description.inputs}
    assert {(feature.kind, feature.layout) for feature in features.values()} == {("image", "RGB")}
    assert features["image_1"].description == "frame 1"
    given_frames = {f"image_{index}": frames[:, index] for index in range(2)}
    np.testing.assert_allclose(MilSession(package, "fp32").run(given_frames)["y"], frames / 255, rtol=1e-6)
