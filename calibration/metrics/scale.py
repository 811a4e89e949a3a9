"""The size of a scene, by which differences of positions are divided: the one definition of it."""

from __future__ import annotations

import numpy as np

from vggt_edge.calibration.metrics.geometry import AnyArray, finite
from vggt_edge.devices.errors import InputError


def scene_scale(distances: AnyArray) -> float:
    """Median of distances of any shape: of world points from frame 0's camera, or of depths where there are no points.

    The median, because a few pixels of sky or of a broken output must not decide it.
    ``InputError`` for NaN or infinity, and where the median is not above 0.
    """
    scale = float(np.median(finite(distances, "distances of the scene")))
    if scale <= 0:
        raise InputError(
            f"the median distance of the scene is {scale:g}",
            where="scene scale",
            expected="points away from the camera of frame 0, or depths above 0",
            remedy="check the checkpoint and the scene: the reference has no extent",
        )
    return scale
