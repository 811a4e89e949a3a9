"""Frames resized to the model's input by the modes of ``framing.py``: sizes, pixels, and the same as matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from vggt_edge.calibration.scenes.framing import FIT, PATCH, Framing, Preprocess, Size, content_mask, proportional
from vggt_edge.devices.errors import InputError, UsageError

_WHITE = 255
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


def input_shape(rule: Preprocess, width: int, height: int, long_side: int) -> Size:
    """The (height, width) that a model's input gets for frames of ``width`` x ``height``.

    - fit: the best fit within ``long_side``, by ``fit_shape``.
    - crop: ``long_side`` wide; as high as the scaled frame, at most ``long_side``.
    - pad: a square.

    Raises as ``fit_shape``.
    """
    best = fit_shape(width, height, long_side, rule.patch)
    side = max(best)
    if rule.mode == "fit":
        return best
    return (side if rule.mode == "pad" else min(side, proportional(height, width, side, rule.patch))), side


def resize_frame(
    image: npt.NDArray[np.uint8], height: int, width: int, rule: Preprocess = FIT
) -> npt.NDArray[np.float32]:
    """Bring an RGB frame (h, w, 3) uint8 to ``height`` x ``width`` by a mode: (3, H, W) in [0, 1].

    One bicubic, antialiased resampling. For ``fit`` the crop is part of it, so that it may fall between pixels; for
    ``crop`` and ``pad`` whole rows and columns are cut or filled up with white afterwards, as VGGT has it. Raises
    ``InputError`` for an array that is no such frame, ``UsageError`` for a target without pixels.
    """
    check_shape(height, width, patch=1)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"not a frame: {image.dtype} {image.shape}", expected="uint8 RGB of shape (height, width, 3)")
    framing = rule.framing((image.shape[0], image.shape[1]), (height, width))
    resampled = Image.fromarray(image).resize(framing.resampled[::-1], Image.Resampling.BICUBIC, box=framing.box)
    framed = _placed(np.asarray(resampled), framing)
    return np.ascontiguousarray(framed.astype(np.float32).transpose(2, 0, 1) / np.float32(255))


def _placed(resampled: npt.NDArray[np.uint8], framing: Framing) -> npt.NDArray[np.uint8]:
    """The resampled picture in its place, (H, W, 3)."""
    rows, columns = _kept(framing)
    left, top, right, bottom = framing.content
    framed = np.full((*framing.target, 3), _WHITE, np.uint8)
    framed[top:bottom, left:right] = resampled[rows, columns]
    return framed


def _kept(framing: Framing) -> tuple[slice, slice]:
    """The rows and columns of the resampled picture that the input shows."""
    (x, y), (left, top, right, bottom) = framing.offset, framing.content
    return slice(top - y, bottom - y), slice(left - x, right - x)


def resize_intrinsics(
    intrinsics: npt.NDArray[np.float64], source: Size, target: Size, rule: Preprocess = FIT
) -> npt.NDArray[np.float64]:
    """Carry intrinsics (..., 3, 3) from a source frame (height, width) through ``resize_frame`` to the target's."""
    return rule.framing(source, target).intrinsics(intrinsics)


@dataclass(frozen=True)
class Resampling:
    """``resize_frame`` as two products with constant matrices, each followed by rounding to 8 bits.

    columns: (W of the target, W of the source). rows: (H of the target, H of the source). Weights are whole multiples
    of 2**-22, exact in float32, and 0 where the target is white. rows_first: whether the rows are the first product,
    as Pillow 13 has it for frames that lose more of their height. white: (H, W), 255 where the target is white, which
    is added in the end; None where nothing is.
    """

    columns: npt.NDArray[np.float32]
    rows: npt.NDArray[np.float32]
    rows_first: bool
    white: npt.NDArray[np.float32] | None = None


def resampling(source: Size, target: Size, rule: Preprocess = FIT) -> Resampling:
    """The matrices of ``resize_frame`` for a frame of ``source`` (height, width) and a target (height, width)."""
    framing = rule.framing(source, target)
    left, top, right, bottom = framing.content
    kept_rows, kept_columns = _kept(framing)
    columns = np.zeros((target[1], source[1]), np.float32)
    columns[left:right] = _weights(source[1], framing.box[0], framing.box[2], framing.resampled[1])[kept_columns]
    rows = np.zeros((target[0], source[0]), np.float32)
    rows[top:bottom] = _weights(source[0], framing.box[1], framing.box[3], framing.resampled[0])[kept_rows]
    dropped = source[0] - framing.resampled[0]
    rows_first = dropped > max(0, 2 * (source[1] - framing.resampled[1]))
    white = np.where(content_mask(framing.content, target), 0, _WHITE).astype(np.float32)
    return Resampling(columns, rows, rows_first, white if white.any() else None)


def camera_from_input(source: Size, target: Size, rule: Preprocess = FIT) -> npt.NDArray[np.float64]:
    """(3, 3): from pixel coordinates of the target to those of the source frame; the inverse of a resize."""
    return rule.framing(source, target).picture_from_input


def shown_share(source: Size, target: Size, rule: Preprocess = FIT) -> float:
    """The share of a frame of ``source`` (height, width) that is left after cropping to ``target``."""
    return rule.framing(source, target).shown_share


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
