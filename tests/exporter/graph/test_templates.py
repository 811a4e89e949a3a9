"""A layer or two as a graph: equal to torch, one template for twins, and what cannot be translated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.linear import Source, stored_layer
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.calibration.stages.walk import IMAGES, Stage
from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph.build import write_onnx


def relative(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


def stored_as(layer: Source, scheme: str, scale: float | None = None, group: int | None = None) -> Any:
    return stored_layer(layer, Form.of(SCHEMES[scheme], LayerShape.of(layer), group), input_scale=scale)


class _OneLayer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * 2


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: stored_as(nn.Linear(64, 8), "w8a8", 0.02), (1, 5, 64)),
        (lambda: stored_as(nn.Linear(128, 8, bias=False), "w4a16", group=32), (1, 5, 128)),
        (lambda: stored_as(nn.Linear(128, 7), "w4a16", group=128), (1, 5, 128)),
        (lambda: stored_as(nn.Conv2d(4, 6, 3, stride=2, padding=1), "w8a8", 0.02), (1, 4, 9, 9)),
        (lambda: stored_as(nn.ConvTranspose2d(4, 6, 4, stride=4), "w8a8", 0.02), (1, 4, 3, 3)),
        (lambda: stored_as(nn.ConvTranspose2d(4, 6, 2, stride=2), "fp16"), (1, 4, 3, 3)),
        (lambda: stored_as(nn.Linear(64, 8), "fp8", 0.02), (1, 5, 64)),
        (lambda: stored_as(nn.Linear(64, 8), "nvfp4", 2.0**-10), (1, 5, 64)),
        (lambda: stored_as(nn.Linear(64, 8), "nvfp4a16"), (1, 5, 64)),
        (lambda: stored_as(nn.Linear(64, 8), "w8a8d"), (5, 64)),
        (lambda: stored_as(nn.Linear(64, 8, bias=False), "w8a8d"), (2, 5, 64)),
        (lambda: stored_as(nn.Linear(64, 8), "w8a8d"), (64,)),
        (lambda: stored_as(nn.Linear(64, 8), "w4a8d"), (5, 64)),
        (lambda: stored_as(nn.Conv2d(4, 6, 3, stride=2, padding=1), "w8a8d"), (3, 4, 9, 9)),
        (lambda: stored_as(nn.Conv2d(1, 6, 3), "w8a8d"), (3, 1, 9, 9)),
        (lambda: stored_as(nn.ConvTranspose2d(4, 6, 4, stride=4), "w8a8d"), (1, 4, 3, 3)),
    ],
)
def test_each_kind_of_layer_agrees(
    tmp_path: Path, run_onnx: Any, chain: Any, make: Callable[[], nn.Module], shape: Any
) -> None:
    torch.manual_seed(0)
    layer, x = _OneLayer(make()).eval(), torch.randn(shape)
    file = write_onnx(chain(x, layer), tmp_path / "m.onnx")
    with torch.inference_mode():
        expected = layer(x).numpy()
    assert relative(run_onnx(file.path, x.numpy())["y0"], expected) < 1e-6


def test_dynamic_inputs_agree_on_rows_that_are_zero_constant_tiny_or_with_an_outlier(
    tmp_path: Path, run_onnx: Any, chain: Any
) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 64)
    x[0], x[1], x[2], x[3, 5] = 0, 3.0, -2.0, 1e15
    x[4] *= 1e-15
    x[5] = x[5].abs()
    layer = stored_as(nn.Linear(64, 8, bias=False), "w8a8d")
    result = run_onnx(write_onnx(chain(x, layer), tmp_path / "m.onnx").path, x.numpy())["y0"]
    with torch.inference_mode():
        expected = layer(x).numpy()
    assert not result[0].any()
    for row in range(1, 7):
        assert relative(result[row], expected[row]) < 1e-5, row


def test_names_of_a_dynamic_layer_are_those_of_its_module(tmp_path: Path, chain: Any) -> None:
    layer = _OneLayer(stored_as(nn.Linear(64, 8), "w4a8d"))
    graph = onnx.load(write_onnx(chain(torch.zeros(5, 64), layer), tmp_path / "m.onnx").path).graph
    assert {node.name.rpartition("/")[0] for node in graph.node} == {"layer0/layer", "layer0"}
    (quantize,) = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert [(attribute.name, attribute.i) for attribute in quantize.attribute] == [("axis", 0)]
    stored = {initializer.name: initializer for initializer in graph.initializer}
    assert not stored.keys() & {quantize.input[1], quantize.input[2]}
    assert {stored[f"layer0.layer.{name}"].data_type for name in ("weight_q_t", "weight_scale_t")} == {
        onnx.TensorProto.INT4, onnx.TensorProto.FLOAT16
    }  # fmt: skip


class _OfConstants(nn.Module):
    """As the first refinement of the camera head: what enters the layer is known at export."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = stored_as(nn.Linear(64, 64), "w8a8d")
        self.register_buffer("start", torch.randn(3, 64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(self.get_buffer("start"))


def test_a_constant_that_is_quantized_at_run_time_is_quantized_at_export(
    tmp_path: Path, run_onnx: Any, chain: Any
) -> None:
    torch.manual_seed(0)
    model, x = _OfConstants(), torch.randn(3, 64)
    file = write_onnx(chain(x, model), tmp_path / "m.onnx")
    kinds = [node.op_type for node in onnx.load(file.path).graph.node]
    assert "QuantizeLinear" not in kinds
    assert kinds.count("DequantizeLinear") == 1
    with torch.inference_mode():
        assert relative(run_onnx(file.path, x.numpy())["y0"], model(x).numpy()) < 1e-6


class _OtherQuantization(nn.Module):
    def __init__(self, block: list[int], mapping: str) -> None:
        super().__init__()
        self.block, self.mapping = block, mapping

    def forward(self, x: Tensor) -> Tensor:
        ops, limits = torch.ops.torchao, (torch.int8, -128, 127)
        scale, zero = ops.choose_qparams_affine(x, self.mapping, self.block, *limits, 1e-9, torch.float32, torch.int8)
        integers = ops.quantize_affine(x, self.block, scale, zero, *limits)
        return ops.dequantize_affine(integers, self.block, scale, zero, *limits)


@pytest.mark.parametrize(("block", "mapping"), [([1, 8], "SYMMETRIC"), ([1, 4], "ASYMMETRIC"), ([2, 8], "ASYMMETRIC")])
def test_what_is_quantized_otherwise_is_refused(tmp_path: Path, chain: Any, block: list[int], mapping: str) -> None:
    """Rather than written as if it were one scale for each row."""
    x, model = torch.randn(4, 8), _OtherQuantization(block, mapping)
    with pytest.raises(LoweringError, match="choose_qparams_affine"):
        write_onnx(chain(x, model), tmp_path / "m.onnx")


def test_a_tensor_with_a_single_scale_is_one_row(tmp_path: Path, run_onnx: Any, chain: Any) -> None:
    x, model = torch.randn(4, 8), _OtherQuantization([4, 8], "ASYMMETRIC")
    file = write_onnx(chain(x, model), tmp_path / "m.onnx")
    assert relative(run_onnx(file.path, x.numpy())["y0"], model(x).numpy()) < 1e-6


def linear(*, scheme: str = "w8a8", scale: float = 0.03, group: int | None = None, bias: bool = True) -> nn.Module:
    return stored_as(nn.Linear(64, 64, bias=bias), scheme, scale, group)


def test_twins_share_a_template_and_keep_their_own_weights(tmp_path: Path, run_onnx: Any, chain: Any) -> None:
    """Input scales too, which the trace holds as numbers."""
    torch.manual_seed(0)
    twins, x = [linear(scale=0.03), linear(scale=0.01), linear(scale=0.02)], torch.randn(5, 64)
    file = write_onnx(chain(x, *twins), tmp_path / "m.onnx")
    assert file.templates == 1
    with torch.inference_mode():
        expected = nn.Sequential(*twins)(x).numpy()
    assert relative(run_onnx(file.path, x.numpy())["y2"], expected) < 1e-6


@pytest.mark.parametrize(
    "other",
    [
        {"scheme": "w8a16"},
        {"scheme": "w4a16", "group": 32},
        {"scheme": "w4a16", "group": 64},
        {"bias": False},
        {"scheme": "w8a8d"},
    ],
)
def test_what_is_stored_differently_has_its_own_template(tmp_path: Path, chain: Any, other: dict[str, Any]) -> None:
    model = chain(torch.zeros(5, 64), linear(), linear(**other), linear())
    assert write_onnx(model, tmp_path / "m.onnx").templates == 2


class _FoldsWeights(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight * self.weight


def test_a_template_that_holds_figures_of_weights_is_not_used_again(tmp_path: Path, run_onnx: Any, chain: Any) -> None:
    x = torch.ones(3)
    file = write_onnx(chain(x, _FoldsWeights(2.0), _FoldsWeights(3.0)), tmp_path / "m.onnx")
    assert file.templates == 2
    assert run_onnx(file.path, x.numpy())["y1"].tolist() == [14.0] * 3


@pytest.mark.parametrize("kind", ["w8a8", "w8a8d", "w4a8d"])
def test_a_uniform_model_needs_one_template_for_each_kind_of_stage(exported: Any, kind: str) -> None:
    case = exported(kind)
    kinds = {stage.kind for stage in case.model.stages()}
    assert case.file.templates == len(kinds) < len(case.model.stages())


def test_a_group_scale_that_fp16_cannot_hold_is_refused(tmp_path: Path, chain: Any) -> None:
    layer = stored_as(nn.Linear(64, 64), "w4a16", group=32)
    layer.weight_scale.fill_(0.1)
    with pytest.raises(LoweringError, match="no FP16 number"):
        write_onnx(chain(torch.zeros(5, 64), layer), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


class _Unsupported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, dim=0)


def test_an_operator_without_translation_is_named(tmp_path: Path, chain: Any) -> None:
    with pytest.raises(LoweringError, match="cumsum"):
        write_onnx(chain(torch.ones(3), nn.ReLU(), _Unsupported()), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def two_results(x: Tensor) -> tuple[Tensor, Tensor]:
    return x * 2, x.detach()


@pytest.mark.parametrize("outputs", [("first", "second"), ("first", "nowhere"), ("first", IMAGES)])
def test_an_output_that_nothing_computes_is_refused(tmp_path: Path, stages_of: Any, outputs: tuple[str, ...]) -> None:
    def run(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return two_results(x)

    stage = Stage("only", "only", (IMAGES,), ("first", "second"), nn.Identity(), run)
    with pytest.raises(LoweringError, match=f"output {outputs[1]}"):
        write_onnx(stages_of(torch.ones(3), outputs, [stage]), tmp_path / "m.onnx")


def test_a_value_may_pass_through_a_stage(tmp_path: Path, run_onnx: Any, stages_of: Any) -> None:
    def pass_on(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return two_results(x)

    def add(module: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor]:
        return (x + y,)

    stages = [
        Stage("pass", "pass", (IMAGES,), ("double", "same"), nn.Identity(), pass_on),
        Stage("add", "add", ("double", "same"), ("y",), nn.Identity(), add),
    ]
    file = write_onnx(stages_of(torch.ones(3), ["y"], stages), tmp_path / "m.onnx")
    assert [node.op_type for node in onnx.load(file.path).graph.node] == ["Mul", "Add"]
    assert run_onnx(file.path, np.ones(3, np.float32))["y"].tolist() == [3.0] * 3
