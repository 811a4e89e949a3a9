"""SmoothQuant (Xiao et al., ICML 2023, arXiv 2211.10438), with the settings of the paper and of its released code.

Per input channel j, X diag(1/s) diag(s) W^T with s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) (equation 4), alpha = 0.5
(section 5.1, for OPT and BLOOM). As released (``smoothquant/smooth.py``): only linears that read a LayerNorm are
smoothed, since the division folds into it, weights' maxima and s are at least 1e-5, and weights are then rounded to
nearest. Where a scheme leaves activations alone this is smoothing and rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import Scheme
from vggt_edge.exporter.contest.peers.inputs import M, channel_peaks, quantized_copy
from vggt_edge.exporter.contest.peers.layer import SimulatedLinear, rounded_weight, static_scale

ALPHA = 0.5
SMALLEST = 1e-5
AFTER_NORM = ("attn.qkv", "mlp.fc1")


def quantize(model: M, scenes: Sequence[Scene], scheme: Scheme, seed: int) -> M:
    """A quantized copy of ``model``. Nothing is drawn: ``seed`` changes nothing."""
    stats = calibrate(model, scenes)

    def make(name: str, layer: nn.Linear) -> SimulatedLinear:
        return smoothed(layer, channel_peaks(stats, name), scheme, divide=name.endswith(AFTER_NORM))

    return quantized_copy(model, stats, scheme, make)


def smoothed(layer: nn.Linear, peaks: Tensor, scheme: Scheme, *, divide: bool = True) -> SimulatedLinear:
    """peaks: (in,), the largest magnitude of each input channel. Rounds to nearest alone without ``divide``."""
    weight = layer.weight.detach()
    if not divide:
        scale = static_scale(scheme, float(peaks.max()))
        return SimulatedLinear(layer, rounded_weight(weight, scheme), scheme, input_scale=scale)
    divisor = smoothing(peaks, weight)
    scale = static_scale(scheme, float((peaks / divisor).max()))
    rounded = rounded_weight(weight * divisor, scheme)
    return SimulatedLinear(layer, rounded, scheme, input_scale=scale, divisor=divisor)


def smoothing(peaks: Tensor, weight: Tensor, alpha: float = ALPHA) -> Tensor:
    """s, (in,), of a weight (out, in)."""
    columns = weight.abs().amax(dim=0).clamp(min=SMALLEST)
    return (peaks.pow(alpha) / columns.pow(1 - alpha)).clamp(min=SMALLEST)
