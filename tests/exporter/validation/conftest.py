"""Rendered scenes, and the outputs of a model that knows the truth: what a validation of real outputs looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vggt_edge.calibration.metrics.geometry import encode_pose
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scenes.synthetic import render_scene

Outputs = dict[str, npt.NDArray[Any]]
HEIGHT, WIDTH, FRAMES = 28, 42, 3


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    return [render_scene(seed, FRAMES, HEIGHT, WIDTH) for seed in (1, 2)]


@pytest.fixture(scope="session")
def photos(scenes: list[Scene]) -> list[Scene]:
    """The same scenes as a user has them: without ground truth."""
    return [replace(scene, ground_truth=None) for scene in scenes]


@pytest.fixture(scope="session")
def perfect(scenes: list[Scene]) -> list[Outputs]:
    return [_truth(scene) for scene in scenes]


def _truth(scene: Scene) -> Outputs:
    truth = scene.ground_truth
    assert truth is not None
    assert truth.depth is not None
    assert truth.points is not None
    confidence = 1 + np.linspace(0, 1, truth.depth.size, dtype=np.float32).reshape(truth.depth.shape)
    outputs = {
        "pose_enc": encode_pose(truth.extrinsics, truth.intrinsics, (HEIGHT, WIDTH)),
        "depth": truth.depth,
        "depth_conf": confidence,
        "points": truth.points,
        "points_conf": confidence,
    }
    return {name: value[None].astype(np.float32) for name, value in outputs.items()}


@pytest.fixture(scope="session")
def disturbed(perfect: list[Outputs]) -> Callable[[float], list[Outputs]]:
    """Outputs with noise of a given share of each output's RMS."""

    def disturb(share: float) -> list[Outputs]:
        rng = np.random.default_rng(0)
        return [{name: _noisy(value, share, rng) for name, value in outputs.items()} for outputs in perfect]

    return disturb


def _noisy(value: npt.NDArray[Any], share: float, rng: np.random.Generator) -> npt.NDArray[Any]:
    noise = rng.normal(scale=share * np.sqrt(np.mean(value**2)), size=value.shape)
    return (value + noise).astype(np.float32)


def without(outputs: Sequence[Outputs], *names: str) -> list[Outputs]:
    return [{name: value for name, value in each.items() if name not in names} for each in outputs]
