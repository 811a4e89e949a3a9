"""The stage ``camera``: from uint8 frames of the camera's size to the model's images, as ``resize_frame`` makes them.

The antialiased bicubic resize is two products with constant matrices, since TensorRT's Resize has no antialias. Each
product of RGB is rounded to 8 bits, as Pillow does. NV12 is resized as luma and chroma, and rounded once, as RGB.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from vggt_edge.calibration.scenes.camera import CameraFrames, Yuv, chroma_upsampling
from vggt_edge.calibration.scenes.framing import FIT, Preprocess
from vggt_edge.calibration.scenes.resize import Resampling, resampling
from vggt_edge.runtimes.tensorrt.camera_io.stage import Stage, Value

Matrix = npt.NDArray[np.float32]
_DARK, _BRIGHT, _HALF = (np.array(level, np.float32) for level in (0, 255, 0.5))


def put_frames(stage: Stage, camera: CameraFrames, images: Value, rule: Preprocess = FIT) -> list[Value]:
    """Compute ``images`` (1, S, 3, H, W) from the frames of a camera, which are the new inputs: they are returned."""
    import onnx_graphsurgeon as gs

    _, frames, _, height, width = images.shape
    inputs = [gs.Variable(name, np.uint8, shape) for name, shape in camera.inputs(frames).items()]
    # TensorRT converts uint8, and does nothing else with it.
    floats = [stage.add("Cast", value, to=onnx.TensorProto.FLOAT) for value in inputs]
    matrices = resampling(camera.size, (height, width), rule)
    if camera.yuv is None:
        levels = _of_rgb(stage, floats[0], matrices)
    else:
        luma = stage.add("Unsqueeze", floats[0], np.array([1], np.int64))
        levels = _of_nv12(stage, luma, floats[1], camera.yuv, camera, matrices)
    if matrices.white is not None:
        levels = stage.add("Add", levels, matrices.white)  # what nothing was resampled to is 0 so far
    shares = stage.add("Div", levels, _BRIGHT)
    stage.add("Reshape", shares, np.array(images.shape, np.int64), into=images)
    return inputs


def _of_rgb(stage: Stage, frames: Value, matrices: Resampling) -> Value:
    """(S, H, W, 3) to (S, 3, h, w)."""
    levels = stage.add("Transpose", frames, perm=[0, 3, 1, 2])
    for columns in (not matrices.rows_first, matrices.rows_first):
        product = _across(stage, levels, matrices.columns) if columns else _down(stage, levels, matrices.rows)
        levels = _rounded(stage, product)
    return levels


def _of_nv12(stage: Stage, luma: Value, chroma: Value, yuv: Yuv, camera: CameraFrames, matrices: Resampling) -> Value:
    """(S, 1, H, W) and (S, H / 2, W / 2, 2) to (S, 3, h, w)."""
    height, width = camera.size
    grey = _down(stage, _across(stage, luma, matrices.columns), matrices.rows)
    columns, rows = matrices.columns @ chroma_upsampling(width), matrices.rows @ chroma_upsampling(height)
    planes = stage.add("Transpose", chroma, perm=[0, 3, 1, 2])
    # Less the middle first: a flat grey then stays grey whatever the products round.
    planes = stage.add("Sub", planes, np.array(128, np.float32))
    planes = _down(stage, _across(stage, planes, columns.astype(np.float32)), rows.astype(np.float32))
    offset, gain = (np.array(number, np.float32) for number in yuv.luma)
    colours = stage.add("Mul", stage.add("Sub", grey, offset), gain)
    mixed = yuv.chroma.astype(np.float32).reshape(3, 2, 1, 1)
    for index, plane in enumerate(stage.several("Split", planes, outputs=2, axis=1, num_outputs=2)):
        colours = stage.add("Add", colours, stage.add("Mul", plane, mixed[:, index]))
    return _rounded(stage, colours)


def _across(stage: Stage, values: Value, columns: Matrix) -> Value:
    return stage.add("MatMul", values, np.ascontiguousarray(columns.T))


def _down(stage: Stage, values: Value, rows: Matrix) -> Value:
    return stage.add("MatMul", rows, values)


def _rounded(stage: Stage, values: Value) -> Value:
    """Whole levels from 0 to 255; halves go up."""
    return stage.add("Clip", stage.add("Floor", stage.add("Add", values, _HALF)), _DARK, _BRIGHT)
