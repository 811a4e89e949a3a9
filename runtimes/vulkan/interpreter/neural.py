"""Softmax, layer norm and resizing, as ExecuTorch's shaders compute them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vggt_edge.runtimes.vulkan.graph import BUFFER, HALF, TensorValue
from vggt_edge.runtimes.vulkan.interpreter.kernel import kernel


@kernel("aten._softmax.default")
def softmax(x: Tensor, dimension: int, half_to_float: bool) -> Tensor:
    """Over one dimension, in the type of ``x``."""
    return torch.softmax(x, dimension)


@kernel("aten.native_layer_norm.default", needs_output=True)
def layer_norm(
    written: TensorValue, x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(result, mean, inverse deviation). In a buffer of FP16 the sums are in FP16 too, and may overflow."""
    narrow = written.storage == BUFFER and written.dtype == HALF
    mean = x.mean(-1, keepdim=True)
    squares = (x - mean).square().sum(-1, keepdim=True)
    if narrow:
        squares = squares.to(torch.float16).to(torch.float32)
    inverse = torch.rsqrt(squares / x.shape[-1] + eps)
    return (x - mean) * inverse * weight + bias, mean, inverse


@kernel("aten.upsample_bilinear2d.vec")
def bilinear(x: Tensor, size: Sequence[int], align_corners: bool, scales: Sequence[float] | None) -> Tensor:
    """(1, channels, height, width); with aligned corners and a side of one NaN, as on the device."""
    if scales is not None:
        raise ValueError("a resize by factors")
    height, width = size
    return _along(_along(x, 3, width, align_corners), 2, height, align_corners)


def _along(x: Tensor, dimension: int, size: int, align_corners: bool) -> Tensor:
    """One dimension, between the two nearest elements."""
    last = x.shape[dimension] - 1
    places = torch.arange(size, dtype=torch.float32)
    if align_corners:
        places = places * (torch.tensor(float(last)) / (size - 1))
    else:
        places = (places + 0.5) * ((last + 1) / size) - 0.5
    low = places.nan_to_num().floor().clamp(0, last)
    high = places.nan_to_num().ceil().clamp(0, last)
    shape = [-1 if axis == dimension else 1 for axis in range(x.dim())]
    share = (places - low).reshape(shape)
    return x.index_select(dimension, low.long()) * (1 - share) + x.index_select(dimension, high.long()) * share
