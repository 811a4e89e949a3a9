"""Which operators of a serialized Vulkan graph hold a weight, and under which key the graph stores it."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

PACKED = "et_vk.linear_q4gsw.default"
# Products with an FP16 weight: as written, and as ExecuTorch joins them with what follows.
FLOATING = frozenset(
    {
        "aten.linear.default",
        "aten.mm.default",
        "aten.convolution.default",
        "et_vk.conv_with_clamp.default",
    }
)


def weight_key(weight: Tensor) -> str:
    """Of a weight as ``restored`` leaves it: integers of 4 bits in two dimensions, or floating point."""
    return half_key(weight) if weight.is_floating_point() else packed_key(weight)


def packed_key(weight: Tensor) -> str:
    """Of a weight (rows, columns), integers from -8 to 7: two of a row in a byte, the first in its low half."""
    nibbles = (weight + 8).to(torch.uint8)
    return _key(nibbles[:, 1::2] << 4 | nibbles[:, ::2])


def half_key(weight: Tensor) -> str:
    """Of a floating-point weight, rounded to FP16."""
    ends = torch.finfo(torch.float16)
    return _key(weight.clamp(ends.min, ends.max).to(torch.float16))


def _key(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
