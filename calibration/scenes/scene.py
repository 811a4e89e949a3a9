"""What calibration, validation and training look at: a few frames of one place, with ground truth where it exists."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.scenes.framing import Rectangle, content_mask

Float: TypeAlias = npt.NDArray[np.float32]
Bool: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class GroundTruth:
    """Geometry of a scene, OpenCV camera axes (x right, y down, z forward), in the coordinates of frame 0's camera.

    extrinsics: (S, 3, 4) world-to-camera [R|t]; that of frame 0 is [I|0].
    intrinsics: (S, 3, 3) in pixels of the resized frames.
    depth: (S, H, W) z-depth, or None where a source has poses only.
    points: (S, H, W, 3), the point seen by each pixel, or None.
    valid: (S, H, W), False where depth and points mean nothing (sky), or None.
    """

    extrinsics: Float
    intrinsics: Float
    depth: Float | None = None
    points: Float | None = None
    valid: Bool | None = None


@dataclass(frozen=True)
class Scene:
    """A few frames of one place.

    - images: (S, 3, H, W), RGB in [0, 1].
    - sources: where each frame came from, for reports and hashes.
    - content: of each frame the part that shows the picture; the rest is white. None where nothing is white.
    """

    name: str
    images: Float
    sources: tuple[str, ...]
    ground_truth: GroundTruth | None = None
    content: tuple[Rectangle, ...] | None = None

    @property
    def shown(self) -> Bool | None:
        """(S, H, W): False for the pixels that were filled up with white; None where there are none."""
        if self.content is None:
            return None
        _, _, height, width = self.images.shape
        return np.stack([content_mask(each, (height, width)) for each in self.content])

    @property
    def digest(self) -> str:
        """sha256 over name-independent content: the pixels as the model will see them."""
        content = hashlib.sha256(str(self.images.shape).encode())
        content.update(np.ascontiguousarray(self.images).data)
        return content.hexdigest()
