"""Cameras and points: the conversions between VGGT's outputs and ordinary geometry. numpy, float64, no model.

Conventions, the same everywhere in vggt-edge:

- Extrinsics are world-to-camera ``[R|t]``: ``x_camera = R @ x_world + t``. OpenCV axes (x right, y down, z forward).
- The world is frame 0's camera.
- Quaternions are ``(x, y, z, w)``.
- The pixel in row v and column u is seen along the ray through ``(u + 0.5, v + 0.5)``; the image spans
  ``[0, W] x [0, H]``, so its centre, and the principal point of a pose encoding, is ``(W / 2, H / 2)``.
  ``centers="integer"`` takes the ray through ``(u, v)`` instead, as VGGT's first releases do (docs/preprocessing.md).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from vggt_edge.calibration.scenes.framing import CENTER_OF, PixelCenters
from vggt_edge.devices.errors import InputError

Array: TypeAlias = npt.NDArray[np.float64]
AnyArray: TypeAlias = npt.NDArray[Any]

PIXEL_CENTER = CENTER_OF["half"]
# A field of view of 0 (the encoding ends in a ReLU) or of 180 degrees has no finite camera.
FOV_LIMITS = (1e-3, np.pi - 1e-3)


def finite(values: AnyArray, what: str) -> Array:
    """``values`` as float64; ``InputError`` when a value is NaN or infinite."""
    array = np.asarray(values, dtype=np.float64)
    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if bad:
        raise InputError(
            f"{bad} of {array.size} values are NaN or infinite",
            where=what,
            expected="finite values",
            remedy="check the checkpoint's weights and the precision that produced this output",
        )
    return array


def quaternion_to_rotation(quaternions: AnyArray) -> Array:
    """``(..., 4)`` xyzw, of any length but 0, to ``(..., 3, 3)``. ``InputError`` for a zero quaternion."""
    array = finite(quaternions, "quaternion")
    if np.any(np.linalg.norm(array, axis=-1) < 1e-12):
        raise InputError("a quaternion of length 0 is no rotation", where="quaternion", expected="a length above 0")
    return np.asarray(Rotation.from_quat(array.reshape(-1, 4)).as_matrix()).reshape(*array.shape[:-1], 3, 3)


def rotation_to_quaternion(rotations: AnyArray) -> Array:
    """``(..., 3, 3)`` to unit ``(..., 4)`` xyzw with w >= 0."""
    array = finite(rotations, "rotation")
    flat = Rotation.from_matrix(array.reshape(-1, 3, 3)).as_quat(canonical=True)
    return np.asarray(flat).reshape(*array.shape[:-2], 4)


def encode_pose(extrinsics: AnyArray, intrinsics: AnyArray, size: tuple[int, int]) -> Array:
    """Extrinsics ``(..., 3, 4)`` and intrinsics ``(..., 3, 3)`` in pixels to ``absT_quaR_FoV`` ``(..., 9)``.

    size: ``(H, W)`` of the frames. A principal point off the centre is lost: the encoding has no place for it.
    """
    camera, lens = finite(extrinsics, "extrinsics"), finite(intrinsics, "intrinsics")
    height, width = size
    fov_h = 2 * np.arctan(height / 2 / lens[..., 1, 1])
    fov_w = 2 * np.arctan(width / 2 / lens[..., 0, 0])
    rotation = rotation_to_quaternion(camera[..., :3])
    return np.concatenate([camera[..., 3], rotation, fov_h[..., None], fov_w[..., None]], axis=-1)


def decode_pose(pose_enc: AnyArray, size: tuple[int, int]) -> tuple[Array, Array]:
    """``absT_quaR_FoV`` ``(..., 9)`` to extrinsics ``(..., 3, 4)`` and intrinsics ``(..., 3, 3)`` in pixels.

    size: ``(H, W)`` of the frames. Fields of view are clipped to ``FOV_LIMITS``.
    """
    encoding = finite(pose_enc, "pose_enc")
    height, width = size
    extrinsics = np.concatenate([quaternion_to_rotation(encoding[..., 3:7]), encoding[..., :3, None]], axis=-1)
    fov = np.clip(encoding[..., 7:9], *FOV_LIMITS)
    intrinsics = np.zeros((*encoding.shape[:-1], 3, 3))
    intrinsics[..., 0, 0] = width / 2 / np.tan(fov[..., 1] / 2)
    intrinsics[..., 1, 1] = height / 2 / np.tan(fov[..., 0] / 2)
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = width / 2, height / 2, 1
    return extrinsics, intrinsics


def invert_pose(extrinsics: AnyArray) -> Array:
    """World-to-camera ``(..., 3, 4)`` to camera-to-world, or back."""
    camera = np.asarray(extrinsics, dtype=np.float64)
    rotation = np.swapaxes(camera[..., :3], -1, -2)
    return np.concatenate([rotation, -rotation @ camera[..., 3:]], axis=-1)


def compose_poses(outer: AnyArray, inner: AnyArray) -> Array:
    """``outer`` after ``inner``, both ``(..., 3, 4)``."""
    left, right = np.asarray(outer, dtype=np.float64), np.asarray(inner, dtype=np.float64)
    rotation = left[..., :3] @ right[..., :3]
    return np.concatenate([rotation, left[..., :3] @ right[..., 3:] + left[..., 3:]], axis=-1)


def relative_poses(extrinsics: AnyArray) -> Array:
    """``(S, 3, 4)`` to ``(S (S - 1) / 2, 3, 4)``: for all pairs i < j, from camera i to camera j."""
    camera = np.asarray(extrinsics, dtype=np.float64)
    first, second = np.triu_indices(len(camera), k=1)
    return compose_poses(camera[second], invert_pose(camera[first]))


def pixel_rays(intrinsics: AnyArray, size: tuple[int, int], centers: PixelCenters = "half") -> Array:
    """``(S, 3, 3)`` to ``(S, H, W, 3)``: for each pixel the camera-space direction with z = 1."""
    height, width = size
    columns, rows = np.meshgrid(np.arange(width) + CENTER_OF[centers], np.arange(height) + CENTER_OF[centers])
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    inverse = np.linalg.inv(np.asarray(intrinsics, dtype=np.float64))
    return np.asarray(np.einsum("sij,hwj->shwi", inverse, pixels))


def unproject(depth: AnyArray, intrinsics: AnyArray, extrinsics: AnyArray, centers: PixelCenters = "half") -> Array:
    """The world point of every pixel.

    depth: ``(S, H, W)`` along the optical axis. intrinsics: ``(S, 3, 3)``. extrinsics: ``(S, 3, 4)``
    world-to-camera. centers: where the centre of the first pixel lies. Returns ``(S, H, W, 3)``.
    """
    z = np.asarray(depth, dtype=np.float64)
    height, width = z.shape[-2:]
    in_camera = pixel_rays(intrinsics, (height, width), centers) * z[..., None]
    to_world = invert_pose(extrinsics)
    rotated = np.einsum("sij,shwj->shwi", to_world[..., :3], in_camera)
    return np.asarray(rotated + to_world[:, None, None, :, 3])


def project(points: AnyArray, intrinsics: AnyArray, extrinsics: AnyArray) -> tuple[Array, Array]:
    """The inverse of ``unproject``: ``(S, H, W, 3)`` to image coordinates ``(S, H, W, 2)`` and depth ``(S, H, W)``."""
    camera = np.asarray(extrinsics, dtype=np.float64)
    in_camera = np.einsum("sij,shwj->shwi", camera[..., :3], points) + camera[:, None, None, :, 3]
    homogeneous = np.einsum("sij,shwj->shwi", np.asarray(intrinsics, dtype=np.float64), in_camera)
    return np.asarray(homogeneous[..., :2] / homogeneous[..., 2:]), np.asarray(in_camera[..., 2])
