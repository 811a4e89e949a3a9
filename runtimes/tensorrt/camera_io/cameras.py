"""The stage ``geometry``: from pose encodings and depth to extrinsics, intrinsics and world points.

Everything is elementwise or a sum in FP32: TensorRT may compute a MatMul in TF32, whose ten bits would turn a camera by
hundredths of a degree. ``calibration/metrics/geometry.py`` has the same formulas in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.metrics.geometry import FOV_LIMITS
from vggt_edge.calibration.scenes.framing import CENTER_OF, PixelCenters
from vggt_edge.runtimes.tensorrt.camera_io.stage import Stage, Value


def rotation_table() -> npt.NDArray[np.float32]:
    """(16, 9): from the products q[i] * q[j] of a quaternion x, y, z, w to its squared length times its rotation."""
    terms = {
        (0, 0): ("ww+", "xx+", "yy-", "zz-"),
        (0, 1): ("xy+", "xy+", "zw-", "zw-"),
        (0, 2): ("xz+", "xz+", "yw+", "yw+"),
        (1, 0): ("xy+", "xy+", "zw+", "zw+"),
        (1, 1): ("ww+", "xx-", "yy+", "zz-"),
        (1, 2): ("yz+", "yz+", "xw-", "xw-"),
        (2, 0): ("xz+", "xz+", "yw-", "yw-"),
        (2, 1): ("yz+", "yz+", "xw+", "xw+"),
        (2, 2): ("ww+", "xx-", "yy-", "zz+"),
    }
    table = np.zeros((4, 4, 3, 3), np.float32)
    for (row, column), products in terms.items():
        for product in products:
            first, second = ("xyzw".index(letter) for letter in product[:2])
            table[first, second, row, column] += 1 if product[2] == "+" else -1
    return table.reshape(16, 9)


@dataclass(frozen=True)
class Cameras:
    """Values of the graph. rotation: (1, S, 9). translation: (1, S, 3). half_fov: (1, S, 2), vertical first."""

    rotation: Value
    translation: Value
    half_fov: Value


def put_cameras(stage: Stage, pose_enc: Value) -> Cameras:
    """Decode (1, S, 9): translation, quaternion xyzw of any length but 0, vertical and horizontal field of view."""
    frames = pose_enc.shape[1]
    quaternion = stage.part(pose_enc, 3, 7)
    columns, rows = (stage.reshape(quaternion, 1, frames, *sides) for sides in ((4, 1), (1, 4)))
    products = stage.reshape(stage.add("Mul", columns, rows), 1, frames, 16, 1)
    scaled = stage.total(stage.add("Mul", products, rotation_table()), 2)
    square = stage.total(stage.add("Mul", quaternion, quaternion), 2, keep=True)
    limits = (np.array(limit, np.float32) for limit in FOV_LIMITS)
    field_of_view = stage.add("Clip", stage.part(pose_enc, 7, 9), *limits)
    return Cameras(
        rotation=stage.add("Div", scaled, square),
        translation=stage.part(pose_enc, 0, 3),
        half_fov=stage.add("Mul", field_of_view, np.array(0.5, np.float32)),
    )


def put_extrinsics(stage: Stage, cameras: Cameras, into: Value) -> None:
    """(1, S, 3, 4), world to camera."""
    frames = into.shape[1]
    rotation = stage.reshape(cameras.rotation, 1, frames, 3, 3)
    stage.add("Concat", rotation, stage.reshape(cameras.translation, 1, frames, 3, 1), into=into, axis=3)


def put_intrinsics(stage: Stage, cameras: Cameras, size: tuple[int, int], into: Value) -> None:
    """(1, S, 3, 3), in pixels of the model's input of ``size`` (height, width)."""
    height, width = size
    cotangent = stage.add("Div", stage.add("Cos", cameras.half_fov), stage.add("Sin", cameras.half_fov))
    table = np.zeros((2, 9), np.float32)
    table[0, 4], table[1, 0] = height / 2, width / 2
    focal = stage.total(stage.add("Mul", stage.reshape(cotangent, 1, into.shape[1], 2, 1), table), 2)
    centre = np.array([0, 0, width / 2, 0, 0, height / 2, 0, 0, 1], np.float32)
    stage.add("Reshape", stage.add("Add", focal, centre), np.array(into.shape, np.int64), into=into)


def put_world_points(stage: Stage, cameras: Cameras, depth: Value, into: Value, centers: PixelCenters = "half") -> None:
    """(1, S, H, W, 3): the point that each pixel of ``depth`` (1, S, H, W) sees, in the world."""
    _, frames, height, width = depth.shape
    tangent = stage.add("Div", stage.add("Sin", cameras.half_fov), stage.add("Cos", cameras.half_fov))
    of_rows, of_columns = stage.several("Split", tangent, outputs=2, axis=2, num_outputs=2)
    across = stage.add("Mul", stage.reshape(of_columns, 1, frames, 1, 1), _places(width, centers))
    down = stage.add("Mul", stage.reshape(of_rows, 1, frames, 1, 1), _places(height, centers).reshape(height, 1))
    in_camera = (stage.add("Mul", depth, across), stage.add("Mul", depth, down), depth)
    offsets = stage.several("Split", cameras.translation, outputs=3, axis=2, num_outputs=3)
    axes = stage.several("Split", cameras.rotation, outputs=3, axis=2, num_outputs=3)
    terms = []
    for values, offset, axis in zip(in_camera, offsets, axes, strict=True):
        moved = stage.add("Sub", values, stage.reshape(offset, 1, frames, 1, 1))
        moved = stage.reshape(moved, 1, frames, height, width, 1)
        terms.append(stage.add("Mul", moved, stage.reshape(axis, 1, frames, 1, 1, 3)))
    stage.add("Add", stage.add("Add", terms[0], terms[1]), terms[2], into=into)


def _places(length: int, centers: PixelCenters) -> npt.NDArray[np.float32]:
    """Centres of the pixels of a line, from -1 to 1."""
    return ((np.arange(length) + CENTER_OF[centers] - length / 2) / (length / 2)).astype(np.float32)
