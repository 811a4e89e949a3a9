"""What the methods that we compare with compute with: one linear, its grids, and the quantizer of its input.

The grids are those of quantization/quantize.py, so that every row of the comparison rounds to the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.ranges import Range
from vggt_edge.calibration.scheme import FP32, Activation, NumberType, Scheme
from vggt_edge.devices.errors import UsageError


def form_of(weight: Tensor, scheme: Scheme) -> Form:
    """What a linear with this weight, (out, in), gets when ``scheme`` is asked of it.

    ``UsageError`` for palettes, which no method of the comparison has.
    """
    if scheme.weight.type is NumberType.PALETTE:
        raise UsageError(
            f"no method of the comparison has palettes: {scheme.name}",
            where="scheme",
            expected="a scheme of integers or of floating-point numbers",
        )
    return Form.of(scheme, LayerShape.of_weight(tuple(weight.shape)))


def group_of(weight: Tensor, scheme: Scheme) -> int | None:
    """Inputs that share a scale in a weight (out, in); None for one scale per output channel."""
    return form_of(weight, scheme).group_size


def grid(weight: Tensor, scheme: Scheme, clip: Tensor | float = 1.0) -> tuple[Tensor, Range]:
    """Scale of every weight (out, in), and the integers that it is multiplied with.

    clip: factor on the largest magnitude that the grid reaches, one number or one per scale: (out,), or (out, groups).
    Only for schemes with integer weights.
    """
    form = form_of(weight, scheme)
    return form.spread(form.scale_of(weight, clip), weight), form.range


def rounded_weight(weight: Tensor, scheme: Scheme, clip: Tensor | float = 1.0) -> Tensor:
    """(out, in) rounded to nearest on ``grid`` and restored; as FP16 or as it is where a scheme has no integers."""
    weight, form = weight.detach().float(), form_of(weight, scheme)
    if form.is_quantized:
        return form.fake_quantize(weight, form.scale_of(weight, clip))
    return weight.clone() if form.weight == FP32 else weight.to(torch.float16).float()


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
        self.form = form_of(source.weight, scheme)
        self.input_scale = _checked_scale(self.form, input_scale)
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
        x = fake_quantized(self.entering(x), self.input_scale, self.form, self.clip)
        return functional.linear(x, self.weight, self.bias)


def fake_quantized(x: Tensor, scale: float | None, form: Form, clip: float = 1.0) -> Tensor:
    """The input (..., in) of a linear as ``form`` has it. clip: of a dynamic one."""
    if form.activation is Activation.DYNAMIC_TOKEN and clip != 1.0:
        low, high = x.aminmax(dim=-1, keepdim=True)
        x = x.clamp(clip * low, clip * high)
    return form.fake_quantize_input(x, scale)


def static_scale(scheme: Scheme, peak: float) -> float | None:
    """The ``input_scale`` of a layer whose input was seen to reach ``peak``; None where the scheme has no static one.

    The largest magnitude of calibration, as the methods of the comparison take it.
    """
    return q.activation_scale(peak) if scheme.activation is Activation.STATIC_TENSOR else None


def _checked_scale(form: Form, scale: float | None) -> float | None:
    if form.activation is not Activation.STATIC_TENSOR:
        return None
    if scale is None:
        raise UsageError(
            f"{form.scheme} has static inputs, and no input_scale was given",
            where="input_scale",
            expected="the scale of the int8 input",
        )
    return scale
