"""Layers that compute as their quantized form does and can still be learned: roundings let gradients through.

The straight-through estimator (Bengio et al., arXiv 1308.3432) with learned steps (LSQ, Esser et al., ICLR 2020): what
is clipped gets no gradient, what is rounded gets that of the identity, and scales are learned with the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.form import Form
from vggt_edge.calibration.quantization.linear import Geometry
from vggt_edge.calibration.quantization.ranges import Range
from vggt_edge.calibration.quantization.tuned import Tuned, any_tuned, set_tuned
from vggt_edge.calibration.scheme import Activation


def straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    """The value of ``rounded`` with the gradient of ``exact``."""
    return exact + (rounded - exact).detach()


def rounded_steps(exact: Tensor, numbers: Range) -> Tensor:
    """Values that were divided by their scale, to nearest; no gradient where they are clipped."""
    steps = exact.clamp(numbers.low, numbers.high)
    return straight_through(steps, numbers.nearest(steps))


class LearnedLayer(nn.Module):
    """A linear or convolution in a form of uniform grids. Parameters: weight, scale, bias, input scale."""

    def __init__(self, source: nn.Module, form: Form, input_scale: float | None) -> None:
        super().__init__()
        assert isinstance(source, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        self.form = form
        self.geometry = Geometry.of(source)
        found = any_tuned(source)
        weight = source.weight.detach().float()
        scale = found.weight_scale if found is not None and found.weight_scale is not None else None
        if scale is None:
            scale = form.scale_of(weight)
        self.weight = nn.Parameter(weight.clone())
        self.log_scale = nn.Parameter(scale.log())
        self.bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())
        self.input_scale = input_scale
        static = form.activation is Activation.STATIC_TENSOR and input_scale
        self.log_input = nn.Parameter(torch.tensor(float(input_scale or 1.0)).log()) if static else None

    def stored_scale(self) -> Tensor:
        """As a device stores it."""
        return self.form.stored_scale(self.log_scale.detach().exp().clamp(q.FP16_MIN, q.FP16_MAX / 2))

    def stored_weight(self) -> Tensor:
        """On the grid."""
        with torch.no_grad():
            return self._weight()

    def _weight(self) -> Tensor:
        raw = self.log_scale.exp()
        scale = self.form.spread(straight_through(raw, self.stored_scale()), self.weight)
        return rounded_steps(self.weight / scale, self.form.range) * scale

    def _input(self, x: Tensor) -> Tensor:
        if self.form.activation.is_dynamic:
            with torch.no_grad():
                rounded = self.form.fake_quantize_input(x, self.input_scale)
            return straight_through(x, rounded)
        if self.log_input is None:
            return x
        scale = straight_through(self.log_input.exp(), q.fp16_ceil(self.log_input.detach().exp()))
        return rounded_steps(x / scale, self.form.input_range) * scale

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self._input(x), self._weight()
        if self.geometry is None:
            return functional.linear(x, weight, self.bias)
        return self.geometry.convolve(x, weight, self.bias)

    def put_into(self, layer: nn.Module) -> None:
        """Give what was learned to the layer that this one was made from."""
        assert isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        layer.weight = nn.Parameter(self.stored_weight(), requires_grad=False)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        scale = self.input_scale if self.log_input is None else float(q.fp16_ceil(self.log_input.detach().exp()))
        set_tuned(layer, Tuned(self.form.scheme, weight_scale=self.stored_scale(), input_scale=scale))
