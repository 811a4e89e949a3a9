"""GPTQ (Frantar et al., ICLR 2023, arXiv 2210.17323), with the settings of the paper.

Block after block, as in the paper's experiments: the inputs of a block's linears are collected while everything before
it computes with what it was quantized to, all its linears are rounded with compensation (calibration/tuning/gptq.py,
damping 1 %),
and its new outputs go on to the next. The paper quantizes weights alone; where a scheme quantizes activations, the
layers before do so too. Columns go in descending order of the Hessian's diagonal (the released code's
``--act-order``), with grids fixed before (``--static-groups``).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import Scheme
from vggt_edge.calibration.tuning.gptq import DAMPING, compensated
from vggt_edge.exporter.contest.peers.inputs import M, channel_peaks, quantized_in_order
from vggt_edge.exporter.contest.peers.layer import SimulatedLinear, form_of, grid, rounded_weight, static_scale


def quantize(model: M, scenes: Sequence[Scene], scheme: Scheme, seed: int) -> M:
    """A quantized copy of ``model``. Nothing is drawn: ``seed`` changes nothing."""
    stats = calibrate(model, scenes)
    hessians: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        hessians[name] = hessians.get(name, 0) + x.T @ x

    def make(name: str, layer: nn.Linear) -> SimulatedLinear:
        weight = compensated_weight(layer.weight, hessians.pop(name), scheme)
        scale = static_scale(scheme, float(channel_peaks(stats, name).max()))
        return SimulatedLinear(layer, weight, scheme, input_scale=scale)

    return quantized_in_order(model, stats, scheme, scenes, see, make)


def compensated_weight(weight: Tensor, hessian: Tensor, scheme: Scheme, clip: Tensor | float = 1.0) -> Tensor:
    """(out, in) on the grid of ``scheme``, for inputs of X^T X = ``hessian``; as rounding where it has no integers."""
    if not form_of(weight, scheme).is_quantized:
        return rounded_weight(weight, scheme)
    scale, limits = grid(weight, scheme, clip)

    def nearest(values: Tensor, index: int) -> Tensor:
        # A scale per channel is spread as one column.
        column = scale[:, index if scale.shape[1] > 1 else 0]
        return limits.nearest(values / column) * column

    return compensated(weight, hessian, nearest, DAMPING)
