"""Stored constants of a delegate, read from its bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.runtimes.executorch import xnnpack
from vggt_edge.runtimes.executorch.audit import check_constants
from vggt_edge.runtimes.executorch.partition import partitioner
from vggt_edge.runtimes.executorch.payload import UnpackedConstant, unpacked_constants
from vggt_edge.runtimes.executorch.pieces import cut
from vggt_edge.runtimes.executorch.sdk import installed, sdk
from vggt_edge.runtimes.executorch.xnnpack import LoweredPiece, lower_pieces

pytestmark = pytest.mark.skipif(not installed(), reason="ExecuTorch is not installed")


class Scaled(nn.Module):
    """A linear and a convolution, which pack their constants, and operators that do not; bounds without an end."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.convolution = nn.Conv2d(2, 4, 3)
        self.gain, self.token = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(2, 2, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(torch.cat([self.token, self.linear(x).relu() * self.gain], 2)).relu()


def lowered() -> tuple[LoweredPiece, ...]:
    with torch.no_grad():
        program = torch.export.export(Scaled().eval(), (torch.zeros(2, 2, 4, 8),), strict=False)
    return lower_pieces(cut(program, lambda path: "block").pieces)


def found(pieces: tuple[LoweredPiece, ...]) -> list[UnpackedConstant]:
    return [
        one for piece in pieces for delegate in piece.delegates.values() for one in unpacked_constants(delegate.payload)
    ]


@pytest.fixture
def all_constants_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A partitioner that gives a delegate every constant that only it reads."""

    class Inside(partitioner()):  # type: ignore[misc]
        def partition(self, exported_program: ExportedProgram) -> Any:
            result = super().partition(exported_program)
            sdk("exir.backend.utils").tag_constant_data(exported_program)
            return result

    monkeypatch.setattr(xnnpack, "partitioner", lambda: Inside)


@pytest.mark.usefixtures("all_constants_inside")
def test_constants_that_are_not_packed_are_found_and_refused() -> None:
    """The error names operation, operand and block."""
    pieces = lowered()
    kinds = {(one.operation, one.operand) for one in found(pieces)}
    assert kinds == {("XNNMultiply", "input2_id"), ("XNNConcatenate2", "input1_id")}
    with pytest.raises(
        LoweringError, match=r"XNN(Multiply|Concatenate2) number . of delegate .* as its input._id"
    ) as caught:
        check_constants(pieces)
    assert caught.value.where == "block"


def test_our_partitions_hold_only_what_is_packed() -> None:
    """And they hold that: filter and bias of the linear and of the convolution."""
    pieces = lowered()
    assert found(pieces) == []
    check_constants(pieces)
    (piece,) = pieces
    assert sum(len(delegate.data) for delegate in piece.delegates.values()) == 4
    assert len(piece.weights) == 2


@pytest.mark.parametrize("payload", [b"", b"\0" * 100, b"not a delegate" * 20])
def test_bytes_that_are_no_delegate_are_refused(payload: bytes) -> None:
    """Header and decoder complain in ways of their own."""
    with pytest.raises(InputError, match="a delegate of XNNPACK cannot be read"):
        unpacked_constants(payload)
