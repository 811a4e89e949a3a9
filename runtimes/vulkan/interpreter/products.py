"""Products of matrices, and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vggt_edge.runtimes.vulkan.interpreter.elementwise import bounded
from vggt_edge.runtimes.vulkan.interpreter.kernel import kernel


@kernel("aten.mm.default", "aten.bmm.default")
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """(..., m, k) by (..., k, n)."""
    return a @ b


@kernel("aten.linear.default")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x`` by the transposed weight (out, in), plus the bias."""
    return functional.linear(x, weight, bias)


@kernel("et_vk.linear_q4gsw.default")
def linear_q4gsw(x: Tensor, packed: Tensor, scales: Tensor, group_size: int, bias: Tensor | None) -> Tensor:
    """packed: (rows, columns / 2), two weights plus 8 in a byte, the first in its low half. scales: (groups, rows)."""
    weight = torch.stack((packed & 15, packed >> 4), -1).flatten(1) - 8
    rows, columns = weight.shape
    grouped = weight.reshape(rows, columns // group_size, group_size) * scales.T[:, :, None]
    return functional.linear(x, grouped.reshape(rows, columns), bias)


@kernel("aten.convolution.default")
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """Of one image, transposed or not; the arguments of ``torch.convolution``."""
    return torch.convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)


@kernel("et_vk.conv_with_clamp.default")
def conv_with_clamp(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """As a convolution, then the two bounds."""
    *convolved, low, high = rest
    return bounded(torch.convolution(x, weight, *convolved), low, high)
