"""``quantize`` and ``dequantize`` of activations: int8 or uint8, per tensor or along an axis.

The division is made in FP32. A device may make it in FP16, and then a number within 2^-11 of a half step can fall on
the other side.
"""

from __future__ import annotations

import torch

from vggt_edge.runtimes.coreml.interpreter.call import Call, kernel
from vggt_edge.runtimes.coreml.interpreter.compressed import along_axis
from vggt_edge.runtimes.coreml.interpreter.numbers import torch_type

_TYPES = frozenset({"int8", "uint8"})


@kernel("quantize")
def quantize(call: Call) -> torch.Tensor:
    """``clamp(round(input / scale) + zero_point)``, halves to the even number; NaN becomes the zero point."""
    x = call.floats("input")
    target = torch_type(call.choice("output_dtype", "int8", _TYPES))
    scale = along_axis(call, call.floats("scale"), x.shape)
    if not bool((scale != 0).all()):
        raise call.wrong("a scale of zero", "scales other than zero")
    steps = torch.round(torch.nan_to_num(x / scale, nan=0.0, posinf=torch.inf, neginf=-torch.inf))
    if call.has("zero_point"):
        steps = steps + along_axis(call, call.tensor("zero_point").to(torch.float32), x.shape)
    limits = torch.iinfo(target)
    call.ignore("axis")
    return steps.clamp(limits.min, limits.max).to(target)


@kernel("dequantize")
def dequantize(call: Call) -> torch.Tensor:
    """``scale * (input - zero_point)``."""
    data = call.tensor("input").to(torch.float32)
    if call.has("zero_point"):
        data = data - along_axis(call, call.tensor("zero_point").to(torch.float32), data.shape)
    call.ignore("axis")
    return data * along_axis(call, call.floats("scale"), data.shape)
