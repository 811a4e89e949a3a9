"""Operators that treat every element alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vggt_edge.runtimes.vulkan.interpreter.kernel import kernel

# As ExecuTorch's shader has it, digits of pi included.
_GELU_GAIN = math.sqrt(2 / 3.141593)


@kernel("et_vk.prepack.default", "aten.clone.default")
def same(x: Tensor, *_: object) -> Tensor:
    """Copies between memories and layouts."""
    return x


@kernel("aten.add.Tensor")
def add(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """``x + alpha * y``."""
    return x + alpha * y


@kernel("aten.sub.Tensor")
def sub(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """``x - alpha * y``."""
    return x - alpha * y


@kernel("aten.mul.Tensor")
def mul(x: Tensor, y: Tensor) -> Tensor:
    """``x * y``."""
    return x * y


@kernel("aten.div.Tensor")
def div(x: Tensor, y: Tensor) -> Tensor:
    """``x / y``."""
    return x / y


@kernel("aten.abs.default")
def absolute(x: Tensor) -> Tensor:
    """``|x|``."""
    return x.abs()


@kernel("aten.exp.default")
def exp(x: Tensor) -> Tensor:
    """``e ** x``."""
    return x.exp()


@kernel("aten.sigmoid.default")
def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + e ** -x)``."""
    return torch.sigmoid(x)


@kernel("aten.relu.default")
def relu(x: Tensor) -> Tensor:
    """``max(x, 0)``."""
    return torch.relu(x)


@kernel("aten.clamp.default", "aten.hardtanh.default")
def clamp(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """Between the bounds; None for no bound."""
    return bounded(x, low, high)


def bounded(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """As ``torch.clamp``, for bounds that float32 cannot hold too: a ReLU has the largest double for its upper one."""
    return torch.clamp(x, -math.inf if low is None else _narrowed(low), math.inf if high is None else _narrowed(high))


def _narrowed(number: float) -> float:
    return math.copysign(math.inf, number) if abs(number) > torch.finfo(torch.float32).max else number


@kernel("aten.gelu.default")
def gelu(x: Tensor, approximate: str) -> Tensor:
    """By tanh, whatever ``approximate`` says: ExecuTorch 1.4 has no other shader."""
    return 0.5 * x * (1 + torch.tanh(_GELU_GAIN * (x + 0.044715 * x * x * x)))
