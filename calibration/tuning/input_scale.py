"""The static scale of an int8 input, by what its rounding does to the layer's output (layer reconstruction)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vggt_edge.calibration import quantize as q
from vggt_edge.calibration.linear import fake_quantize_input, token_block

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4)
"""Of the largest magnitude that came in."""


def best_input_scale(layer: nn.Module, sample: Tensor, absmax: float) -> float:
    """Of a linear (sample: (rows, in)) or a convolution (sample: (N, C, H, W)); ties go to the larger scale."""
    scales = [q.activation_scale(absmax * shrink) for shrink in SHRINKS]
    errors = [_output_error(layer, sample, scale) for scale in scales]
    return scales[min(range(len(scales)), key=lambda index: errors[index])]


def _output_error(layer: nn.Module, sample: Tensor, scale: float) -> float:
    """The layer is linear, so what leaves it for the deviation alone is the deviation of what leaves it."""
    deviation = fake_quantize_input(sample, scale, token_block(sample)) - sample
    with torch.inference_mode():
        moved = layer(deviation)
        still = layer(torch.zeros_like(deviation[:1]))
    return float((moved - still).square().mean())
