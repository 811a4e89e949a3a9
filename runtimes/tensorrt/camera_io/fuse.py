"""Joins the stages with the model's graph, whose weights stay in their file and are never read."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from vggt_edge.calibration.scenes.camera import CameraFrames
from vggt_edge.calibration.scenes.framing import FIT, PixelCenters, Preprocess
from vggt_edge.devices.errors import LoweringError, ToolchainError
from vggt_edge.runtimes.base import Arrays
from vggt_edge.runtimes.tensorrt.camera_io.cameras import put_cameras, put_extrinsics, put_intrinsics, put_world_points
from vggt_edge.runtimes.tensorrt.camera_io.frames import put_frames
from vggt_edge.runtimes.tensorrt.camera_io.stage import Stage, Value

if TYPE_CHECKING:
    from vggt_edge.calibration.metrics.output import Output

INPUT = "images"
EXTRINSICS, INTRINSICS, WORLD_POINTS = "extrinsics", "intrinsics", "world_points"
LIBRARY = "onnx_graphsurgeon"


@dataclass(frozen=True)
class Fused:
    """The fused graph. size: (height, width) of the images. inputs (uint8), outputs (float32): shapes by name."""

    path: Path
    size: tuple[int, int]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]


def check_library() -> None:
    """``ToolchainError`` where onnx-graphsurgeon is not installed."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise ToolchainError(
            "onnx-graphsurgeon is not installed", where="--fuse-io", remedy="pip install 'vggt-edge[jetson]'"
        )


def fuse(
    model: Path,
    target: Path,
    camera: CameraFrames,
    declared: Sequence[Output],
    rule: Preprocess = FIT,
    centers: PixelCenters = "half",
) -> Fused:
    """Write ``model`` with both stages to ``target``, in the same folder: it reads the same data file.

    Inputs: the arrays of ``camera``. Outputs: extrinsics and intrinsics where the model gives poses, world points where
    it also gives depth, and all that the model gives. declared: what it says of its outputs. rule: how a frame becomes
    the model's input. centers: where the centre of the first pixel lies. ``LoweringError`` for an output of a kind that
    is not known here.
    """
    _check_known(declared, str(model))
    graph = _read(model)
    stages = Stage("camera"), Stage("geometry")
    images = next(value for value in graph.inputs if value.name == INPUT)
    graph.inputs = put_frames(stages[0], camera, images, rule)
    graph.outputs = [*_put_geometry(stages[1], graph, declared, images.shape, centers), *graph.outputs]
    graph.nodes = [*stages[0].nodes, *graph.nodes, *stages[1].nodes]
    _write(graph, target)
    shapes = ({value.name: tuple(value.shape) for value in values} for values in (graph.inputs, graph.outputs))
    height, width = images.shape[-2:]
    return Fused(target, (height, width), *shapes)


def decoded(
    outputs: Arrays, declared: Sequence[Output], size: tuple[int, int], centers: PixelCenters = "half"
) -> dict[str, Any]:
    """The outputs of the fused graph, computed from those of the model by numpy in float64; float32 by name.

    size: (height, width) of the model's input.
    """
    from vggt_edge.calibration.metrics.geometry import decode_pose, unproject

    pose, depth = _pose_and_depth(declared)
    found = {}
    if pose is not None:
        extrinsics, intrinsics = decode_pose(outputs[pose.name][0], size)
        found = {EXTRINSICS: extrinsics, INTRINSICS: intrinsics}
        if depth is not None:
            found[WORLD_POINTS] = unproject(outputs[depth.name][0], intrinsics, extrinsics, centers)
    return {name: values[None].astype(np.float32) for name, values in found.items()} | dict(outputs)


def _check_known(declared: Sequence[Output], where: str) -> None:
    from vggt_edge.calibration.metrics.quantities import KINDS

    unknown = [f"{output.name} ({output.quantity.kind})" for output in declared if output.quantity.kind not in KINDS]
    if unknown or not declared:
        raise LoweringError(
            f"--fuse-io does not know what to make of {', '.join(unknown) or 'outputs that nobody describes'}",
            where=where,
            expected=f"outputs of these kinds: {', '.join(KINDS)}",
            remedy="leave the output out with --outputs, or export without --fuse-io",
        )


def _pose_and_depth(declared: Sequence[Output]) -> tuple[Output | None, Output | None]:
    from vggt_edge.calibration.metrics.output import first_of
    from vggt_edge.calibration.metrics.quantities import Depth, PoseEncoding

    return first_of(declared, PoseEncoding), first_of(declared, Depth)


def _put_geometry(
    stage: Stage, graph: Any, declared: Sequence[Output], shape: Sequence[int], centers: PixelCenters
) -> list[Value]:
    """Add what the cameras give; the new outputs."""
    import onnx_graphsurgeon as gs

    pose, depth = _pose_and_depth(declared)
    if pose is None:
        return []
    _, frames, _, *size = shape
    values = {value.name: value for value in graph.outputs}
    extrinsics = gs.Variable(EXTRINSICS, np.float32, (1, frames, 3, 4))
    intrinsics = gs.Variable(INTRINSICS, np.float32, (1, frames, 3, 3))
    cameras = put_cameras(stage, values[pose.name])
    put_extrinsics(stage, cameras, extrinsics)
    put_intrinsics(stage, cameras, (size[0], size[1]), intrinsics)
    if depth is None:
        return [extrinsics, intrinsics]
    points = gs.Variable(WORLD_POINTS, np.float32, (1, frames, *size, 3))
    put_world_points(stage, cameras, values[depth.name], points, centers)
    return [extrinsics, intrinsics, points]


def _read(model: Path) -> Any:
    check_library()
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.logger import G_LOGGER

    G_LOGGER.severity = G_LOGGER.ERROR  # it warns on stdout of types that numpy lacks
    return gs.import_onnx(onnx.load(model, load_external_data=False))


def _write(graph: Any, target: Path) -> None:
    import onnx_graphsurgeon as gs

    onnx.save(gs.export_onnx(graph), target)
