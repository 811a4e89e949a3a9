"""Plotly charts as plain dictionaries: what plotly.js draws, without plotly's Python objects. Colours of text and
grid are set in the browser, which knows whether the page is light or dark."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.metrics.geometry import invert_pose, unproject
from vggt_edge.calibration.metrics.output import first_of
from vggt_edge.calibration.metrics.quantities import Camera, Depth, Points
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.sensitivity.ablation import Sensitivity
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.report.data import Outputs, SceneView

MAX_POINTS = 6000
SCHEME_COLORS = {
    "fp32": "#64748b",
    "fp16": "#3b82f6",
    "w8a16": "#0ea5a4",
    "w8a8": "#16a34a",
    "w8a8-mha": "#15803d",
    "w8a8d": "#65a30d",
    "fp8": "#0f766e",
    "fp8-mha": "#134e4a",
    "p6a16": "#a855f7",
    "w4a16": "#d97706",
    "p4a16": "#ec4899",
    "w4a8d": "#dc2626",
    "nvfp4": "#b45309",
    "nvfp4a16": "#ca8a04",
    "w4a4d": "#7f1d1d",
}
FP32_COLOR, QUANTIZED_COLOR = "#3b82f6", "#f97316"
# OpenCV axes: y points down and z into the scene. Seen from behind and above the first camera.
_VIEW = {"up": {"x": 0, "y": -1, "z": 0}, "eye": {"x": 0.5, "y": -1.1, "z": -2.3}}
# A unit pyramid: the tip, then the corners of the image plane, drawn in one stroke.
_FRUSTUM = np.array([[0, 0, 0], [-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]], dtype=np.float64)
_STROKE = [0, 1, 2, 0, 3, 4, 0, 1, 4, 3, 2]

Chart = dict[str, Any]
Array = npt.NDArray[np.float64]


def sensitivity_chart(entries: tuple[Sensitivity, ...], plan: PrecisionPlan | None) -> Chart:
    """Bars by block, one colour per scheme; the planned one solid, the others faint."""
    chosen = {each.block: each.scheme for each in plan.assignments} if plan else {}
    blocks = list(dict.fromkeys(entry.block for entry in entries))
    traces = []
    for scheme in dict.fromkeys(entry.scheme for entry in entries):
        errors = {entry.block: entry.error for entry in entries if entry.scheme == scheme}
        planned = [chosen.get(block, scheme) == scheme for block in blocks]
        traces.append(
            {
                "type": "bar",
                "name": scheme,
                "x": blocks,
                "y": [_rounded(errors.get(block)) for block in blocks],
                "customdata": ["planned" if mine else "not planned" for mine in planned],
                "marker": {
                    "color": SCHEME_COLORS.get(scheme, "#888888"),
                    "opacity": [1.0 if mine else 0.35 for mine in planned],
                },
                "hovertemplate": f"%{{x}}<br>{scheme}: %{{y:.3g}} (%{{customdata}})<extra></extra>",
            }
        )
    layout = {
        "barmode": "group",
        "height": 380,
        "margin": {"l": 64, "r": 8, "t": 8, "b": 120},
        "xaxis": {"tickangle": -60, "tickfont": {"size": 10}},
        "yaxis": {"type": "log", "title": {"text": "output error"}, "exponentformat": "power", "dtick": 1},
        "legend": {"orientation": "h", "y": 1.08},
    }
    return {"data": traces, "layout": layout}


def pose_chart(view: SceneView) -> Chart | None:
    """Camera frusta of both models; None where a pose is missing or no camera."""
    traces = []
    for name, outputs, color, dash in (
        ("FP32", view.fp32, FP32_COLOR, "solid"),
        ("quantized", view.quantized, QUANTIZED_COLOR, "dash"),
    ):
        cameras = _cameras(outputs, view)
        if cameras is None:
            return None
        size = 0.12 * max(_extent(cameras[0]), 1e-3)
        for frame, stroke in enumerate(_frusta(*cameras, size)):
            trace = _lines(stroke, color, dash)
            traces.append({**trace, "name": name, "legendgroup": name, "showlegend": frame == 0})
            traces[-1]["hovertemplate"] = f"{name}, frame {frame}<extra></extra>"
    layout = {"height": 420, "scene": _scene(), "legend": {"orientation": "h"}, "margin": dict.fromkeys("lrtb", 0)}
    return {"data": traces, "layout": layout}


def cloud_charts(view: SceneView) -> tuple[Chart, Chart] | None:
    """The same pixels' points in FP32 and quantized, in the colours of the images; None where either has no points."""
    clouds = [_points(outputs, view) for outputs in (view.fp32, view.quantized)]
    first, second = clouds
    if first is None or second is None:
        return None
    keep = _worth_drawing(first[0], first[1], second[0])
    if not keep.size:
        return None
    colors = np.moveaxis(view.images, 1, -1).reshape(-1, 3)[keep]
    texts = [f"rgb({red},{green},{blue})" for red, green, blue in (np.clip(colors, 0, 1) * 255).astype(int).tolist()]
    low, high = first[0][keep].min(axis=0), first[0][keep].max(axis=0)
    return _cloud(first[0][keep], texts, (low, high)), _cloud(second[0][keep], texts, (low, high))


def _cloud(points: Array, colors: list[str], limits: tuple[Array, Array]) -> Chart:
    trace = {
        "type": "scatter3d",
        "mode": "markers",
        **dict(zip("xyz", (_rounded_list(axis) for axis in points.T), strict=True)),
        "marker": {"size": 1.8, "color": colors},
        "hoverinfo": "skip",
    }
    scene = _scene()
    # The same limits for both: what drifted out of the scene must not shrink it.
    for name, low, high in zip("xyz", *limits, strict=True):
        margin = 0.05 * (high - low) + 1e-6
        scene[f"{name}axis"]["range"] = _rounded_list(np.array([low - margin, high + margin]))
    layout = {"height": 420, "scene": scene, "margin": dict.fromkeys("lrtb", 0), "showlegend": False}
    return {"data": [trace], "layout": layout}


def _points(outputs: Outputs, view: SceneView) -> tuple[Array, Array] | None:
    """Points (N, 3) and their confidence (N,): given by the model, or depth carried into the world by the pose."""
    direct, depth = first_of(view.declared, Points), first_of(view.declared, Depth)
    cameras = _cameras(outputs, view) if direct is None else None
    if direct is not None:
        points = np.asarray(outputs[direct.name], np.float64)[0]
        confidence = outputs.get(direct.confidence)
    elif depth is not None and cameras is not None:
        points = unproject(np.asarray(outputs[depth.name][0]), cameras[1], cameras[0])
        confidence = outputs.get(depth.confidence)
    else:
        return None
    weights = np.ones(points.shape[:-1]) if confidence is None else np.asarray(confidence, np.float64)[0]
    return points.reshape(-1, 3), weights.reshape(-1)


def _worth_drawing(points: Array, confidence: Array, other: Array) -> npt.NDArray[np.intp]:
    """Finite points, not the least confident tenth, not the farthest 2 %; thinned evenly."""
    usable = np.asarray(np.isfinite(points).all(axis=1) & np.isfinite(other).all(axis=1))
    if not usable.any():
        return np.array([], dtype=np.intp)
    distance = np.linalg.norm(np.where(usable[:, None], points, 0), axis=1)
    usable &= (distance <= np.percentile(distance[usable], 98)) & (confidence >= np.percentile(confidence, 10))
    kept = np.flatnonzero(usable)
    return kept[np.linspace(0, len(kept) - 1, min(len(kept), MAX_POINTS)).astype(np.intp)]


def _cameras(outputs: Outputs, view: SceneView) -> tuple[Array, Array] | None:
    """Extrinsics (S, 3, 4) and intrinsics (S, 3, 3)."""
    output = first_of(view.declared, Camera)
    if output is None:
        return None
    assert isinstance(output.quantity, Camera)
    try:
        return output.quantity.cameras(outputs[output.name][0], (view.images.shape[2], view.images.shape[3]))
    except InputError:  # the validation section says that these poses are broken
        return None


def _frusta(extrinsics: Array, intrinsics: Array, size: float) -> list[Array]:
    to_world = invert_pose(extrinsics)
    strokes = []
    for pose, lens in zip(to_world, intrinsics, strict=True):
        half_width, half_height = lens[0, 2] / lens[0, 0], lens[1, 2] / lens[1, 1]
        corners = size * _FRUSTUM * [half_width, half_height, 1]
        strokes.append((corners @ pose[:, :3].T + pose[:, 3])[_STROKE])
    return strokes


def _extent(extrinsics: Array) -> float:
    return float(np.linalg.norm(np.ptp(invert_pose(extrinsics)[..., 3], axis=0)))


def _lines(stroke: Array, color: str, dash: str) -> Chart:
    axes = dict(zip("xyz", (_rounded_list(axis) for axis in stroke.T), strict=True))
    return {"type": "scatter3d", "mode": "lines", **axes, "line": {"color": color, "width": 4, "dash": dash}}


def _scene() -> Chart:
    return {"aspectmode": "data", "camera": _VIEW, **{f"{name}axis": {"title": {"text": name}} for name in "xyz"}}


def _rounded(value: float | None) -> float | None:
    """Four digits: less to store, and a log axis has no place for 0."""
    return float(f"{value:.4g}") if value is not None and np.isfinite(value) and value > 0 else None


def _rounded_list(values: Array) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
