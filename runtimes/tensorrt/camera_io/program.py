"""``fused.onnx`` of a TensorRT folder: written, compiled as a check, described in ``kit.json``, run; its goldens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vggt_edge.calibration.scenes.camera import CameraFrames
from vggt_edge.calibration.scenes.resize import camera_from_input
from vggt_edge.runtimes.base import Arrays, CameraRun, Check, Frames
from vggt_edge.runtimes.common.audit import load_onnx
from vggt_edge.runtimes.common.kit import KIT_FILE, encoded, sha256, write_bytes, write_json
from vggt_edge.runtimes.tensorrt import rtx
from vggt_edge.runtimes.tensorrt.camera_io.fuse import INPUT, Fused, decoded, fuse
from vggt_edge.runtimes.tensorrt.camera_io.names import FUSED, PLAIN, PROGRAM, PROGRAM_GOLDEN
from vggt_edge.runtimes.tensorrt.interpreter.session import GraphSession
from vggt_edge.runtimes.tensorrt.rules import enforce

if TYPE_CHECKING:
    from vggt_edge.calibration.metrics.output import Output

ENTRY = "fused"


def write_program(
    folder: Path, model: Path, camera: CameraFrames, declared: Sequence[Output], capability: str
) -> Check:
    """Write ``fused.onnx`` beside ``model``, list it in ``kit.json``, and compile it as ``model`` was compiled.

    ``LoweringError`` for outputs that are not known, a rule of TensorRT that it breaks, or a graph that TensorRT for
    RTX refuses.
    """
    fused = fuse(model, folder / PROGRAM, camera, declared)
    enforce(load_onnx(fused.path), str(fused.path))
    compiled = rtx.compile_graph(fused.path, capability=capability, timeout_s=rtx.time_limit_s(model)).check
    rtx.enforce(compiled, fused.path)
    _change_kit(folder, {ENTRY: _entry(fused, camera)}, fused.path)
    return replace(compiled, name=f"{rtx.NAME}, {PROGRAM}")


def run_program(folder: Path, model: str, frames: Frames, declared: Sequence[Output]) -> CameraRun:
    """Run ``fused.onnx`` and ``model`` in our interpreter, on what a camera sees (S, height, width, 3)."""
    camera, size = _described(folder)
    arrays = camera.of_rgb(frames)
    fused = GraphSession(folder / PROGRAM, also=(INPUT,)).run(
        {name: array.astype(np.float32) for name, array in arrays.items()}
    )
    images = camera.prepared(arrays, size)[None]
    apart = decoded(GraphSession(folder / model).run({INPUT: images}), declared, size)
    given = {output.name: fused[output.name] for output in declared}
    geometry = {name: values for name, values in decoded(given, declared, size).items() if name not in given}
    return CameraRun(FUSED, PLAIN, fused, apart, {INPUT: images, **geometry})


def write_program_golden(folder: Path, frames: Frames, simulation: Arrays, declared: Sequence[Output]) -> None:
    """Write what the device replays: ``input/<name>`` in uint8, and ``expected/<name>`` in float32."""
    camera, size = _described(folder)
    expected = decoded(simulation, declared, size)
    tensors: dict[str, Any] = {f"input/{name}": array for name, array in camera.of_rgb(frames).items()}
    tensors |= {f"expected/{name}": values for name, values in expected.items()}
    write_bytes(folder / PROGRAM_GOLDEN, encoded(tensors))
    _change_kit(folder, {}, folder / PROGRAM_GOLDEN)


def _entry(fused: Fused, camera: CameraFrames) -> dict[str, Any]:
    return {
        "model": PROGRAM,
        "golden": PROGRAM_GOLDEN,
        "frames": camera.text,
        "model_input": list(fused.size),
        "inputs": [{"name": name, "shape": list(shape)} for name, shape in fused.inputs.items()],
        "outputs": [{"name": name, "shape": list(shape)} for name, shape in fused.outputs.items()],
        "camera_from_input": camera_from_input(camera.size, fused.size).tolist(),
    }


def _described(folder: Path) -> tuple[CameraFrames, tuple[int, int]]:
    """The camera, and (height, width) of the model's input, as ``kit.json`` has them."""
    entry = json.loads((folder / KIT_FILE).read_text())[ENTRY]
    height, width = entry["model_input"]
    return CameraFrames.parse(entry["frames"]), (height, width)


def _change_kit(folder: Path, entries: Mapping[str, Any], file: Path) -> None:
    """Add entries and the digest of a file to ``kit.json``."""
    kit = json.loads((folder / KIT_FILE).read_text())
    kit["sha256"][file.name] = sha256(file)
    write_json(folder / KIT_FILE, {**kit, **entries})
