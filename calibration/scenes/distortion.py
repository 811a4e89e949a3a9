"""Lens distortion: COLMAP's camera models as formulas, and pictures with it taken out.

Undistorting asks, for each pixel of the straight picture, where the lens put it: the closed direction of every model.
The formulas are those of https://colmap.github.io/cameras.html, OpenCV's and Project Aria's documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import map_coordinates

from vggt_edge.calibration.scenes.source import Camera, Coefficients, Distortion
from vggt_edge.devices.errors import InputError

Array: TypeAlias = npt.NDArray[np.float64]
Pair: TypeAlias = tuple[Array, Array]

# Models see a few hundred pixels a side; interpolating all of a photograph takes seconds.
_LONGEST_SIDE = 2048
_MAX_ZOOM, _ZOOM_STEPS = 8.0, 30
_BORDER_POINTS, _RAY_POINTS = 33, 64
_EDGE_TOLERANCE_PX = 0.5


@dataclass(frozen=True)
class Projection:
    """``formula``: from the straight image plane at distance 1 to the distorted one. ``bends`` without coefficients."""

    formula: Callable[[Array, Array, Coefficients], Pair]
    bends: bool = False


def _perspective(x: Array, y: Array, c: Coefficients) -> Pair:
    """OpenCV's rational model: radial k1..k6, tangential p1, p2."""
    r2 = x * x + y * y
    radial = 1 + r2 * (c.get("k1", 0) + r2 * (c.get("k2", 0) + r2 * c.get("k3", 0)))
    radial = radial / (1 + r2 * (c.get("k4", 0) + r2 * (c.get("k5", 0) + r2 * c.get("k6", 0))))
    return _tangential(x * radial, y * radial, x, y, c.get("p1", 0), c.get("p2", 0))


def _tangential(to_x: Array, to_y: Array, x: Array, y: Array, p1: float, p2: float) -> Pair:
    r2, both = x * x + y * y, 2 * x * y
    return to_x + p1 * both + p2 * (r2 + 2 * x * x), to_y + p2 * both + p1 * (r2 + 2 * y * y)


def _equidistant(x: Array, y: Array) -> Pair:
    """The angle from the axis in place of its tangent."""
    return _scaled_by_atan(x, y, 1.0)


def _scaled_by_atan(x: Array, y: Array, gain: float) -> Pair:
    """Of radius ``atan(gain * r)``."""
    r = np.hypot(x, y)
    factor = np.where(r > 1e-9, np.arctan(gain * r) / np.maximum(r, 1e-9), gain)
    return x * factor, y * factor


def _fisheye(x: Array, y: Array, c: Coefficients) -> Pair:
    """Radial k1..k4 on the angle, tangential p1, p2, thin prism sx1, sy1."""
    u, v = _equidistant(x, y)
    r2 = u * u + v * v
    radial = 1 + r2 * (c.get("k1", 0) + r2 * (c.get("k2", 0) + r2 * (c.get("k3", 0) + r2 * c.get("k4", 0))))
    to_u, to_v = _tangential(u * radial, v * radial, u, v, c.get("p1", 0), c.get("p2", 0))
    return to_u + c.get("sx1", 0) * r2, to_v + c.get("sy1", 0) * r2


def _field_of_view(x: Array, y: Array, c: Coefficients) -> Pair:
    """Devernay and Faugeras; omega in radians."""
    omega = c["omega"]
    u, v = _scaled_by_atan(x, y, 2 * math.tan(omega / 2))
    return u / omega, v / omega


def _aria(x: Array, y: Array, c: Coefficients) -> Pair:
    """Radial k0..k5 on the angle, then tangential p0, p1 and thin prism s0..s3 of what came out."""
    u, v = _equidistant(x, y)
    theta2 = u * u + v * v
    radial = 1 + sum(c[f"k{power}"] * theta2 ** (power + 1) for power in range(6))
    u, v = u * radial, v * radial
    r2 = u * u + v * v
    to_u, to_v = _tangential(u, v, u, v, c["p1"], c["p0"])
    return to_u + r2 * (c["s0"] + r2 * c["s1"]), to_v + r2 * (c["s2"] + r2 * c["s3"])


PROJECTIONS: Mapping[str, Projection] = MappingProxyType(
    {
        "perspective": Projection(_perspective),
        "fisheye": Projection(_fisheye, bends=True),
        "fov": Projection(_field_of_view),
        "aria": Projection(_aria, bends=True),
    }
)


def distortion(projection: str, coefficients: Coefficients) -> Distortion | None:
    """None where the picture is straight already."""
    if not PROJECTIONS[projection].bends and not any(coefficients.values()):
        return None
    return Distortion(projection, coefficients)


def undistorted(pixels: npt.NDArray[np.uint8], camera: Camera, where: str) -> tuple[npt.NDArray[np.uint8], Camera]:
    """The picture as a pinhole camera at the same place would have taken it, and that camera.

    ``camera`` belongs to these very pixels. Size and principal point stay; the focal length grows as far as it takes
    to see no pixel that the lens did not. ``InputError`` names ``where`` if no such view exists.
    """
    if camera.distortion is None:
        return pixels, camera
    pixels, camera = _shrunk(pixels, camera)
    straight = _zoomed(camera, _zoom(camera, where))
    rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
    x, y = _lens_pixels(camera, *_plane(straight, columns, rows))
    at = np.stack([y, x]) - 0.5
    channels = [map_coordinates(pixels[..., channel], at, order=1, mode="nearest") for channel in range(3)]
    return np.stack(channels, axis=-1), straight


def _shrunk(pixels: npt.NDArray[np.uint8], camera: Camera) -> tuple[npt.NDArray[np.uint8], Camera]:
    shrink = max(camera.width, camera.height) / _LONGEST_SIDE
    if shrink <= 1:
        return pixels, camera
    size = max(1, round(camera.width / shrink)), max(1, round(camera.height / shrink))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return small, camera.scaled(*size)


def _zoomed(camera: Camera, zoom: float) -> Camera:
    intrinsics = camera.intrinsics.copy()
    intrinsics[[0, 1], [0, 1]] *= zoom
    return replace(camera, intrinsics=intrinsics, distortion=None)


def _plane(camera: Camera, columns: Array, rows: Array) -> Pair:
    """Pixels of a pinhole camera on its image plane at distance 1."""
    k = camera.intrinsics
    return (columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1]


def _lens_pixels(camera: Camera, x: Array, y: Array) -> Pair:
    """Where the lens puts points of that plane."""
    lens = camera.distortion
    assert lens is not None
    x, y = PROJECTIONS[lens.projection].formula(x, y, lens.coefficients)
    k = camera.intrinsics
    return k[0, 0] * x + k[0, 2], k[1, 1] * y + k[1, 2]


def _zoom(camera: Camera, where: str) -> float:
    """The smallest factor of the focal length, from 1 on, at which the whole straight picture was seen by the lens."""
    low, high = 1.0, _MAX_ZOOM
    if _is_seen(camera, low):
        return low
    if not _is_seen(camera, high):
        raise InputError(
            "the lens distortion cannot be undone: its coefficients fold the picture",
            where=where,
            expected="coefficients of a lens",
            remedy="undistort the images with `colmap image_undistorter` and give its output",
        )
    for _ in range(_ZOOM_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _is_seen(camera, middle) else (middle, high)
    return high


def _is_seen(camera: Camera, zoom: float) -> bool:
    """Whether the border of the straight picture lies in the distorted one, and no polynomial turns back on the way."""
    across, down = (np.linspace(0, side, _BORDER_POINTS) for side in (camera.width, camera.height))
    columns = np.concatenate([across, across, np.zeros_like(down), np.full_like(down, camera.width)])
    rows = np.concatenate([np.zeros_like(across), np.full_like(across, camera.height), down, down])
    x, y = _plane(_zoomed(camera, zoom), columns, rows)
    along = np.linspace(0, 1, _RAY_POINTS)[:, None]
    with np.errstate(all="ignore"):
        at_x, at_y = _lens_pixels(camera, along * x, along * y)
        radius = np.hypot(at_x - at_x[0], at_y - at_y[0])
        grows = (np.diff(radius, axis=0) > 0).all()
    inside_x = (at_x[-1] >= -_EDGE_TOLERANCE_PX) & (at_x[-1] <= camera.width + _EDGE_TOLERANCE_PX)
    inside_y = (at_y[-1] >= -_EDGE_TOLERANCE_PX) & (at_y[-1] <= camera.height + _EDGE_TOLERANCE_PX)
    return bool(grows and (inside_x & inside_y).all())
