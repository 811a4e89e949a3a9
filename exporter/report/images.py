"""Pictures of a scene's outputs as PNG data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from plotly.colors import sequential

from vggt_edge.calibration.metrics.output import first_of
from vggt_edge.calibration.metrics.quantities import Depth
from vggt_edge.exporter.report.data import SceneView

DEPTH_COLORS, ERROR_COLORS = "Viridis", "Inferno"
LONGEST_SIDE = 320
MAX_FRAMES = 8
NOT_FINITE = (255, 0, 255)

Pixels = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FramePictures:
    """Data URIs; the depth ones are None where that depth is missing."""

    label: str
    image: str
    fp32: str | None = None
    quantized: str | None = None
    difference: str | None = None


@dataclass(frozen=True)
class DepthSheet:
    """All frames of a scene with one depth range, so that colours compare. ``error_high``: a relative difference."""

    frames: tuple[FramePictures, ...]
    depth_low: float = 0.0
    depth_high: float = 0.0
    error_high: float = 0.0
    left_out: int = 0


def depth_sheet(view: SceneView) -> DepthSheet:
    """Input image, both depths and their relative difference, for at most ``MAX_FRAMES`` frames."""
    shown = min(len(view.images), MAX_FRAMES)
    left_out = len(view.images) - shown
    images = [_encoded(_to_bytes(np.moveaxis(view.images[index], 0, -1))) for index in range(shown)]
    depth = first_of(view.declared, Depth)
    if depth is None or not all(depth.name in outputs for outputs in (view.fp32, view.quantized)):
        return DepthSheet(
            tuple(FramePictures(f"Frame {index}", image) for index, image in enumerate(images)), left_out=left_out
        )
    fp32, quantized = (np.asarray(each[depth.name], np.float64)[0, :shown] for each in (view.fp32, view.quantized))
    low, high = _range(fp32)
    with np.errstate(invalid="ignore"):
        difference = np.abs(quantized - fp32) / np.maximum(np.abs(fp32), 1e-9)
    error_high = max(_range(difference)[1], 1e-6)
    frames = tuple(
        FramePictures(
            f"Frame {index}",
            image,
            _colored(fp32[index], low, high, DEPTH_COLORS),
            _colored(quantized[index], low, high, DEPTH_COLORS),
            _colored(difference[index], 0, error_high, ERROR_COLORS),
        )
        for index, image in enumerate(images)
    )
    return DepthSheet(frames, low, high, error_high, left_out)


@cache
def palette(name: str) -> Pixels:
    """(256, 3) of one of plotly's perceptual scales."""
    stops = np.array(
        [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in getattr(sequential, name)], np.float64
    )
    at = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def gradient(name: str) -> str:
    """The same scale as a CSS gradient, for the legend."""
    return f"linear-gradient(90deg, {', '.join(getattr(sequential, name))})"


def _range(values: Map) -> tuple[float, float]:
    """2nd and 98th percentile: single wild pixels must not flatten the colours."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, [2, 98])
    return float(low), float(high)


def _colored(values: Map, low: float, high: float, name: str) -> str:
    finite = np.isfinite(values)
    share = (np.where(finite, values, low) - low) / max(high - low, 1e-12)
    pixels = palette(name)[(np.clip(share, 0, 1) * 255).round().astype(np.intp)]
    return _encoded(np.where(finite[..., None], pixels, np.array(NOT_FINITE, np.uint8)))


def _to_bytes(image: npt.NDArray[Any]) -> Pixels:
    return np.asarray((np.clip(np.nan_to_num(image), 0, 1) * 255).round(), np.uint8)


def _encoded(pixels: Pixels) -> str:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
