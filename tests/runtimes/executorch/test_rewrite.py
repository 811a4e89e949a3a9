"""Each rule of the rewriting computes what the operator computes that it replaces."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.runtimes.executorch import rewrite as module
from vggt_edge.runtimes.executorch.pieces import Piece, cut
from vggt_edge.runtimes.executorch.rewrite import rewrite

ATEN = torch.ops.aten


class Applied(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def piece_of(function: Callable[..., Tensor] | nn.Module, *inputs: Tensor) -> Piece:
    owner = function if isinstance(function, nn.Module) else Applied(function)
    with torch.no_grad():
        program = torch.export.export(owner.eval(), inputs, strict=False)
    (piece,) = cut(program, lambda path: "").pieces
    return piece


def compared(function: Callable[..., Tensor] | nn.Module, *inputs: Tensor) -> tuple[float, set[object]]:
    """(relative L2 distance between original and rewritten, the operators of the rewritten one)."""
    piece = piece_of(function, *inputs)
    program = rewrite(piece)
    with torch.no_grad():
        (expected,), (found,) = piece.module(*inputs), program.module()(*inputs)
    assert found.shape == expected.shape
    distance = float((found - expected).norm() / expected.norm().clamp_min(1e-20))
    return distance, {node.target for node in program.graph.nodes if node.op == "call_function"}


@settings(deadline=None, max_examples=8)
@given(
    rows=st.integers(1, 5), width=st.integers(1, 40), scale=st.sampled_from([1e-2, 1.0, 300.0]), affine=st.booleans()
)
def test_layer_norm_of_any_width_is_the_same(rows: int, width: int, scale: float, affine: bool) -> None:
    """Within the rounding of FP32, also for activations as large as VGGT's."""
    torch.manual_seed(rows * 100 + width)
    norm = nn.LayerNorm(width, elementwise_affine=affine, eps=1e-6)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, rows, width) * scale
    if width == 1:
        x = x + 0.0  # the centred value is zero: only the bias is left
    distance, targets = compared(norm, x)
    assert distance < 1e-5 or width == 1
    assert ATEN.layer_norm.default not in targets


@pytest.mark.parametrize("shape", [(2, 3, 7, 16), (1, 5, 16), (4, 1, 1, 8)])
def test_attention_is_the_same_in_products_of_two_matrices(shape: tuple[int, ...]) -> None:
    """Of any rank; no broadcast product and no fused operator is left."""
    torch.manual_seed(0)
    distance, targets = compared(functional.scaled_dot_product_attention, *(torch.randn(shape) for _ in range(3)))
    assert distance < 1e-6
    assert ATEN.bmm.default in targets
    assert not {ATEN.scaled_dot_product_attention.default, ATEN.matmul.default, ATEN.expand.default} & targets


def test_large_attention_is_done_in_groups_of_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same result; the scores of all heads never exist at once."""
    torch.manual_seed(0)
    inputs = [torch.randn(1, 5, 12, 8) for _ in range(3)]
    monkeypatch.setattr(module, "SCORES_BYTES", 2 * 4 * 12 * 12)
    distance, targets = compared(functional.scaled_dot_product_attention, *inputs)
    assert distance < 1e-6
    assert ATEN.cat.default in targets
    program = rewrite(piece_of(functional.scaled_dot_product_attention, *inputs))
    assert sum(node.target is ATEN.bmm.default for node in program.graph.nodes) == 2 * 3


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sign() * (x.abs().exp() - 1),
        lambda x: torch.cat(x.chunk(3, dim=1)[::-1], dim=1),
        lambda x: x[:, 1] + x[:, -1],
        lambda x: x + 1,
        lambda x: 2 * x.detach(),
        lambda x: x.transpose(1, 2).reshape(2, -1),
        lambda x: x @ x.transpose(1, 2),
        lambda x: x[:1] @ x.transpose(1, 2),
        lambda x: x[0] @ x.transpose(1, 2),
    ],
    ids=["sign", "chunk", "select", "whole number", "detach", "reshape", "matmul", "matmul of one", "matmul of none"],
)
def test_other_rules(function: Callable[[Tensor], Tensor]) -> None:
    """Bit for bit or within one rounding."""
    torch.manual_seed(0)
    x = torch.randn(2, 7, 5)
    x[0, 0, 0] = 0.0
    distance, targets = compared(function, x)
    assert distance < 1e-6
    assert not targets & {ATEN.sign.default, ATEN.chunk.default, ATEN.select.int, ATEN.detach.default}


def test_a_product_with_a_stored_matrix_is_one_of_two_dimensions() -> None:
    """Rotate-half of rotary positions: the tokens of all heads in one matrix."""
    torch.manual_seed(0)
    turn = nn.Module()
    turn.register_buffer("turn", torch.randn(8, 8))
    turn.forward = lambda x: x @ turn.turn  # type: ignore[method-assign]
    distance, targets = compared(turn, torch.randn(1, 4, 9, 8))
    assert distance < 1e-6
    assert ATEN.mm.default in targets


def test_no_record_of_where_nodes_came_from_is_kept() -> None:
    """Every pass would copy it."""
    program = rewrite(piece_of(lambda x: x + 1, torch.zeros(2)))
    assert all(set(node.meta) <= {"val"} for node in program.graph.nodes)
