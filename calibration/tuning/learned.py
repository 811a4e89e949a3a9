"""Layers that compute as their quantized form does and can still be learned: roundings let gradients through.

The straight-through estimator (Bengio et al., arXiv 1308.3432) with learned steps (LSQ, Esser et al., ICLR 2020): what
is clipped gets no gradient, what is rounded gets that of the identity, and scales are learned with the weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.linear import (
    DYNAMIC,
    Geometry,
    default_scale,
    fake_quantize_input,
    group_rounding,
    image_block,
    token_block,
)
from vggt_edge.calibration.quantization.tuned import Tuned, any_tuned, set_tuned
from vggt_edge.calibration.scheme import Activation, Scheme


def straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    """The value of ``rounded`` with the gradient of ``exact``."""
    return exact + (rounded - exact).detach()


class LearnedLayer(nn.Module):
    """A linear or convolution under a scheme of uniform grids. Parameters: weight, scale, bias, input scale."""

    def __init__(self, source: nn.Module, scheme: Scheme, group_size: int, input_scale: float | None) -> None:
        super().__init__()
        assert isinstance(source, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        self.scheme = scheme
        self.axis = 1 if isinstance(source, nn.ConvTranspose2d) else 0
        self.geometry = None if isinstance(source, nn.Linear) else Geometry.of(source)
        self.integers = q.WEIGHT_RANGES[scheme.weight_bits]
        dynamic = scheme.activation is Activation.DYNAMIC_TOKEN
        grouped = isinstance(source, nn.Linear) and scheme.group_size is not None
        group = q.usable_group(source.in_features, group_size) if isinstance(source, nn.Linear) and grouped else None
        self.rounding: Callable[[Tensor], Tensor] = group_rounding(dynamic) if group else q.fp16_ceil
        found = any_tuned(source)
        weight = source.weight.detach().float()
        scale = found.weight_scale if found is not None and found.weight_scale is not None else None
        if scale is None:
            scale = default_scale(weight, scheme.weight_bits, group, self.axis, dynamic=dynamic)
        self.weight = nn.Parameter(weight.clone())
        self.log_scale = nn.Parameter(scale.log())
        self.bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())
        static = scheme.activation is Activation.STATIC_TENSOR and input_scale
        self.log_input = nn.Parameter(torch.tensor(float(input_scale or 1.0)).log()) if static else None

    def stored_scale(self) -> Tensor:
        """As a device stores it."""
        return self.rounding(self.log_scale.detach().exp().clamp(q.FP16_MIN, q.FP16_MAX / 2))

    def stored_weight(self) -> Tensor:
        """On the grid."""
        with torch.no_grad():
            return self._weight()

    def _weight(self) -> Tensor:
        raw = self.log_scale.exp()
        scale = q.spread(straight_through(raw, self.stored_scale()), self.weight, self.axis)
        steps = (self.weight / scale).clamp(self.integers.low, self.integers.high)
        return straight_through(steps, steps.round()) * scale

    def _input(self, x: Tensor) -> Tensor:
        if self.scheme.activation is Activation.DYNAMIC_TOKEN:
            block = token_block(x) if self.geometry is None else image_block(x)
            with torch.no_grad():
                rounded = fake_quantize_input(x, DYNAMIC, block, self.scheme.activation_bits)
            return straight_through(x, rounded)
        if self.log_input is None:
            return x
        scale = straight_through(self.log_input.exp(), q.fp16_ceil(self.log_input.detach().exp()))
        steps = (x / scale).clamp(q.ACTIVATION_RANGE.low, q.ACTIVATION_RANGE.high)
        return straight_through(steps, steps.round()) * scale

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self._input(x), self._weight()
        if self.geometry is None:
            return functional.linear(x, weight, self.bias)
        convolve = self.geometry.convolve_transposed if self.axis else self.geometry.convolve
        return convolve(x, weight, self.bias)

    def put_into(self, layer: nn.Module) -> None:
        """Give what was learned to the layer that this one was made from."""
        assert isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        layer.weight = nn.Parameter(self.stored_weight(), requires_grad=False)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        scale = None if self.log_input is None else float(q.fp16_ceil(self.log_input.detach().exp()))
        set_tuned(layer, Tuned(self.scheme.name, weight_scale=self.stored_scale(), input_scale=scale))
