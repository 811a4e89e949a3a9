"""Aspect-preserving resize of frames to multiples of the patch size, and what it does to the intrinsics.

Pixel coordinates are continuous: the image's top-left corner is (0, 0), its centre (width / 2, height / 2), so that
a resize is a pure scaling of the intrinsics (the convention of COLMAP and of VGGT's field-of-view encoding).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from vggt_edge.devices.errors import InputError, UsageError

PATCH = 14  # where the caller does not say which
# Pillow's bicubic: half its width in pixels of the coarser grid, and the bits behind the point of a weight.
_SUPPORT, _WEIGHT_BITS = 2.0, 22


def fit_shape(width: int, height: int, long_side: int, patch: int = PATCH) -> tuple[int, int]:
    """The (height, width), multiples of ``patch``, that best keeps the aspect ratio of a ``width`` x ``height`` frame.

    The longer side becomes the largest multiple within ``long_side``; the shorter one the multiple whose aspect ratio
    is nearest in the logarithm, which treats portrait and landscape alike.
    Raises ``InputError`` for a frame without pixels, ``UsageError`` for a long side under one patch.
    """
    if width < 1 or height < 1:
        raise InputError(f"a frame of {width} x {height} pixels has no aspect ratio", expected="at least 1 x 1 pixel")
    if long_side < patch:
        raise UsageError(
            f"a long side of {long_side} pixels is too small",
            expected=f"at least {patch} pixels, one patch",
        )
    long_patches = long_side // patch
    exact = long_patches * min(width, height) / max(width, height)
    below = max(1, math.floor(exact))
    short_patches = min((below, min(below + 1, long_patches)), key=lambda patches: abs(math.log(patches / exact)))
    long, short = long_patches * patch, short_patches * patch
    return (short, long) if width >= height else (long, short)


def check_shape(height: int, width: int, patch: int = PATCH) -> None:
    """Raise ``UsageError`` unless both sides are positive multiples of ``patch``."""
    if height < patch or width < patch or height % patch or width % patch:
        raise UsageError(
            f"a model input of {height} x {width} pixels is not made of whole patches",
            expected=f"height and width that are positive multiples of {patch}",
        )


@dataclass(frozen=True)
class _Cover:
    """The centred part of the source frame that a target frame shows, in source pixels."""

    left: float
    top: float
    width: float
    height: float
    scale: float


def _cover(source: tuple[int, int], target: tuple[int, int]) -> _Cover:
    (source_height, source_width), (height, width) = source, target
    scale = max(width / source_width, height / source_height)
    shown_width = min(width / scale, float(source_width))
    shown_height = min(height / scale, float(source_height))
    left, top = (source_width - shown_width) / 2, (source_height - shown_height) / 2
    return _Cover(left, top, shown_width, shown_height, scale)


def resize_frame(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.float32]:
    """Scale an RGB frame (h, w, 3) uint8 to cover ``height`` x ``width`` and crop the rest evenly: (3, H, W) in [0, 1].

    One bicubic, antialiased resampling: scale and crop are done at once, so that the crop may fall between pixels and
    ``resize_intrinsics`` is exact. Raises ``InputError`` for an array that is no such frame, ``UsageError`` for a
    target without pixels.
    """
    check_shape(height, width, patch=1)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"not a frame: {image.dtype} {image.shape}", expected="uint8 RGB of shape (height, width, 3)")
    cover = _cover((image.shape[0], image.shape[1]), (height, width))
    box = (cover.left, cover.top, cover.left + cover.width, cover.top + cover.height)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.ascontiguousarray(np.asarray(resized, np.float32).transpose(2, 0, 1) / np.float32(255))


def resize_intrinsics(
    intrinsics: npt.NDArray[np.float64], source: tuple[int, int], target: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Carry intrinsics (..., 3, 3) from a source frame (height, width) through ``resize_frame`` to the target's."""
    cover = _cover(source, target)
    resized = np.array(intrinsics, np.float64)
    resized[..., :2, :] *= cover.scale
    resized[..., 0, 2] -= cover.left * cover.scale
    resized[..., 1, 2] -= cover.top * cover.scale
    return resized


@dataclass(frozen=True)
class Resampling:
    """``resize_frame`` as two products with constant matrices, each followed by rounding to 8 bits.

    columns: (W of the target, W of the source). rows: (H of the target, H of the source). Weights are whole multiples
    of 2**-22, exact in float32. rows_first: whether the rows are the first product, as Pillow 13 has it for frames that
    lose more of their height.
    """

    columns: npt.NDArray[np.float32]
    rows: npt.NDArray[np.float32]
    rows_first: bool


def resampling(source: tuple[int, int], target: tuple[int, int]) -> Resampling:
    """The matrices of ``resize_frame`` for a frame of ``source`` (height, width) and a target (height, width)."""
    cover = _cover(source, target)
    columns = _weights(source[1], cover.left, cover.left + cover.width, target[1])
    rows = _weights(source[0], cover.top, cover.top + cover.height, target[0])
    dropped = source[0] - target[0]
    return Resampling(columns, rows, rows_first=dropped > max(0, 2 * (source[1] - target[1])))


def camera_from_input(source: tuple[int, int], target: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(3, 3): from pixel coordinates of the target to those of the source frame; the inverse of a resize."""
    cover = _cover(source, target)
    return np.array([[1 / cover.scale, 0, cover.left], [0, 1 / cover.scale, cover.top], [0, 0, 1]])


def shown_share(source: tuple[int, int], target: tuple[int, int]) -> float:
    """The share of a frame of ``source`` (height, width) that is left after cropping to ``target``."""
    cover = _cover(source, target)
    return cover.width * cover.height / (source[0] * source[1])


def _weights(length: int, start: float, end: float, outputs: int) -> npt.NDArray[np.float32]:
    """(outputs, length): the weights of every pixel of a line in every pixel that its part [start, end) becomes."""
    start_32, end_32 = np.float32(start), np.float32(end)  # as Pillow holds the box
    scale = float(end_32 - start_32) / outputs
    stretch = max(scale, 1.0)
    centres = float(start_32) + (np.arange(outputs) + 0.5) * scale
    first = np.maximum((centres - _SUPPORT * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + _SUPPORT * stretch + 0.5).astype(np.int64), length)
    pixels = np.arange(length)
    inside = (pixels >= first[:, None]) & (pixels < last[:, None])
    exact = np.where(inside, bicubic((pixels - centres[:, None] + 0.5) / stretch), 0.0)
    scaled = exact / exact.sum(axis=1, keepdims=True) * 2**_WEIGHT_BITS
    whole = np.trunc(scaled + np.copysign(0.5, scaled))
    return np.asarray(whole / 2**_WEIGHT_BITS, np.float32)


def bicubic(position: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weight of a sample by its distance in samples of the coarser grid; a = -0.5, as in Pillow."""
    x = np.abs(position)
    near, far = ((1.5 * x - 2.5) * x) * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < _SUPPORT, far, 0.0))
