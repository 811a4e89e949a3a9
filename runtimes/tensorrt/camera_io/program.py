"""``fused.onnx`` of a TensorRT folder: written, compiled as a check, described in ``kit.json``, run; its goldens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vggt_edge.calibration.scenes.camera import CameraFrames
from vggt_edge.calibration.scenes.framing import PixelCenters, Preprocess
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
    described = _described_pictures(folder)
    fused = fuse(model, folder / PROGRAM, camera, declared, *described)
    enforce(load_onnx(fused.path), str(fused.path))
    compiled = rtx.compile_graph(fused.path, capability=capability, timeout_s=rtx.time_limit_s(model)).check
    rtx.enforce(compiled, fused.path)
    _change_kit(folder, {ENTRY: _entry(fused, camera, described[0])}, fused.path)
    return replace(compiled, name=f"{rtx.NAME}, {PROGRAM}")


def run_program(folder: Path, model: str, frames: Frames, declared: Sequence[Output]) -> CameraRun:
    """Run ``fused.onnx`` and ``model`` in our interpreter, on what a camera sees (S, height, width, 3)."""
    (camera, size), (rule, centers) = _described(folder), _described_pictures(folder)
    arrays = camera.of_rgb(frames)
    fused = GraphSession(folder / PROGRAM, also=(INPUT,)).run(
        {name: array.astype(np.float32) for name, array in arrays.items()}
    )
    images = camera.prepared(arrays, size, rule)[None]
    apart = decoded(GraphSession(folder / model).run({INPUT: images}), declared, size, centers)
    given = {output.name: fused[output.name] for output in declared}
    geometry = {name: values for name, values in decoded(given, declared, size, centers).items() if name not in given}
    return CameraRun(FUSED, PLAIN, fused, apart, {INPUT: images, **geometry})


def write_program_golden(folder: Path, frames: Frames, simulation: Arrays, declared: Sequence[Output]) -> None:
    """Write what the device replays: ``input/<name>`` in uint8, and ``expected/<name>`` in float32."""
    (camera, size), (_, centers) = _described(folder), _described_pictures(folder)
    expected = decoded(simulation, declared, size, centers)
    tensors: dict[str, Any] = {f"input/{name}": array for name, array in camera.of_rgb(frames).items()}
    tensors |= {f"expected/{name}": values for name, values in expected.items()}
    write_bytes(folder / PROGRAM_GOLDEN, encoded(tensors))
    _change_kit(folder, {}, folder / PROGRAM_GOLDEN)


def _entry(fused: Fused, camera: CameraFrames, rule: Preprocess) -> dict[str, Any]:
    framing = rule.framing(camera.size, fused.size)
    return {
        "model": PROGRAM,
        "golden": PROGRAM_GOLDEN,
        "frames": camera.text,
        "model_input": list(fused.size),
        "inputs": [{"name": name, "shape": list(shape)} for name, shape in fused.inputs.items()],
        "outputs": [{"name": name, "shape": list(shape)} for name, shape in fused.outputs.items()],
        "camera_from_input": framing.picture_from_input.tolist(),
        "content": list(framing.content),
    }


def _described(folder: Path) -> tuple[CameraFrames, tuple[int, int]]:
    """The camera, and (height, width) of the model's input, as ``kit.json`` has them."""
    entry = json.loads((folder / KIT_FILE).read_text())[ENTRY]
    height, width = entry["model_input"]
    return CameraFrames.parse(entry["frames"]), (height, width)


def _described_pictures(folder: Path) -> tuple[Preprocess, PixelCenters]:
    kit = json.loads((folder / KIT_FILE).read_text())
    return Preprocess(**kit.get("preprocess", {})), kit.get("pixel_centers", "half")


def _change_kit(folder: Path, entries: Mapping[str, Any], file: Path) -> None:
    """Add entries and the digest of a file to ``kit.json``."""
    kit = json.loads((folder / KIT_FILE).read_text())
    kit["sha256"][file.name] = sha256(file)
    write_json(folder / KIT_FILE, {**kit, **entries})
