"""Operators that move, cut and join elements without computing with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vggt_edge.runtimes.vulkan.interpreter.kernel import kernel


@kernel("aten.view_copy.default")
def view(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The same elements in another shape."""
    return x.reshape(tuple(shape))


@kernel("aten.squeeze_copy.dims")
def squeeze(x: Tensor, dimensions: Sequence[int]) -> Tensor:
    """Without the given dimensions, where they have one element."""
    return x.squeeze(tuple(dimensions))


@kernel("aten.unsqueeze_copy.default")
def unsqueeze(x: Tensor, dimension: int) -> Tensor:
    """With one dimension more, of one element."""
    return x.unsqueeze(dimension)


@kernel("aten.permute_copy.default")
def permute(x: Tensor, order: Sequence[int]) -> Tensor:
    """The dimensions in another order."""
    return x.permute(tuple(order))


@kernel("aten.expand_copy.default")
def expand(x: Tensor, shape: Sequence[int], *_: object) -> Tensor:
    """Repeated along dimensions of one element."""
    return x.expand(tuple(shape))


@kernel("aten.slice_copy.Tensor")
def cut(x: Tensor, dimension: int, first: int | None, end: int | None, step: int) -> Tensor:
    """A slice of one dimension; None for either end."""
    return torch.ops.aten.slice.Tensor(x, dimension, first, end, step)  # type: ignore[no-any-return]


@kernel("aten.select_copy.int")
def select(x: Tensor, dimension: int, index: int) -> Tensor:
    """One index of a dimension, which is gone then."""
    return x.select(dimension, index)


@kernel("aten.cat.default")
def cat(parts: list[Tensor], dimension: int) -> Tensor:
    """Joined along one dimension."""
    return torch.cat(parts, dimension)
