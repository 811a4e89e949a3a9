"""What a search is to keep small: how far the task outputs are from the FP32 model's, without ground truth.

QVGGT (arXiv 2605.31124) searches scales with camera (Huber), depth, point and cross-head losses. Here all of them
distil FP32, in the unit of ``sensitivity/ablation.py``: mean Huber loss (delta 0.1) of dimensionless residuals.

- ``pose_enc``, ``depth``, ``points``: the very residuals of ``sensitivity.residual``; confidences do not count.
- ``geometry``: per pixel ||unproject(depth, pose) - unproject(FP32 depth, FP32 pose)|| / scene scale.

QVGGT's cross-head term is mean ||points - unproject(depth, pose)||. FP32 itself does not bring that to zero, so its
minimum lies away from the FP32 outputs, and a search would trade their accuracy for agreement. ``geometry`` is zero for
FP32 outputs and bounds the other: with U the unprojected points, ||P - U|| exceeds FP32's by at most ||P - P_fp32|| +
||U - U_fp32||, which are the ``points`` and ``geometry`` residuals. It also sees what the parts alone do not: whether
errors of depth and of the camera add up or cancel where they meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from vggt_edge.calibration.metrics.geometry import FOV_LIMITS, PIXEL_CENTER
from vggt_edge.calibration.sensitivity.ablation import WEIGHTS, Outputs, huber, residual, scene_scale
from vggt_edge.devices.errors import InputError, UnknownNameError

GEOMETRY = "geometry"
TASK_WEIGHTS: Mapping[str, float] = MappingProxyType({**WEIGHTS, GEOMETRY: 1.0})
"""Weight of each part; those of the outputs are ``sensitivity.WEIGHTS``."""

_SHORTEST = 1e-12  # of a quaternion: below it no rotation is meant


def task_losses(outputs: Outputs, reference: Outputs) -> dict[str, Tensor]:
    """Unweighted loss of each part, scalars, differentiable; a part whose heads are missing is left out.

    outputs, reference: ``pose_enc`` (B, S, 9), ``depth`` (B, S, H, W), ``points`` (B, S, H, W, 3); others are ignored.
    reference: of the FP32 model; the scene scale is taken from it. ``InputError`` where an output has no reference of
    its shape, or none of the heads is there.
    """
    _check(outputs, reference)
    scale = scene_scale(reference)
    losses = {name: huber(residual(name, outputs[name], reference[name], scale)) for name in WEIGHTS if name in outputs}
    if {"pose_enc", "depth"} <= set(outputs):
        ours, wanted = (unproject(values["depth"], values["pose_enc"]) for values in (outputs, reference))
        losses[GEOMETRY] = huber(residual("points", ours, wanted, scale))
    return losses


def task_loss(outputs: Outputs, reference: Outputs, weights: Mapping[str, float] = TASK_WEIGHTS) -> Tensor:
    """Weighted sum of ``task_losses``; a part that ``weights`` does not name weighs 0, as in ``sensitivity.weighted``.

    ``UnknownNameError`` for a weight of something that is no part.
    """
    for name in weights:
        if name not in TASK_WEIGHTS:
            raise UnknownNameError("part of the objective", name, TASK_WEIGHTS)
    parts = task_losses(outputs, reference)
    return torch.stack([weights.get(name, 0.0) * loss for name, loss in parts.items()]).sum()


def unproject(depth: Tensor, pose_enc: Tensor) -> Tensor:
    """The world point of every pixel, (B, S, H, W, 3), from depth (B, S, H, W) and encoded poses (B, S, 9).

    Differentiable twin of ``geometry.decode_pose`` and ``geometry.unproject``, with their conventions.
    """
    in_camera = _rays(pose_enc[..., 7:9], depth.shape[-2:]) * depth[..., None]
    rotation = rotation_matrix(pose_enc[..., 3:7])
    # World-to-camera is R x + t, so the world point of a camera point p is R^T (p - t), as a row (p - t) R.
    moved = in_camera - pose_enc[..., None, None, :3]
    return (moved.flatten(-3, -2) @ rotation).view_as(in_camera)


def _rays(fov: Tensor, size: torch.Size) -> Tensor:
    """Fields of view (..., 2), vertical first, to the direction with z = 1 of every pixel, (..., H, W, 3)."""
    tangent = (fov.clamp(*FOV_LIMITS) / 2).tan()
    row, column = (2 * (torch.arange(side, dtype=fov.dtype) + PIXEL_CENTER) / side - 1 for side in size)
    y = (tangent[..., 0, None] * row)[..., None].expand(*fov.shape[:-1], *size)
    x = (tangent[..., 1, None] * column)[..., None, :].expand(*fov.shape[:-1], *size)
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def rotation_matrix(quaternions: Tensor) -> Tensor:
    """(..., 4) xyzw of any length but 0 to (..., 3, 3)."""
    x, y, z, w = torch.nn.functional.normalize(quaternions, dim=-1, eps=_SHORTEST).unbind(dim=-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _check(outputs: Outputs, reference: Outputs) -> None:
    found = [name for name in WEIGHTS if name in outputs]
    if not found:
        raise InputError(
            f"none of the outputs {sorted(outputs)} counts for the task",
            where="task objective",
            expected=f"some of: {', '.join(WEIGHTS)}",
            remedy="export at least one head",
        )
    for name in found:
        if name not in reference or reference[name].shape != outputs[name].shape:
            raise InputError(
                f"output {name} has no FP32 reference of its shape",
                where="task objective",
                expected=f"a reference of shape {tuple(outputs[name].shape)}",
                remedy="run the FP32 model on the same images",
            )
