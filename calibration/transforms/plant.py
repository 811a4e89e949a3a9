"""Plant outliers into a model without changing what it computes: a harder case for quantizers, made to measure.

Large transformers grow a few channels that are far larger than the others (LLM.int8(), arXiv 2208.07339); a small one
does not, and would flatter every method. The factor is a power of two, so that not a bit of the outputs depends on it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from vggt_edge.calibration.transforms.heads import scale_values
from vggt_edge.calibration.transforms.rewrite import ModelT, changed
from vggt_edge.calibration.transforms.rotation import generator
from vggt_edge.calibration.transforms.smoothing import divide
from vggt_edge.calibration.transforms.weights import layer_at, norm_at
from vggt_edge.calibration.transforms.wiring import Unit

FACTOR = 32.0
CHANNELS = 4


def plant(model: ModelT, seed: int, *, factor: float = FACTOR, channels: int = CHANNELS) -> ModelT:
    """A copy of ``model`` with outliers in every block: ``channels`` channels each of what ``qkv`` and ``fc1`` read and
    of the values, ``factor`` times as large, and their weights behind it as much smaller.
    """
    return changed(model, partial(_plant, seed=seed, factor=factor, channels=channels))


def _plant(module: nn.Module, unit: Unit, *, seed: int, factor: float, channels: int) -> None:
    if unit.values is None:  # no block
        return
    for read in unit.reads:
        if read.norm is not None:
            norm = norm_at(module, read.norm)
            chosen = _chosen(len(norm.weight), channels, factor, seed, f"{unit.path}.{read.norm}")
            divide(norm, [layer_at(module, path) for path in read.readers], 1 / chosen)
    width = layer_at(module, unit.values.proj).weight.shape[1]
    scale_values(module, unit.values, _chosen(width, channels, factor, seed, f"{unit.path}.values"))


def _chosen(width: int, channels: int, factor: float, seed: int, name: str) -> Tensor:
    """(width,): ``factor`` in a few drawn channels, 1 in all others."""
    factors = torch.ones(width, dtype=torch.float64)
    factors[torch.from_numpy(generator(seed, name).permutation(width)[:channels])] = factor
    return factors
