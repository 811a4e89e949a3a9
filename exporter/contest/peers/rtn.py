"""Rounding to nearest with the largest magnitudes as ranges: what every other method is to be better than."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import Scheme
from vggt_edge.exporter.contest.peers.inputs import M, channel_peaks, quantized_copy
from vggt_edge.exporter.contest.peers.layer import SimulatedLinear, rounded_weight, static_scale


def quantize(model: M, scenes: Sequence[Scene], scheme: Scheme, seed: int) -> M:
    """A quantized copy of ``model``. Nothing is drawn: ``seed`` changes nothing."""
    stats = calibrate(model, scenes)

    def make(name: str, layer: nn.Linear) -> SimulatedLinear:
        scale = static_scale(scheme, float(channel_peaks(stats, name).max()))
        return SimulatedLinear(layer, rounded_weight(layer.weight, scheme), scheme, input_scale=scale)

    return quantized_copy(model, stats, scheme, make)
