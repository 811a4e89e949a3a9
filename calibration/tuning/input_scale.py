"""The static scale of an int8 input, by what its rounding does to the task outputs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vggt_edge.calibration.quantization.form import Form

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4)
"""Of the largest magnitude that came in."""


@dataclass(frozen=True)
class Sample:
    """Tokens (rows, in) or maps (N, C, H, W) that came into a layer, and the gradients of a probe by them.

    share: of all that came in.
    """

    x: Tensor
    slopes: Tensor
    share: float


def best_input_scale(sample: Sample, absmax: float, form: Form) -> float:
    """The scale with the least predicted error of the outputs; ties go to the larger one.

    absmax: of all that was seen, more than the sample.
    """
    scales = [form.input_scale(absmax * shrink) for shrink in SHRINKS]
    errors = [_error(sample, scale, form) for scale in scales]
    return scales[min(range(len(scales)), key=lambda index: errors[index])]


def _error(sample: Sample, scale: float, form: Form) -> float:
    return predicted_error(sample, form.fake_quantize_input(sample.x, scale) - sample.x)


def predicted_error(sample: Sample, deviation: Tensor) -> float:
    """The sum over tokens, or places of a map, of <slopes, deviation>^2.

    Values that are clipped all deviate to one side, so the channels of a token do not cancel and are summed first.
    """
    channels = 1 if deviation.ndim == 4 else -1
    return float((deviation * sample.slopes).sum(dim=channels).square().sum())
