"""Writes the annotated program in the operators that ExecuTorch's Vulkan delegate takes.

Its GPU kernels compute in FP16 and have one form of quantized weight worth having: 4 bits in groups, multiplied with
activations that are not quantized. So quantization of activations is left out, 4-bit weights of linears stay as they
are stored, and all others become floating point, which the delegate stores in FP16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional

from vggt_edge.runtimes.executorch.pieces import RESTORES, Piece
from vggt_edge.runtimes.executorch.rewrite import RULES as XNNPACK_RULES
from vggt_edge.runtimes.executorch.rewrite import Rules, zero_points

_aten, _torchao = torch.ops.aten, torch.ops.torchao
# The kernel of packed 4-bit weights works in tiles of four channels, of its input and of its output.
TILE = 4
# Behind a first clamp nothing exceeds this in FP16, which ends at 65504; below its inverse a sign fades to zero.
_SIGN_GAIN = 2.0**14
# GELU is 0 below the negative of this and the identity above it, in FP16 and in FP32. The kernel takes the tanh of the
# cube of its argument: from 10.1 on a tanh that is a quotient of exponentials overflows in FP32 and gives NaN.
GELU_BOUND = 10.0


def packs(weight: Tensor) -> bool:
    """Whether Vulkan multiplies with a weight (rows, columns) as it is stored in 4 bits."""
    return weight.dim() == 2 and weight.shape[0] % TILE == 0 and weight.shape[1] % TILE == 0


def restored(piece: Piece) -> Piece:
    """The same piece with floating point in place of quantized weights that Vulkan has no kernel for.

    New weights have the names of the stored ones that they were made of.
    """
    graph, owner = Graph(), _Restored(piece)
    copies: dict[Node, Node] = {}
    for node in piece.module.graph.nodes:
        if _is_weight(node) and not owner.stays(node):
            copies[node] = graph.get_attr(owner.restore(node))
        elif _is_weight(node):
            own = {one: graph.get_attr(owner.own(str(one.target))) for one in node.all_input_nodes}
            copies[node] = graph.node_copy(node, own.__getitem__)
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.eliminate_dead_code()
    return owner.piece_of(graph)


class _Restored:
    """Weights of a piece, those that it restores among them."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.weights, self.targets = dict(piece.weights), dict(piece.targets)
        self.names: dict[str, str] = {}
        self.taken: set[str] = set()

    def stays(self, node: Node) -> bool:
        return node.target is _torchao.dequantize_affine.default and packs(self._value(node.args[0]))

    def restore(self, node: Node) -> str:
        """The name of the restored weight; a layer that runs several times has one."""
        stored = str(node.args[0].target)  # type: ignore[union-attr]
        if stored not in self.names:
            arguments = torch.fx.node.map_arg(node.args, self._value)
            self.names[stored] = self._add(node.target(*arguments), stored)  # type: ignore[operator]
        return self.names[stored]

    def own(self, stored: str) -> str:
        """A weight that stays as it is: ExecuTorch 1.4 packs it in place and then no longer knows it at its next use.

        Copies cost nothing in the file, which holds equal bytes once.
        """
        if stored in self.taken:
            return self._add(self.weights[stored].clone(), stored)
        self.taken.add(stored)
        return stored

    def _add(self, weight: Tensor, stored: str) -> str:
        name = f"v{len(self.weights)}"
        self.weights[name], self.targets[name] = weight, self.piece.targets[stored]
        return name

    def piece_of(self, graph: Graph) -> Piece:
        """With the weights that ``graph`` reads."""
        used = dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "get_attr")
        module = nn.Module()
        for name in used:
            module.register_buffer(name, self.weights[name])
        return replace(
            self.piece,
            module=GraphModule(module, graph),
            weights={name: self.weights[name] for name in used},
            targets={name: self.targets[name] for name in used},
        )

    def _value(self, node: Any) -> Tensor:
        return self.piece.weights[str(node.target)]


def _is_weight(node: Node) -> bool:
    """Whether a node restores a stored weight: of activations, both quantization and the way back are operators."""
    return node.target in RESTORES and node.args[0].op == "get_attr"  # type: ignore[union-attr]


def _dequantize(owner: Any, x: Tensor, *rest: Any) -> Tensor:
    """Of a weight; an activation has not been quantized."""
    if x.dtype is not torch.int8:
        return x
    return XNNPACK_RULES[_torchao.dequantize_affine.default](owner, x, *rest)  # type: ignore[no-any-return]


def _no_scale(owner: Any, *_: Any) -> tuple[None, None]:
    return None, None


def _not_quantized(owner: Any, x: Tensor, *_: Any) -> Tensor:
    return x


def _sign(x: Tensor) -> Tensor:
    return torch.clamp(torch.clamp(x, -1, 1) * _SIGN_GAIN, -1, 1)


def _in_four(function: Any) -> Any:
    """Element by element, in the four dimensions that such kernels go up to.

    ExecuTorch joins two views that have only such operators between them. The product with one keeps them apart.
    """

    def rule(owner: Any, x: Tensor) -> Tensor:
        if x.dim() <= 4:
            return function(x)  # type: ignore[no-any-return]
        return (function(x.reshape(-1, *x.shape[-3:])) * 1.0).view(x.shape)  # type: ignore[no-any-return]

    return rule


def _gelu(owner: Any, x: Tensor) -> Tensor:
    """With an argument that no driver's tanh turns into NaN."""
    return functional.gelu(torch.clamp(x, -GELU_BOUND, GELU_BOUND)) + functional.relu(x - GELU_BOUND)


def _layer_norm(
    owner: Any,
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    """With a weight and a bias: the kernel refuses to go without."""
    weight = owner.get_buffer(_filled_name("ones", shape)) if weight is None else weight
    bias = owner.get_buffer(_filled_name("zeros", shape)) if bias is None else bias
    return functional.layer_norm(x, list(shape), weight, bias, eps)


def _filled_name(what: str, shape: Sequence[int]) -> str:
    return f"norm_{what}_{'_'.join(map(str, shape))}"


def constants_of(node: Node, source: GraphModule) -> Sequence[tuple[str, Tensor]]:
    """The stored tensors that the rule of a node needs."""
    if node.target is not _aten.layer_norm.default:
        return zero_points(node, source)
    shape: list[int] = list(node.args[1])  # type: ignore[arg-type]
    return (_filled_name("ones", shape), torch.ones(shape)), (_filled_name("zeros", shape), torch.zeros(shape))


def _resize(
    owner: Any, x: Tensor, size: Sequence[int] | None, align_corners: bool, scales: Sequence[float] | None = None
) -> Tensor:
    """With aligned corners the kernel divides by the side less one: a side of one is the first of two."""
    if not align_corners or size is None or 1 not in size:
        return _aten.upsample_bilinear2d.vec(x, size, align_corners, scales)  # type: ignore[no-any-return]
    resized = _aten.upsample_bilinear2d.vec(x, [max(side, 2) for side in size], True, None)
    for dimension, side in zip((2, 3), size, strict=True):
        resized = _aten.slice.Tensor(resized, dimension, 0, side)
    return resized  # type: ignore[no-any-return]


def _linear(owner: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """On rows, behind a copy.

    ExecuTorch 1.4 takes what stands before the last view of an input for that input, whatever shape it has. A copy
    hides the view from it; the delegate drops copies later.
    """
    rows = x.reshape(-1, x.shape[-1]).clone()
    return functional.linear(rows, weight, bias).view(*x.shape[:-1], weight.shape[0])


def _image_by_image(target: Any) -> Any:
    """Convolutions of one image at a time: the kernels take no batch."""

    def rule(owner: Any, x: Tensor, *rest: Any) -> Tensor:
        if len(x) == 1:
            return target(x, *rest)  # type: ignore[no-any-return]
        images = (_aten.slice.Tensor(x, 0, index, index + 1) for index in range(len(x)))
        return torch.cat([target(one, *rest) for one in images])

    return rule


_SHARED: Sequence[Any] = (
    _aten.scaled_dot_product_attention.default,
    _aten.matmul.default,
    _aten.chunk.default,
    _aten.select.int,
    _aten.view.default,
    _aten.detach.default,
    _aten.add.Tensor,
    _aten.sub.Tensor,
    _aten.mul.Tensor,
    _aten.div.Tensor,
)
RULES: Rules = {
    **{target: XNNPACK_RULES[target] for target in _SHARED},
    _aten.linear.default: _linear,
    _aten.sign.default: _in_four(_sign),
    _aten.abs.default: _in_four(torch.abs),
    _aten.exp.default: _in_four(torch.exp),
    _aten.gelu.default: _gelu,
    _aten.layer_norm.default: _layer_norm,
    _aten.upsample_bilinear2d.vec: _resize,
    _aten.conv2d.default: _image_by_image(_aten.conv2d.default),
    _aten.conv_transpose2d.input: _image_by_image(_aten.conv_transpose2d.input),
    _torchao.choose_qparams_affine.default: _no_scale,
    _torchao.quantize_affine.default: _not_quantized,
    _torchao.dequantize_affine.default: _dequantize,
}
