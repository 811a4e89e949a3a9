"""Checked numbers and rigid motions: what a scene file says about a camera is believed only after this."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vggt_edge.devices.errors import InputError

_ROTATION_TOLERANCE = 1e-2
# Beyond any sensor.
_MAX_SIDE = 10**6
# Earth-centred coordinates in millimetres still fit, and squares of them stay finite in float32.
_MAX_MAGNITUDE = 1e10


def finite(value: object, what: str, where: str) -> float:
    """``value`` as a finite float of sane size, or ``InputError``. Takes numbers only, not booleans or text."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(type(value).__name__)
        number = float(value)
    except (TypeError, OverflowError) as error:
        raise InputError(f"{what} is not a number: {error}", where=where, expected="a finite number") from error
    if not abs(number) <= _MAX_MAGNITUDE:  # also true of NaN
        raise InputError(f"{what} is {number}", where=where, expected=f"a number within +-{_MAX_MAGNITUDE:g}")
    return number


def rotation_of_quaternion(wxyz: tuple[float, float, float, float], where: str) -> npt.NDArray[np.float64]:
    """(3, 3) rotation of a Hamilton quaternion, normalised first; ``InputError`` for one of length zero."""
    length = math.sqrt(sum(part * part for part in wxyz))
    if not 1e-6 < length < 1e6:
        raise InputError(f"the rotation is a quaternion of length {length}", where=where, expected="length 1")
    w, x, y, z = (part / length for part in wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def world_to_camera(opengl_camera_to_world: npt.NDArray[np.float64], where: str) -> npt.NDArray[np.float64]:
    """(3, 4) OpenCV world-to-camera of a (3 or 4, 4) OpenGL camera-to-world (y up, camera looks along -z).

    ``InputError`` unless the 3x3 part is a rotation to within rounding.
    """
    rotation = opengl_camera_to_world[:3, :3] * np.array([1.0, -1.0, -1.0])
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if not (off < _ROTATION_TOLERANCE and np.linalg.det(rotation) > 0):
        raise InputError(
            "the pose is not a rigid motion",
            where=where,
            expected="a camera-to-world matrix whose 3x3 part is a rotation, without scale or mirroring",
        )
    u, _, vt = np.linalg.svd(rotation)  # the nearest rotation: text files round
    inverse = (u @ vt).T
    return np.hstack([inverse, -inverse @ opengl_camera_to_world[:3, 3:]])


def rebased(extrinsics: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """World-to-camera (S, 3, 4) with the world moved into frame 0's camera, whose own becomes [I|0]."""
    rotation, translation = extrinsics[:, :, :3], extrinsics[:, :, 3:]
    relative = rotation @ rotation[0].T
    moved = np.concatenate([relative, translation - relative @ translation[0]], axis=2)
    moved[0] = np.eye(3, 4)  # exactly, as the ground truth promises
    return moved


def pinhole(fx: float, fy: float, cx: float, cy: float, where: str) -> npt.NDArray[np.float64]:
    """(3, 3) intrinsics in pixels; ``InputError`` unless the focal lengths are positive."""
    if fx <= 0 or fy <= 0:
        raise InputError(f"the focal length is {fx} x {fy} pixels", where=where, expected="a positive number")
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def image_sides(width: float, height: float, where: str) -> tuple[int, int]:
    """(width, height) of a camera's image, or ``InputError`` for sides that no image has."""
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise InputError(
            f"the camera's image is {width} x {height} pixels",
            where=where,
            expected=f"sides of 1 to {_MAX_SIDE} pixels",
        )
    return int(width), int(height)
