"""QuaRot (Ashkboos et al., NeurIPS 2024, arXiv 2404.00456) for a network with LayerNorm, with the paper's settings.

In front of each linear the input is multiplied with a Hadamard matrix of random signs, and the weight with its
transpose: outliers of a channel are shared among all. QuaRot folds most of these rotations into the weights around,
since RMSNorm commutes with them; LayerNorm does not, so here each costs a product per linear at run time, which is what
this simulation computes. Where a width is no power of two the matrix is block diagonal, of Hadamard matrices of the
largest power of two that divides it.

Weights (section 5): GPTQ, linear after linear, each grid shrunk by a linear search over the error of its weights (the
released ``quant_utils.py``: 80 steps of 1 %, errors to the power of 2.4). Activations: dynamic per token, 4-bit ranges
times 0.9; static ones by the largest rotated input of calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import Scheme
from vggt_edge.exporter.contest.peers.gptq import compensated_weight
from vggt_edge.exporter.contest.peers.inputs import M, block_linears, generator_of, quantized_in_order
from vggt_edge.exporter.contest.peers.layer import SimulatedLinear, form_of, group_of, rounded_weight, static_scale

ACTIVATION_CLIPS = {4: 0.9}
SHRINKS, SHRINK_STEPS = 80, 100
ERROR_POWER = 2.4


def quantize(model: M, scenes: Sequence[Scene], scheme: Scheme, seed: int) -> M:
    """A quantized copy of ``model``. seed: of the signs."""
    widths = sorted({layer.in_features for layer in block_linears(model).values()})
    seen = _Seen({width: random_hadamard(width, seed) for width in widths})

    def make(name: str, layer: nn.Linear) -> SimulatedLinear:
        return rotated(layer, seen.rotations[layer.in_features], seen.hessians.pop(name), seen.peaks[name], scheme)

    return quantized_in_order(model, calibrate(model, scenes), scheme, scenes, seen.see, make, one_by_one=True)


class _Seen:
    """What went into each linear, rotated: products for GPTQ, and the largest magnitude."""

    def __init__(self, rotations: Mapping[int, Tensor]) -> None:
        self.rotations = rotations
        self.hessians: dict[str, Tensor] = {}
        self.peaks: dict[str, float] = {}

    def see(self, name: str, x: Tensor) -> None:
        x = x @ self.rotations[x.shape[1]]
        self.hessians[name] = self.hessians.get(name, 0) + x.T @ x
        self.peaks[name] = max(self.peaks.get(name, 0.0), float(x.abs().max()))


def rotated(layer: nn.Linear, rotation: Tensor, hessian: Tensor, peak: float, scheme: Scheme) -> SimulatedLinear:
    """hessian: (in, in), of the rotated inputs, whose largest magnitude is ``peak``."""
    weight = layer.weight.detach() @ rotation
    stored = compensated_weight(weight, hessian, scheme, shrinks(weight, scheme))
    clip = ACTIVATION_CLIPS.get(scheme.activation_bits, 1.0)
    return SimulatedLinear(layer, stored, scheme, input_scale=static_scale(scheme, peak), rotation=rotation, clip=clip)


def random_hadamard(width: int, seed: int) -> Tensor:
    """(width, width), orthogonal: signs drawn by ``seed`` for the inputs, then Hadamard matrices along the diagonal."""
    size = width & -width
    block = torch.ones(1, 1)
    while len(block) < size:
        block = torch.cat([torch.cat([block, block], dim=1), torch.cat([block, -block], dim=1)])
    signs = 2 * torch.randint(2, (width, 1), generator=generator_of(f"signs {width}", seed)) - 1
    blocks: Tensor = torch.kron(torch.eye(width // size), block)
    random: Tensor = signs * blocks / size**0.5
    return random


def shrinks(weight: Tensor, scheme: Scheme) -> Tensor | float:
    """Of each scale of ``weight``, (out,) or (out, groups): the factor on its range with the least rounding error."""
    if not form_of(weight, scheme).is_quantized:
        return 1.0
    group = group_of(weight, scheme)
    best = torch.full((weight.shape[0], weight.shape[1] // (group or weight.shape[1])), torch.inf)
    found = torch.ones_like(best)
    for step in range(SHRINKS):
        shrink = 1 - step / SHRINK_STEPS
        off = (rounded_weight(weight, scheme, shrink) - weight).reshape(*best.shape, -1)
        error = off.abs().pow(ERROR_POWER).sum(dim=2)
        better = error < best
        best, found = torch.where(better, error, best), torch.where(better, shrink, found)
    return found[:, 0] if group is None else found
