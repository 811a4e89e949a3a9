"""Symmetric uniform quantization: pure functions on tensors, no state, zero point always 0.

Every scale is a float32 tensor whose values an FP16 number can hold, rounded *up*: an FP16 device, the simulation and
the exported file then use the very same scale, and the largest weight stays inside the range. Which range, and how
scales are stored, is in a layer's ``Form``. Activations that are quantized at run time are the exception: their zero
point and scale come from the values (quantization/operators.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from vggt_edge.calibration.quantization.ranges import E2M1, E4M3, INPUT_RANGES, Range, ScaleNumbers, e4m3_unit
from vggt_edge.calibration.scheme import INT8

ZERO_SCALE = 1.0  # the scale of an all-zero tensor, row or group: any positive value will do, runtimes forbid 0
FP16_MAX = 65504.0
FP16_MIN = 2.0**-24
# The smallest power of two from which on FP16 holds all eight significant bits of a bfloat16 number.
BFLOAT16_IN_FP16_MIN = 2.0**-17
# The smallest E4M3 scale, in units of its tensor: twice the smallest normal number, so that no scale loses a bit where
# tuning mixes scales of two units that are a factor of 2 apart.
E4M3_SCALE_MIN = 2.0**-5


def fp16_ceil(values: Tensor) -> Tensor:
    """The smallest FP16 number not below each value, as float32. Values are in [0, 65504]."""
    half = values.to(torch.float16)
    # Positive FP16 numbers are ordered like their bit patterns, so the next larger one is the next integer.
    above = (half.view(torch.int16) + 1).view(torch.float16)
    return torch.where(half.to(torch.float32) < values, above, half).to(torch.float32)


def bfloat16_nearest(values: Tensor) -> Tensor:
    """The nearest bfloat16 number that FP16 holds too, as float32; 2^-17 for all below. Values are not negative."""
    return values.clamp(min=BFLOAT16_IN_FP16_MIN).to(torch.bfloat16).to(torch.float32)


def e4m3_nearest(values: Tensor, unit: float | None = None) -> Tensor:
    """The nearest E4M3 numbers in units of the tensor, as float32. Values are not negative.

    unit: a power of two; by default the one that the largest value needs.
    """
    unit = e4m3_unit(float(values.max())) if unit is None else unit
    return E4M3().nearest((values.to(torch.float32) / unit).clamp(min=E4M3_SCALE_MIN)) * unit


def block_scale_of(weight: Tensor, amax: Tensor) -> Tensor:
    """Scales (out, blocks) of E2M1 blocks of ``weight`` (out, in): the largest value becomes 6, or 4.

    The numbers lie evenly below 4 and coarsely above, so for many blocks 4 rounds better ("Four Over Six", Cook et al.,
    arXiv 2512.02010); each block takes what gives it the smaller squared error. ``ValueError`` if it is not finite.
    """
    if not bool(torch.isfinite(amax).all()):
        raise ValueError(f"absolute maximum {float(amax.max()):g} has no finite scale")
    numbers, blocks = E2M1(), weight.detach().to(torch.float32).reshape(*amax.shape, -1)
    either = e4m3_nearest(torch.stack([amax / numbers.high, amax / 4]))
    lost = [(numbers.nearest(blocks / scale[..., None]) * scale[..., None] - blocks) for scale in either]
    six, four = (deviation.square().sum(dim=-1) for deviation in lost)
    return torch.where(four < six, either[1], either[0])


def scale_of(amax: Tensor, levels: int, rounded: Callable[[Tensor], Tensor] = fp16_ceil) -> Tensor:
    """amax / levels, ``rounded`` to what a device stores. ``ValueError`` if it is not finite or too large for FP16."""
    raw = amax.to(torch.float32) / levels
    scale = rounded(raw.clamp(min=FP16_MIN))
    if not bool(torch.isfinite(raw).all()) or bool((torch.maximum(raw, scale) > FP16_MAX).any()):
        raise ValueError(f"absolute maximum {float(amax.max()):g} has no finite FP16 scale")
    return torch.where(amax > 0, scale, torch.full_like(raw, ZERO_SCALE))


ROUNDED: Mapping[ScaleNumbers, Callable[[Tensor], Tensor]] = MappingProxyType(
    {ScaleNumbers.FP16: fp16_ceil, ScaleNumbers.BFLOAT16: bfloat16_nearest, ScaleNumbers.E4M3: e4m3_nearest}
)


def activation_scale(amax: float, integers: Range = INPUT_RANGES[INT8]) -> float:
    """Static per-tensor scale of an activation."""
    return float(scale_of(torch.tensor(amax, dtype=torch.float32), integers.levels))


def peaks(weight: Tensor, group_size: int | None, axis: int = 0) -> Tensor:
    """The largest magnitudes of what shares a scale.

    Slices along ``axis``, the output channel: (n,). With ``group_size`` inputs of an (out, in) weight: (out, groups).
    """
    if group_size is None:
        return weight.abs().amax(dim=[dim for dim in range(weight.ndim) if dim != axis])
    if weight.ndim != 2 or weight.shape[1] % group_size:
        raise ValueError(f"groups of {group_size} do not divide a weight of shape {tuple(weight.shape)}")
    return weight.reshape(weight.shape[0], -1, group_size).abs().amax(dim=2)


def spread(scale: Tensor, weight: Tensor, axis: int = 0) -> Tensor:
    """A channel scale (n,) or a group scale (out, groups), laid out so that it broadcasts over ``weight``."""
    if scale.ndim == 2:
        return scale.repeat_interleave(weight.shape[1] // scale.shape[1], dim=1)
    return scale.reshape([-1 if dim == axis else 1 for dim in range(weight.ndim)])


def quantize(values: Tensor, scale: Tensor | float, integers: Range) -> Tensor:
    """The nearest numbers of ``integers``, in their type."""
    return integers.stored(values / scale)


def dequantize(integers: Tensor, scale: Tensor | float) -> Tensor:
    return integers.to(torch.float32) * scale


def pack_int4(integers: Tensor) -> Tensor:
    """int8 in [-8, 7] or uint8 in [0, 15], to flat uint8: two per byte, the first in the low half, as in ONNX."""
    flat = integers.reshape(-1)
    low, high = (0, 15) if flat.dtype == torch.uint8 else (-8, 7)
    if flat.numel() and (int(flat.min()) < low or int(flat.max()) > high):
        raise ValueError(f"a value outside [{low}, {high}] does not fit four bits")
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    nibbles = flat.view(torch.uint8) & 0x0F
    return nibbles[0::2] | (nibbles[1::2] << 4)
