"""Angles held to those of torch."""

from __future__ import annotations

import torch

from vggt_edge.exporter.models.angles import twice_arctangent


def test_twice_the_arctangent() -> None:
    angles = torch.linspace(0.001, 1.57, 500, dtype=torch.float64)
    torch.testing.assert_close(twice_arctangent(3 * angles.sin(), 3 * angles.cos()), 2 * angles, rtol=1e-6, atol=0)
