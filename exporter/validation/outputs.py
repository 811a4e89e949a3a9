"""The outputs of one subject on one scene, checked and without the batch axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vggt_edge.calibration.metrics.geometry import AnyArray
from vggt_edge.devices.errors import InputError

Outputs = Mapping[str, AnyArray]
OUTPUT_NAMES = ("pose_enc", "depth", "depth_conf", "points", "points_conf")
_TRAILING = {"pose_enc": (9,), "points": (3,)}
_PIXEL_MAPS = ("depth", "depth_conf", "points", "points_conf")


def without_batch(outputs: Outputs, size: tuple[int, int, int], where: str) -> dict[str, AnyArray]:
    """``(1, S, ...)`` to ``(S, ...)``, in the order of ``OUTPUT_NAMES``; ``InputError`` for any other shape.

    size: ``(S, H, W)`` of the scene.
    """
    frames, *pixels = size
    result = {}
    for name in OUTPUT_NAMES:
        if name not in outputs:
            continue
        value = np.asarray(outputs[name])
        expected = (1, frames, *(pixels if name in _PIXEL_MAPS else ()), *_TRAILING.get(name, ()))
        if value.shape != expected:
            raise InputError(f"{name} has the shape {value.shape}", where=where, expected=f"{expected}")
        result[name] = value[0]
    return result


def with_quaternion_sign_of(pose_enc: AnyArray, reference: AnyArray) -> AnyArray:
    """``(S, 9)`` with quaternions on the reference's side: q and -q are one rotation, and must not look like drift."""
    flip = np.sum(pose_enc[:, 3:7] * reference[:, 3:7], axis=-1, keepdims=True) < 0
    result = np.array(pose_enc)
    result[:, 3:7] = np.where(flip, -result[:, 3:7], result[:, 3:7])
    return result
