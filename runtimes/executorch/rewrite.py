"""Writes a piece of the annotated program in the operators that XNNPACK takes, so that nothing is left to others.

Every rule is exact, or rounds as the operator that it replaces does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional

from vggt_edge.runtimes.executorch.pieces import RESTORES, Piece

_aten, _decomposed, _torchao = torch.ops.aten, torch.ops.quantized_decomposed, torch.ops.torchao
Rule: TypeAlias = Callable[..., Any]
Rules: TypeAlias = Mapping[Any, Rule]
# The stored tensors, by name, that the rule of a node needs: partitioners take no computed operand for a weight.
Constants: TypeAlias = Callable[[Node, GraphModule], Sequence[tuple[str, Tensor]]]
# Attention in groups of heads whose score matrix takes no more: a global block of VGGT-1B at 2 x 518 x 518 would need
# 483 MB for one.
SCORES_BYTES = 64 * 2**20
_SIGN_GAIN = 1e30
_EPS = 1e-5


def rewrite(piece: Piece, rules: Rules | None = None, constants: Constants | None = None) -> ExportedProgram:
    """The same computation for XNNPACK; weights keep their names behind ``source.``.

    rules, constants: those of another delegate.
    """
    rewritten = _Rewritten(piece.module, rules or RULES, constants or _constants_of)
    with torch.no_grad():
        program = torch.export.export(rewritten, piece.examples, strict=False)
    for node in program.graph.nodes:
        # Every pass copies where a node came from, which takes much of its time.
        node.meta = {name: value for name, value in node.meta.items() if name == "val"}
    return program


class _Rewritten(nn.Module):
    """Runs the piece operator by operator under the rules; holds the constants that they bring in."""

    def __init__(self, source: GraphModule, rules: Rules, constants: Constants) -> None:
        super().__init__()
        self.source, self.rules = source, rules
        for node in source.graph.nodes:
            if node.target in rules:
                for name, tensor in constants(node, source):
                    self.register_buffer(name, tensor)

    def forward(self, *inputs: Tensor) -> Any:
        return _Rules(self).run(*inputs)


def _constants_of(node: Node, source: GraphModule) -> Sequence[tuple[str, Tensor]]:
    if node.target is _aten.layer_norm.default:
        width = int(node.args[1][-1])  # type: ignore[index, arg-type]
        eps = float(node.args[4]) if len(node.args) > 4 else _EPS  # type: ignore[arg-type]
        return (f"mean_{width}", torch.full((1, width), 1 / width)), (_eps_name(eps), torch.tensor([eps]))
    return zero_points(node, source)


def zero_points(node: Node, source: GraphModule) -> Sequence[tuple[str, Tensor]]:
    """The zeros that the rules for stored weights need."""
    if node.target in RESTORES:
        index = 1 if node.target is _decomposed.dequantize_per_channel.default else 2
        scale = node.args[index]
        if isinstance(scale, Node) and scale.op == "get_attr":
            shape = tuple(source.get_buffer(str(scale.target)).shape)
            return ((_zeros_name(shape), torch.zeros(shape, dtype=torch.int64)),)
    return ()


def _eps_name(eps: float) -> str:
    return f"eps_{eps.hex()}".replace(".", "_").replace("-", "m").replace("+", "p")


def _zeros_name(shape: Sequence[int]) -> str:
    return "zeros_" + "_".join(map(str, shape))


class _Rules(Interpreter):
    def __init__(self, owner: _Rewritten) -> None:
        super().__init__(owner.source)
        self.owner = owner

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = self.owner.rules.get(target)
        return super().call_function(target, args, kwargs) if rule is None else rule(self.owner, *args, **kwargs)


def _matmul(owner: _Rewritten, a: Tensor, b: Tensor) -> Tensor:
    """Batches in one dimension: the general form brings copies that XNNPACK does not take."""
    if b.dim() == 2:
        return torch.mm(a.reshape(-1, a.shape[-1]), b).view(*a.shape[:-1], b.shape[-1])
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
    a, b = (one if one.shape[:-2] == batch else one.expand(*batch, *one.shape[-2:]) for one in (a, b))
    product = torch.bmm(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]))
    return product.view(*a.shape[:-1], b.shape[-1])


def _attention(owner: _Rewritten, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(..., tokens, head_dim) each; q is scaled first, which keeps the scores small."""
    shape = q.shape
    q, k, v = (one.reshape(-1, *one.shape[-2:]) for one in (q, k, v))
    q, k = q * (1 / math.sqrt(shape[-1])), k.transpose(1, 2)
    heads = max(1, SCORES_BYTES // (4 * q.shape[1] * k.shape[2]))
    if heads >= len(q):
        return torch.bmm(torch.softmax(torch.bmm(q, k), -1), v).view(shape)
    parts = []
    for first in range(0, len(q), heads):
        some = slice(first, first + heads)
        parts.append(torch.bmm(torch.softmax(torch.bmm(q[some], k[some]), -1), v[some]))
    return torch.cat(parts).view(shape)


def _layer_norm(
    owner: _Rewritten,
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = _EPS,
    *_: object,
) -> Tensor:
    """Means over the channels as products with a constant, which XNNPACK has for any rank."""
    mean = owner.get_buffer(f"mean_{shape[-1]}")
    centred = x - functional.linear(x, mean)
    y = centred * torch.rsqrt(functional.linear(centred * centred, mean, owner.get_buffer(_eps_name(eps))))
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def _slice(x: Tensor, dim: int, first: int, end: int) -> Tensor:
    part: Tensor = _aten.slice.Tensor(x, dim, first, end)
    return part


def _chunk(owner: _Rewritten, x: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    size = x.shape[dim]
    step = -(-size // chunks)
    return [_slice(x, dim, first, min(first + step, size)) for first in range(0, size, step)]


def _select(owner: _Rewritten, x: Tensor, dim: int, index: int) -> Tensor:
    dim, index = dim % x.dim(), index % x.shape[dim]
    return _slice(x, dim, index, index + 1).reshape(*x.shape[:dim], *x.shape[dim + 1 :])


def _sign(owner: _Rewritten, x: Tensor) -> Tensor:
    return torch.clamp(x * _SIGN_GAIN, -1, 1)


def _reshape(owner: _Rewritten, x: Tensor, shape: Sequence[int]) -> Tensor:
    """A view of what attention gave: its memory lies otherwise here."""
    return x.reshape(shape)


def _channel_weight(owner: _Rewritten, weight: Tensor, scale: Tensor, zero: None, *rest: Any) -> Tensor:
    zeros = owner.get_buffer(_zeros_name(scale.shape))
    restored: Tensor = _decomposed.dequantize_per_channel.default(weight, scale, zeros, *rest)
    return restored


def _dequantize_affine(
    owner: _Rewritten, x: Tensor, block: Sequence[int], scale: Tensor, zero: Tensor | None, *rest: Any
) -> Tensor:
    if zero is not None and len(block) == 4:
        return _decomposed.dequantize_per_tensor.tensor(x, scale, zero, *_RANGE)  # type: ignore[no-any-return]
    zeros = owner.get_buffer(_zeros_name(scale.shape)) if zero is None else zero
    return _torchao.dequantize_affine.default(x, block, scale, zeros, *rest)  # type: ignore[no-any-return]


# XNNPACK quantizes what enters a convolution image by image; its partitioner knows that by the operators for whole
# tensors.
_RANGE = (-128, 127, torch.int8)


def _choose_qparams(owner: _Rewritten, x: Tensor, mapping: str, block: Sequence[int], *rest: Any) -> Any:
    if len(block) == 4:
        _dtype, low, high, eps, *_ = rest
        return _decomposed.choose_qparams.tensor(x, low, high, eps, torch.int8)
    return _torchao.choose_qparams_affine.default(x, mapping, block, *rest)


def _quantize_affine(
    owner: _Rewritten, x: Tensor, block: Sequence[int], scale: Tensor, zero: Tensor, *rest: Any
) -> Tensor:
    if len(block) == 4:
        return _decomposed.quantize_per_tensor.tensor(x, scale, zero, *_RANGE)  # type: ignore[no-any-return]
    return _torchao.quantize_affine.default(x, block, scale, zero, *rest)  # type: ignore[no-any-return]


def _same(owner: _Rewritten, x: Tensor) -> Tensor:
    return x


def _with_number(target: Any) -> Rule:
    """``x + 1`` becomes ``x + 1.0``: a whole number would be cast by an operator of its own."""

    def rule(owner: _Rewritten, *operands: Any) -> Any:
        return target(*(float(one) if isinstance(one, int) else one for one in operands))

    return rule


RULES: dict[Any, Rule] = {
    _aten.scaled_dot_product_attention.default: _attention,
    _aten.matmul.default: _matmul,
    _aten.layer_norm.default: _layer_norm,
    _aten.chunk.default: _chunk,
    _aten.select.int: _select,
    _aten.sign.default: _sign,
    _aten.view.default: _reshape,
    _aten.detach.default: _same,
    _decomposed.dequantize_per_channel.default: _channel_weight,
    _torchao.dequantize_affine.default: _dequantize_affine,
    _torchao.choose_qparams_affine.default: _choose_qparams,
    _torchao.quantize_affine.default: _quantize_affine,
    **{
        target: _with_number(target)
        for target in (_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor)
    },
}
