"""The task objective: zero at FP32, equal to the sensitivity's error, and its geometry that of numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vggt_edge.calibration.metrics import geometry
from vggt_edge.calibration.sensitivity.ablation import output_errors, weighted
from vggt_edge.calibration.tuning.objective import GEOMETRY, task_loss, task_losses, unproject
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.vggt import ARCHITECTURE

DECLARED = ARCHITECTURE.outputs
SEEDS = st.integers(0, 10_000)
FRAMES, HEIGHT, WIDTH = 3, 4, 6


def outputs_of(seed: int) -> dict[str, Tensor]:
    """Plausible outputs of all heads: rotations of any length and sign, fields of view within a camera's limits."""
    generator = torch.Generator().manual_seed(seed)
    pose = torch.randn(1, FRAMES, 9, generator=generator)
    pose[..., 7:] = 0.4 + torch.rand(1, FRAMES, 2, generator=generator)
    maps = 0.5 + torch.rand(1, FRAMES, HEIGHT, WIDTH, generator=generator)
    points = torch.randn(1, FRAMES, HEIGHT, WIDTH, 3, generator=generator)
    return {"pose_enc": pose, "depth": maps, "points": points, "depth_conf": maps + 1}


def moved(outputs: dict[str, Tensor], seed: int, by: float = 0.01) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: value + by * torch.randn(value.shape, generator=generator) for name, value in outputs.items()}


@given(SEEDS)
def test_fp32_outputs_cost_nothing(seed: int) -> None:
    """Every part is exactly zero for equal outputs."""
    outputs = outputs_of(seed)
    losses = task_losses(DECLARED, outputs, outputs)
    assert set(losses) == {"pose_enc", "depth", "points", GEOMETRY}
    assert all(float(loss) == 0 for loss in losses.values())


@given(SEEDS)
def test_the_sign_of_a_quaternion_means_nothing(seed: int) -> None:
    """q and -q are one rotation, for the pose and for the points that it unprojects."""
    reference = outputs_of(seed)
    outputs = moved(reference, seed + 1)
    pose = outputs["pose_enc"].clone()
    pose[..., 3:7] *= -1
    flipped = task_losses(DECLARED, {**outputs, "pose_enc": pose}, reference)
    for name, loss in task_losses(DECLARED, outputs, reference).items():
        torch.testing.assert_close(flipped[name], loss, rtol=1e-4, atol=1e-9)


@given(SEEDS)
def test_without_geometry_it_is_the_error_of_the_sensitivity(seed: int) -> None:
    """Same residuals, same weights: the plan and the search minimise one thing."""
    reference = outputs_of(seed)
    outputs = moved(reference, seed + 1)
    loss = task_loss(DECLARED, outputs, reference, geometry=0.0)
    assert float(loss) == pytest.approx(weighted(DECLARED, output_errors(DECLARED, outputs, reference)), rel=1e-5)


@given(SEEDS)
def test_unprojection_is_that_of_numpy(seed: int) -> None:
    """The torch twin agrees with calibration/metrics/geometry.py on cameras of any rotation."""
    outputs = outputs_of(seed)
    pose, depth = outputs["pose_enc"][0].double().numpy(), outputs["depth"][0].double().numpy()
    extrinsics, intrinsics = geometry.decode_pose(pose, (HEIGHT, WIDTH))
    wanted = geometry.unproject(depth, intrinsics, extrinsics)
    ours = unproject(outputs["depth"].double(), outputs["pose_enc"].double())[0].numpy()
    np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("by", [0.0, 1e-3, 10.0])
def test_gradients_are_finite(by: float) -> None:
    """Also at the reference itself, where the norm of a difference has a kink, and for a closed field of view."""
    reference = outputs_of(0)
    reference["pose_enc"][0, 1, 7:] = 0
    outputs = {name: value.requires_grad_() for name, value in moved(reference, 1, by).items()}
    task_loss(DECLARED, outputs, reference).backward()  # type: ignore[no-untyped-call]
    for name in ("pose_enc", "depth", "points"):
        assert bool(torch.isfinite(outputs[name].grad).all()), name  # type: ignore[arg-type]
    assert outputs["depth_conf"].grad is None


def test_gradients_are_those_of_finite_differences() -> None:
    """Of the geometry alone, which nothing else checks, in double precision."""
    reference = {name: value.double() for name, value in outputs_of(3).items()}
    ours = {name: value.requires_grad_() for name, value in moved(reference, 4, 0.02).items()}

    def loss(pose: Tensor, depth: Tensor) -> Tensor:
        return task_losses(DECLARED, {"pose_enc": pose, "depth": depth}, reference)[GEOMETRY]

    assert torch.autograd.gradcheck(loss, (ours["pose_enc"], ours["depth"]))


def test_errors_that_cancel_where_they_meet_do_not_count_twice() -> None:
    """A longer depth seen from a camera set back by as much gives the same points; with the other sign they add up."""
    pose = torch.zeros(1, 1, 9)
    pose[..., 6], pose[..., 7:] = 1, 0.02  # a narrow view along z: depth and translation are one direction
    reference = {"pose_enc": pose, "depth": torch.full((1, 1, 4, 4), 5.0)}
    for sign, wanted in ((1.0, 0.0), (-1.0, (2 * 0.01) ** 2 / 2)):
        shifted = pose.clone()
        shifted[..., 2] += sign * 0.05
        losses = task_losses(DECLARED, {"pose_enc": shifted, "depth": reference["depth"] + 0.05}, reference)
        assert float(losses[GEOMETRY]) == pytest.approx(wanted, abs=1e-7)


def test_missing_heads_are_left_out() -> None:
    """A single head has its own part, and no geometry."""
    reference = outputs_of(0)
    assert set(task_losses(DECLARED, {"depth": reference["depth"]}, reference)) == {"depth"}
    assert set(task_losses(DECLARED, {"points": reference["points"]}, reference)) == {"points"}


def test_what_has_no_meaning_is_refused() -> None:
    """No head at all, no reference, another shape."""
    reference = outputs_of(0)
    with pytest.raises(InputError, match="none of the outputs"):
        task_losses(DECLARED, {"depth_conf": reference["depth_conf"]}, reference)
    with pytest.raises(InputError, match="depth has no FP32 reference"):
        task_losses(DECLARED, {"depth": reference["depth"]}, {"points": reference["points"]})
    with pytest.raises(InputError, match="points has no FP32 reference"):
        task_losses(DECLARED, {"points": reference["points"][:, :2]}, reference)
