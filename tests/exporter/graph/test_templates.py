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

from vggt_edge.calibration import linear as layers
from vggt_edge.calibration.walk import IMAGES, Stage
from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph.build import write_onnx


def relative(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


class _OneLayer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * 2


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: layers.QuantLinear(nn.Linear(64, 8), bits=8, input_scale=0.02), (1, 5, 64)),
        (lambda: layers.QuantLinear(nn.Linear(128, 8, bias=False), bits=4, group_size=32), (1, 5, 128)),
        (lambda: layers.QuantLinear(nn.Linear(128, 7), bits=4, group_size=128), (1, 5, 128)),
        (lambda: layers.QuantLinear(nn.Linear(128, 8), bits=8, group_size=64), (1, 5, 128)),
        (lambda: layers.QuantConv2d(nn.Conv2d(4, 6, 3, stride=2, padding=1), input_scale=0.02), (1, 4, 9, 9)),
        (lambda: layers.QuantConvTranspose2d(nn.ConvTranspose2d(4, 6, 4, stride=4), input_scale=0.02), (1, 4, 3, 3)),
        (lambda: layers.HalfConvTranspose2d(nn.ConvTranspose2d(4, 6, 2, stride=2)), (1, 4, 3, 3)),
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


def linear(*, scale: float | None = 0.03, bits: int = 8, group_size: int | None = None, bias: bool = True) -> nn.Module:
    return layers.QuantLinear(nn.Linear(64, 64, bias=bias), bits=bits, group_size=group_size, input_scale=scale)


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
        {"scale": None},
        {"bits": 4, "group_size": 32},
        {"group_size": 64},
        {"bias": False},
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


def test_a_uniform_model_needs_one_template_for_each_kind_of_stage(exported: Any) -> None:
    case = exported("w8a8")
    kinds = {stage.kind for stage in case.model.stages()}
    assert case.file.templates == len(kinds) < len(case.model.stages())


def test_a_group_scale_that_fp16_cannot_hold_is_refused(tmp_path: Path, chain: Any) -> None:
    layer = layers.QuantLinear(nn.Linear(64, 64), bits=4, group_size=32)
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
