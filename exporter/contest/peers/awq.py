"""AWQ (Lin et al., MLSys 2024, arXiv 2306.00978), with the settings of the paper and of its released code.

Scale search (equations 4 and 5): s = mean|X|^r, at least 1e-4 and divided by sqrt(max s * min s); of the 20 ratios r =
0, 0.05, ..., 0.95 the one with the least ||Q(W diag(s)) (diag(s)^-1 X) - W X||^2, per linear. Then clipping (the
released ``auto_clip.py``): per group of weights, or per channel, the one of the shrinks 1, 0.95, ..., 0.55 with the
least squared error of that group's share of the output, on at most 512 tokens; rows of q and k are not clipped. Inputs
are those of the FP32 model. Differences, all in its favour or of the frame: grids are symmetric, as all are here; the
search sees quantized activations where the scheme has them (AWQ is weight-only); and every linear is scaled, also where
no layer before could take the division over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import Scheme
from vggt_edge.exporter.contest.peers.inputs import M, block_linears, channel_peaks, quantized_copy, sampled_stages
from vggt_edge.exporter.contest.peers.layer import (
    SimulatedLinear,
    group_of,
    rounded_weight,
    static_scale,
)

RATIOS = 20
SHRINKS, SHRINK_STEPS = 10, 20  # 20 steps down to zero, of which the first half is tried: max shrink 0.5
CLIP_ROWS = 512
SMALLEST = 1e-4
QUERY_KEY_VALUE = "attn.qkv"


@dataclass(frozen=True)
class Found:
    """divisor: (in,), s. clip: per scale of the weight, (out,) or (out, groups)."""

    divisor: Tensor
    clip: Tensor


def quantize(model: M, scenes: Sequence[Scene], scheme: Scheme, seed: int) -> M:
    """A quantized copy of ``model``. seed: of the tokens that the search looks at, where there are more than enough."""
    stats, linears = calibrate(model, scenes), block_linears(model)
    found: dict[str, Found] = {}
    for sampled in sampled_stages(model, scenes, linears, seed=seed):
        for name, rows in sampled.items():
            free = name.endswith(QUERY_KEY_VALUE)
            found[name] = search(linears[name], rows.values, channel_peaks(stats, name), scheme, clip_all=not free)

    def make(name: str, layer: nn.Linear) -> SimulatedLinear:
        one = found[name]
        return scaled(layer, one.divisor, channel_peaks(stats, name), scheme, one.clip)

    return quantized_copy(model, stats, scheme, make)


def scaled(
    layer: nn.Linear, divisor: Tensor, peaks: Tensor, scheme: Scheme, clip: Tensor | float = 1.0
) -> SimulatedLinear:
    """The linear with W diag(divisor) on the grid, for inputs that reach ``peaks``, (in,)."""
    rounded = rounded_weight(layer.weight.detach() * divisor, scheme, clip)
    scale = static_scale(scheme, float((peaks / divisor).max()))
    return SimulatedLinear(layer, rounded, scheme, input_scale=scale, divisor=divisor)


def search(layer: nn.Linear, x: Tensor, peaks: Tensor, scheme: Scheme, *, clip_all: bool = True) -> Found:
    """x: (rows, in), inputs of the layer. Without ``clip_all`` the first two thirds of the outputs keep their range."""
    ratio = search_ratio(layer, x, peaks, scheme)
    divisor = scales(x, ratio)
    clip = search_clip(layer.weight.detach() * divisor, x / divisor, scheme)
    if not clip_all:
        clip[: 2 * (len(clip) // 3)] = 1.0
    return Found(divisor, clip)


def scales(x: Tensor, ratio: float) -> Tensor:
    """s, (in,), for inputs x (rows, in)."""
    raw = x.abs().mean(dim=0).pow(ratio).clamp(min=SMALLEST)
    return raw / (raw.max() * raw.min()).sqrt()


def search_ratio(layer: nn.Linear, x: Tensor, peaks: Tensor, scheme: Scheme) -> float:
    """The best of the ratios; the smallest among equals."""
    with torch.no_grad():
        wanted = functional.linear(x, layer.weight, layer.bias)
        errors = [
            float((scaled(layer, scales(x, step / RATIOS), peaks, scheme)(x) - wanted).square().mean())
            for step in range(RATIOS)
        ]
    return errors.index(min(errors)) / RATIOS


def search_clip(weight: Tensor, x: Tensor, scheme: Scheme) -> Tensor:
    """The best shrink of each scale of ``weight``, (out,) or (out, groups), for inputs x (rows, in)."""
    x = x[:: max(1, len(x) // CLIP_ROWS)]
    group = group_of(weight, scheme)
    parts = x.reshape(len(x), -1, group or x.shape[1]).transpose(0, 1)
    products = parts.transpose(1, 2) @ parts / len(x)
    best = torch.full((weight.shape[0], len(products)), torch.inf)
    clip = torch.ones_like(best)
    for step in range(SHRINKS):
        shrink = 1 - step / SHRINK_STEPS
        off = (rounded_weight(weight, scheme, shrink) - weight).reshape(weight.shape[0], len(products), -1)
        error = (torch.einsum("ogk,gkl->ogl", off, products) * off).sum(dim=2)
        better = error < best
        best, clip = torch.where(better, error, best), torch.where(better, shrink, clip)
    return clip[:, 0] if group is None else clip
