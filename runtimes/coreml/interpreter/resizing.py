"""Bilinear and nearest resizing in each of Core ML's sampling modes.

Where a mode samples is written out in coremltools' documentation of ``resize_bilinear``: positions are computed in
float64 and clamped to the input. ``UNALIGN_CORNERS`` is torch's ``align_corners=False``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vggt_edge.runtimes.coreml.interpreter.call import Call, kernel

MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def positions(size: int, target: int, mode: str) -> torch.Tensor:
    """Where the ``target`` samples of an axis of ``size`` lie, float64."""
    index = torch.arange(target, dtype=torch.float64)
    if mode == "UNALIGN_CORNERS":
        where = (index + 0.5) * (size / target) - 0.5
    elif mode == "OFFSET_CORNERS":
        where = (index + 0.5) * (max(1, size - 1) / target)
    elif mode == "DEFAULT":
        where = index * (size / target)
    elif target > 1:
        where = index * ((size - 1) / (target - 1))
    else:
        where = index if mode == "STRICT_ALIGN_CORNERS" else index + (size - 1) / 2
    return where.clamp(0, size - 1)


def bilinear(x: torch.Tensor, target: Sequence[int], mode: str) -> torch.Tensor:
    """Resize the last two axes."""
    for axis, size in ((x.dim() - 2, target[0]), (x.dim() - 1, target[1])):
        where = positions(x.shape[axis], size, mode)
        low = where.floor().to(torch.int64)
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        share = (where - low).to(torch.float32).reshape([-1] + [1] * (x.dim() - 1 - axis))
        first = x.index_select(axis, low)
        x = first + (x.index_select(axis, high) - first) * share
    return x


def nearest(x: torch.Tensor, target: Sequence[int]) -> torch.Tensor:
    """The pixel that a sample's start falls into, as torch's ``nearest``."""
    for axis, size in ((x.dim() - 2, target[0]), (x.dim() - 1, target[1])):
        where = torch.arange(size, dtype=torch.int64) * x.shape[axis] // size
        x = x.index_select(axis, where)
    return x


def _target(call: Call, x: torch.Tensor, height: int, width: int) -> list[int]:
    if x.dim() < 3 or min(height, width) < 1 or min(x.shape[-2:]) < 1:
        raise call.wrong(f"{list(x.shape)} resized to {height} x {width}", "rank 3 or more, sizes of 1 or more")
    call.reserve([*x.shape[:-2], height, width])
    return [height, width]


@kernel("resize_bilinear")
def resize_bilinear(call: Call) -> torch.Tensor:
    """Bilinear resize to a given size."""
    x = call.floats("x")
    target = _target(call, x, call.integer("target_size_height", 1), call.integer("target_size_width", 1))
    return bilinear(x, target, call.choice("sampling_mode", "DEFAULT", MODES))


@kernel("resize")
def resize(call: Call) -> torch.Tensor:
    """The last ``resized_dims`` axes take their sizes from ``shape``, where 0 keeps the input's."""
    x, shape = call.floats("x"), call.integers("shape")
    call.choice("interpolation_mode", "LINEAR", {"LINEAR"})
    if call.integer("resized_dims") != 2 or not 2 <= len(shape) <= x.dim():
        raise call.lacks(f"resize of {call.integer('resized_dims')} axes", "two axes")
    height, width = (size or own for size, own in zip(shape[-2:], x.shape[-2:], strict=True))
    return bilinear(x, _target(call, x, height, width), call.choice("sampling_mode", "DEFAULT", MODES))


@kernel("upsample_bilinear")
def upsample_bilinear(call: Call) -> torch.Tensor:
    """Bilinear resize by a factor."""
    x = call.floats("x")
    corners = call.flag("align_corners", True)
    centers = call.flag("half_pixel_centers", not corners)
    if corners and centers:
        raise call.wrong("both align_corners and half_pixel_centers", "one of them")
    mode = "STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS" if centers else "DEFAULT"
    return bilinear(x, _scaled(call, x), mode)


@kernel("resize_nearest_neighbor")
def resize_nearest(call: Call) -> torch.Tensor:
    """Nearest-neighbour resize to a given size."""
    x = call.floats("x")
    return nearest(x, _target(call, x, call.integer("target_size_height"), call.integer("target_size_width")))


@kernel("upsample_nearest_neighbor")
def upsample_nearest(call: Call) -> torch.Tensor:
    """Nearest-neighbour resize by a factor."""
    x = call.floats("x")
    return nearest(x, _scaled(call, x))


def _scaled(call: Call, x: torch.Tensor) -> list[int]:
    height, width = call.number("scale_factor_height", 1.0), call.number("scale_factor_width", 1.0)
    if not (0 < height < 1e6 and 0 < width < 1e6):
        raise call.wrong(f"scale factors {height} and {width}", "positive ones")
    return _target(call, x, int(x.shape[-2] * height), int(x.shape[-1] * width))
