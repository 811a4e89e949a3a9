"""What the methods that we compare with compute with: one linear, its grids, and the quantizer of its input.

The grids are those of quantization/quantize.py, so that every row of the comparison rounds to the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.apply import realised_scheme
from vggt_edge.calibration.quantization.linear import DYNAMIC, InputScale, fake_quantize_input, token_block
from vggt_edge.calibration.scheme import Activation, Scheme
from vggt_edge.calibration.scheme import scheme as scheme_of
from vggt_edge.devices.errors import UsageError

NO_GROUP = 64  # what is asked for where a scheme names no group size: it has no grouped weights
HALF_BITS, FULL_BITS = 16, 32


def realised(source: nn.Module, scheme: Scheme) -> Scheme:
    """What a linear gets when ``scheme`` is asked of it: 8 bits per channel where no group divides its inputs.

    ``UsageError`` for palettes, which no method of the comparison has.
    """
    if scheme.palette:
        raise UsageError(
            f"no method of the comparison has palettes: {scheme.name}",
            where="scheme",
            expected="a scheme of integers or of floating-point numbers",
        )
    name = realised_scheme(source, scheme.name, scheme.group_size or NO_GROUP)
    return scheme if name == scheme.name else scheme_of(name)


def group_of(weight: Tensor, scheme: Scheme) -> int | None:
    """Inputs that share a scale in a weight (out, in); None for one scale per output channel."""
    return None if scheme.group_size is None else q.usable_group(weight.shape[1], scheme.group_size)


def grid(weight: Tensor, scheme: Scheme, clip: Tensor | float = 1.0) -> tuple[Tensor, q.IntRange]:
    """Scale of every weight (out, in), and the integers that it is multiplied with.

    clip: factor on the largest magnitude that the grid reaches, one number or one per scale: (out,), or (out, groups).
    Linears that no group divides have 8 bits per channel. Only for schemes with integer weights.
    """
    group = group_of(weight, scheme)
    bits = 8 if group is None and scheme.group_size is not None else scheme.weight_bits
    limits = q.WEIGHT_RANGES[bits]
    # As QuantWeight: groups beside dynamic inputs are what XNNPACK stores.
    stored = group is not None and scheme.activation is Activation.DYNAMIC_TOKEN
    rounded = q.bfloat16_nearest if stored else q.fp16_ceil
    amax = weight.detach().float().reshape(weight.shape[0], -1, group or weight.shape[1]).abs().amax(dim=2)
    amax = amax if group is not None else amax[:, 0]
    return q.spread(q.scale_of(amax * clip, limits.levels, rounded), weight), limits


def rounded_weight(weight: Tensor, scheme: Scheme, clip: Tensor | float = 1.0) -> Tensor:
    """(out, in) rounded to nearest on ``grid`` and restored; as FP16 or as it is where a scheme has no integers."""
    weight = weight.detach().float()
    if scheme.weight_bits == FULL_BITS:
        return weight.clone()
    if scheme.weight_bits == HALF_BITS:
        return weight.to(torch.float16).float()
    scale, limits = grid(weight, scheme, clip)
    return q.dequantize(q.quantize(weight, scale, limits), scale)


class SimulatedLinear(nn.Module):
    """x (..., in) to (..., out): x / divisor, @ rotation, the input quantizer of ``scheme``, then the linear.

    weight: (out, in), restored values in the basis in which the layer multiplies, so of W diag(divisor) @ rotation.
    divisor: (in,). rotation: (in, in), orthogonal. input_scale: of the int8 input, where the scheme's is static. clip:
    factor on both ends of the range that a dynamic input takes; values beyond saturate. Bias: that of ``source``.
    """

    weight: Tensor
    divisor: Tensor | None
    rotation: Tensor | None

    def __init__(
        self,
        source: nn.Linear,
        weight: Tensor,
        scheme: Scheme,
        *,
        input_scale: float | None = None,
        divisor: Tensor | None = None,
        rotation: Tensor | None = None,
        clip: float = 1.0,
    ) -> None:
        super().__init__()
        self.scheme = realised(source, scheme)
        self.input_scale = _input_scale(self.scheme, input_scale)
        self.bias, self.clip = source.bias, clip
        self.register_buffer("weight", weight.detach().float())
        self.register_buffer("divisor", divisor)
        self.register_buffer("rotation", rotation)

    def entering(self, x: Tensor) -> Tensor:
        """What the input quantizer sees of x (..., in)."""
        if self.divisor is not None:
            x = x / self.divisor
        return x if self.rotation is None else x @ self.rotation

    def forward(self, x: Tensor) -> Tensor:
        x = fake_quantized(self.entering(x), self.input_scale, self.scheme, self.clip)
        return functional.linear(x, self.weight, self.bias)


def fake_quantized(x: Tensor, scale: InputScale, scheme: Scheme, clip: float = 1.0) -> Tensor:
    """The input (..., in) of a linear as ``scheme`` sees it; ``scale`` as calibration/quantization/linear.py has it."""
    if scale is DYNAMIC and clip != 1.0:
        low, high = x.aminmax(dim=-1, keepdim=True)
        x = x.clamp(clip * low, clip * high)
    return fake_quantize_input(x, scale, token_block(x), scheme.activation_bits)


def static_scale(scheme: Scheme, peak: float) -> float | None:
    """The ``input_scale`` of a layer whose input was seen to reach ``peak``; None where the scheme has no static one.

    The largest magnitude of calibration, as the methods of the comparison take it.
    """
    return q.activation_scale(peak) if scheme.activation is Activation.STATIC_TENSOR else None


def _input_scale(scheme: Scheme, scale: float | None) -> InputScale:
    if scheme.activation is Activation.DYNAMIC_TOKEN:
        return DYNAMIC
    if scheme.activation is Activation.NONE:
        return None
    if scale is None:
        raise UsageError(
            f"{scheme.name} has static inputs, and no input_scale was given",
            where="input_scale",
            expected="the scale of the int8 input",
        )
    return scale
