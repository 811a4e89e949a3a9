"""Tuning of one layer: the static scale of its input, then weights that make up for each other's rounding errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vggt_edge.calibration.quantization.form import Form
from vggt_edge.calibration.quantization.ranges import BLOCK, ScaleNumbers
from vggt_edge.calibration.quantization.tuned import Tuned, set_tuned
from vggt_edge.calibration.scheme import NumberType
from vggt_edge.calibration.tuning.gptq import compensated
from vggt_edge.calibration.tuning.grids import Palette, Uniform, block_grid, palette_grid, uniform_grids
from vggt_edge.calibration.tuning.input_scale import Sample, best_input_scale

WEIGHT_SHRINKS = (1.0, 0.92, 0.84, 0.76)
"""Of the scale that the largest weight asks for; each row keeps the one with the smallest error."""


@dataclass(frozen=True)
class Evidence:
    """What calibration saw come into a layer.

    hessian: (in, in) of a linear, sum over tokens of weight * (x - mean)(x - mean)^T; None for a convolution. sample:
    of some tokens or maps. channel_absmax: (in,), of all. mean: (in,), weighted; None where no bias can take up what a
    rounded weight makes of it: the Hessian is about 0 then.
    """

    hessian: Tensor | None
    sample: Sample
    channel_absmax: Tensor
    mean: Tensor | None = None

    @property
    def absmax(self) -> float:
        return float(self.channel_absmax.max())

    @property
    def is_finite(self) -> bool:
        """Neither what came in nor the gradients hold NaN or Inf."""
        seen = (self.channel_absmax, self.sample.slopes, self.hessian, self.mean)
        return all(bool(torch.isfinite(values).all()) for values in seen if values is not None)


def tune_layer(
    layer: nn.Module,
    form: Form,
    evidence: Evidence,
    compensation: bool = True,
) -> None:
    """Give ``layer``, in place, weights of its form's grid and what is needed to find that grid again.

    A form that is not quantized leaves it as it is. compensation: a part that an ablation switches off; the weight is
    left to be rounded then.
    """
    if not form.is_quantized:
        return
    tuned = Tuned(form.scheme)
    if form.activation.is_calibrated and evidence.absmax > 0:
        tuned = replace(tuned, input_scale=best_input_scale(evidence.sample, evidence.absmax, form))
    if isinstance(layer, nn.Linear) and evidence.hessian is not None and compensation:
        before = layer.weight.detach().float()
        tuned = _rounded(layer, form, evidence, tuned)
        _correct_bias(layer, before, form, tuned, evidence)
    set_tuned(layer, tuned)


def _rounded(layer: nn.Linear, form: Form, evidence: Evidence, tuned: Tuned) -> Tuned:
    assert evidence.hessian is not None
    weight, hessian = layer.weight.detach().float(), evidence.hessian
    if form.weight.type is NumberType.PALETTE:
        grid = palette_grid(layer, form, _importance(hessian))
        stored, _ = _chosen(weight, hessian, compensated(weight, hessian, grid.nearest), grid)
        tuned = replace(tuned, weight_table=grid.table)
    else:
        best = _best_blocks if form.scale is ScaleNumbers.E4M3 else _best_rows
        stored, scale = best(layer, form, hessian)
        tuned = replace(tuned, weight_scale=scale)
    layer.weight = nn.Parameter(stored, requires_grad=False)
    return tuned


def _best_rows(layer: nn.Linear, form: Form, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Rounded weight and scale. Rows are rounded independently of each other, so each may take its own shrink, and all
    shrinks are tried at once, as if each were a layer of its own below the others.
    """
    weight = layer.weight.detach().float()
    grids = list(uniform_grids(layer, form, WEIGHT_SHRINKS))
    every = replace(grids[0], scale=torch.cat([grid.scale for grid in grids]))
    ours = compensated(weight.repeat(len(grids), 1), hessian, every.nearest)
    stored, chosen = _chosen(weight, hessian, ours, grids[0])
    return stored, torch.cat([every.scale, grids[0].scale])[chosen]


def _best_blocks(layer: nn.Linear, form: Form, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Rounded weight and scale, where blocks take their scales in the course of compensation."""
    weight, fitted = layer.weight.detach().float(), block_grid(layer, form)
    plain = Uniform(fitted.scale.clone(), layer.in_features, form)
    ours = compensated(weight, hessian, fitted.nearest, fit=fitted.fit, block=BLOCK)
    stored, chosen = _chosen(weight, hessian, ours, plain)
    return stored, torch.cat([fitted.scale, plain.scale])[chosen]


def _chosen(weight: Tensor, hessian: Tensor, ours: Tensor, grid: Uniform | Palette) -> tuple[Tensor, Tensor]:
    """The best form of each row, and which it is: of those that ``ours`` has below each other, or plain rounding.

    Compensation is greedy and goes by a damped Hessian, so that in a few rows of a thousand it loses.
    """
    forms = torch.cat([ours, grid.rounded(weight)])
    errors = _row_errors(weight.repeat(len(forms) // len(weight), 1) - forms, hessian).view(-1, len(weight))
    chosen = errors.argmin(dim=0) * len(weight) + torch.arange(len(weight))
    return forms[chosen], chosen


def _row_errors(deviation: Tensor, hessian: Tensor) -> Tensor:
    return ((deviation @ hessian) * deviation).sum(dim=1)


def _importance(hessian: Tensor) -> Tensor:
    """Of each input channel, for k-means: the mean square of what came in, never nothing."""
    diagonal = hessian.diagonal().float()
    return diagonal + (float(diagonal.mean()) or 1.0) * 1e-3


def _correct_bias(layer: nn.Linear, before: Tensor, form: Form, tuned: Tuned, evidence: Evidence) -> None:
    """Put the mean error of the output into the bias, which costs nothing (Nagel et al., ICCV 2019, section 4.2)."""
    bias: Tensor | None = layer.bias
    if bias is None or evidence.mean is None:
        return
    sample, stored = evidence.sample.x, layer.weight.detach()
    of_input = (sample - form.fake_quantize_input(sample, tuned.input_scale)).mean(dim=0)
    lost = (before - stored) @ evidence.mean + stored @ of_input
    layer.bias = nn.Parameter(bias.detach() + lost, requires_grad=False)
