"""What a search is to keep small: how far the task outputs are from the FP32 model's, without ground truth.

QVGGT (arXiv 2605.31124) searches scales with camera (Huber), depth, point and cross-head losses. Here all of them
distil FP32, in the unit of ``sensitivity/ablation.py``: mean Huber loss (delta 0.1) of dimensionless residuals.

- each output whose quantity has a weight: the very residual of its quantity (metrics/quantities.py);
- ``geometry``: per pixel ||unproject(depth, pose) - unproject(FP32 depth, FP32 pose)|| / scene scale.

QVGGT's cross-head term is mean ||points - unproject(depth, pose)||. FP32 itself does not bring that to zero, so its
minimum lies away from the FP32 outputs, and a search would trade their accuracy for agreement. ``geometry`` is zero for
FP32 outputs and bounds the other: with U the unprojected points, ||P - U|| exceeds FP32's by at most ||P - P_fp32|| +
||U - U_fp32||, which are the ``points`` and ``geometry`` residuals. It also sees what the parts alone do not: whether
errors of depth and of the camera add up or cancel where they meet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vggt_edge.calibration.metrics.geometry import FOV_LIMITS, PIXEL_CENTER
from vggt_edge.calibration.metrics.output import Output, first_of
from vggt_edge.calibration.metrics.quantities import Depth, Points, PoseEncoding
from vggt_edge.calibration.sensitivity.ablation import Tensors, huber, tensor_scale
from vggt_edge.devices.errors import InputError

GEOMETRY = "geometry"
GEOMETRY_WEIGHT = 1.0

_SHORTEST = 1e-12  # of a quaternion: below it no rotation is meant


def task_losses(outputs: Sequence[Output], tensors: Tensors, reference: Tensors) -> dict[str, Tensor]:
    """Unweighted loss of each part, scalars, differentiable; a part whose heads are missing is left out.

    outputs: as the model declares them; without a weight they are ignored. tensors, reference: by name, with a batch
    axis. reference: of the FP32 model; the scene scale is taken from it. ``InputError`` where an output has no
    reference of its shape, or none of the outputs counts.
    """
    counted = [output for output in outputs if output.quantity.weight > 0 and output.name in tensors]
    _check(counted, tensors, reference)
    scale = tensor_scale(outputs, reference)
    losses = {
        output.name: huber(output.quantity.residual(tensors[output.name], reference[output.name], scale))
        for output in counted
    }
    pose, depth = first_of(counted, PoseEncoding), first_of(counted, Depth)
    if pose is not None and depth is not None:
        ours, wanted = (unproject(values[depth.name], values[pose.name]) for values in (tensors, reference))
        losses[GEOMETRY] = huber(Points().residual(ours, wanted, scale))
    return losses


def task_loss(
    outputs: Sequence[Output], tensors: Tensors, reference: Tensors, geometry: float = GEOMETRY_WEIGHT
) -> Tensor:
    """Sum of ``task_losses``, the outputs by the weights of their quantities, ``geometry`` by the weight given."""
    weights = {output.name: output.quantity.weight for output in outputs} | {GEOMETRY: geometry}
    parts = task_losses(outputs, tensors, reference)
    return torch.stack([weights[name] * loss for name, loss in parts.items()]).sum()


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


def _check(counted: Sequence[Output], tensors: Tensors, reference: Tensors) -> None:
    if not counted:
        raise InputError(
            f"none of the outputs {sorted(tensors)} counts for the task",
            where="task objective",
            expected="an output whose quantity has a weight",
            remedy="export at least one head",
        )
    for output in counted:
        shape = tensors[output.name].shape
        if output.name not in reference or reference[output.name].shape != shape:
            raise InputError(
                f"output {output.name} has no FP32 reference of its shape",
                where="task objective",
                expected=f"a reference of shape {tuple(shape)}",
                remedy="run the FP32 model on the same images",
            )
