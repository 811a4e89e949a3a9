"""The error of each block, measured by running its own delegate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.executorch import block_errors
from vggt_edge.runtimes.executorch.block_errors import block_error_check
from vggt_edge.runtimes.executorch.pieces import Piece, Pieces, cut
from vggt_edge.runtimes.executorch.sdk import installed
from vggt_edge.runtimes.executorch.xnnpack import lower_pieces

pytestmark = pytest.mark.skipif(not installed(), reason="ExecuTorch is not installed")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(32, 32) for _ in range(3)]
        self.blocks = nn.ModuleList(quantized(one, Form.of(SCHEMES["w8a8d"], LayerShape.of(one))) for one in layers)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        for block in self.blocks:
            x = x + block(x)
        return (x,)


def cut_model(model: Model) -> tuple[ExportedProgram, Pieces]:
    with torch.no_grad():
        program = torch.export.export(model.eval(), (torch.zeros(5, 32),), strict=False)
    return program, cut(program, lambda path: path if path.startswith("blocks.") else "")


def test_every_block_is_near_the_simulation() -> None:
    """And none is left out."""
    program, pieces = cut_model(Model())
    check = block_error_check(program, pieces, lower_pieces(pieces.pieces))
    assert check.status == "passed"
    assert {f"blocks.{index}" for index in range(3)} <= set(check.figures)
    assert all(isinstance(value, float) and value > 60 for value in check.figures.values())


def test_a_block_that_computes_something_else_is_named() -> None:
    """The one with other weights, and not those after it, whose inputs are wrong as well."""
    program, pieces = cut_model(Model())
    other = Model()
    with torch.no_grad():
        other.blocks[1].weight_scale.mul_(1.05)
    _, tampered = cut_model(other)
    with pytest.raises(LoweringError, match=r"simulation in blocks\.1: "):
        block_error_check(program, pieces, lower_pieces(tampered.pieces))


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x.round(),)


@pytest.mark.parametrize(("away", "is_fault"), [(0.0, False), (0.25, True)])
def test_roundings_are_told_from_a_fault(away: float, is_fault: bool) -> None:
    """Values lie in the middle between two integers, where noise decides, or a quarter away from it."""
    values = torch.arange(64.0) + 0.5 + away
    piece = Piece("head", ("x",), ("y",), (), fx.symbolic_trace(Rounded()), {}, {}, "key")
    error = block_errors._Error(piece, 0, decibels=32.0)
    if is_fault:
        with pytest.raises(LoweringError, match=r"in head: 32 dB, while .* itself moves to 200\.0 dB") as raised:
            error.explained({"x": values})
        assert "roundings explain" in raised.value.expected
    else:
        assert error.explained({"x": values}).endswith("roundings, not a fault")


def test_large_models_are_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never passed without having been run."""
    program, pieces = cut_model(Model())
    monkeypatch.setattr(block_errors, "MAX_WEIGHT_BYTES", 100)
    check = block_error_check(program, pieces, ())
    assert check.status == "not_run"
    assert "left out above" in check.detail
