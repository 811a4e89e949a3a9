"""GPTQ as a method of the comparison: on its grid, and better than rounding to nearest where inputs go together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.exporter.contest.peers.gptq import compensated_weight
from vggt_edge.exporter.contest.peers.layer import SimulatedLinear, grid, rounded_weight, static_scale


def correlated(rows: int, width: int) -> Tensor:
    """Inputs that mostly lie in a quarter of all directions."""
    torch.manual_seed(0)
    return torch.randn(rows, width // 4) @ torch.randn(width // 4, width) + 0.1 * torch.randn(rows, width)


@pytest.mark.parametrize(("name", "factor"), [("w4a16", 3), ("w4a8d", 3), ("w4a4d", 1), ("w8a8", 1)])
def test_beats_rounding_to_nearest_on_correlated_inputs(name: str, factor: float) -> None:
    """Where activations have eight bits or less, their error comes on top, which compensation does not see."""
    x, layer, scheme = correlated(512, 64), nn.Linear(64, 48), SCHEMES[name]
    scale = static_scale(scheme, float(x.abs().max()))
    stored = compensated_weight(layer.weight, x.T @ x, scheme)
    nearest = rounded_weight(layer.weight, scheme)
    with torch.no_grad():
        errors = [
            float((SimulatedLinear(layer, weight, scheme, input_scale=scale)(x) - layer(x)).square().mean())
            for weight in (stored, nearest)
        ]
    assert errors[0] * factor < errors[1]


@pytest.mark.parametrize("name", ["w4a16", "w8a8", "w4a4d"])
def test_stays_on_the_grid(name: str) -> None:
    x, weight, scheme = correlated(256, 64), torch.randn(16, 64), SCHEMES[name]
    stored = compensated_weight(weight, x.T @ x, scheme, 0.8)
    scale, limits = grid(weight, scheme, 0.8)
    integers = stored / scale
    torch.testing.assert_close(integers, integers.round())
    assert float(integers.min()) >= limits.low
    assert float(integers.max()) <= limits.high


def test_uncorrelated_inputs_are_rounded_to_nearest() -> None:
    weight, scheme = torch.randn(16, 64), SCHEMES["w4a16"]
    assert torch.equal(compensated_weight(weight, torch.eye(64), scheme), rounded_weight(weight, scheme))


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_nothing_to_compensate_without_integers(name: str) -> None:
    x, weight = correlated(64, 32), torch.randn(4, 32)
    assert torch.equal(compensated_weight(weight, x.T @ x, SCHEMES[name]), rounded_weight(weight, SCHEMES[name]))
