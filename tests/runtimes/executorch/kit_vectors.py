"""What the exporter's own code says, for the Kotlin tests: ``python tests/runtimes/executorch/kit_vectors.py``.

Writes ``src/test/resources/vectors.json`` of the Android kit: the numbers of the iOS kit's vectors, with a kit and
golden tensors of this kit's own form. ``test_kit_kotlin.py`` fails when the file is not what this gives today.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from vggt_edge.calibration.scenes.image import read_image
from vggt_edge.runtimes.common.kit import script_module
from vggt_edge.runtimes.executorch import kit_files
from vggt_edge.runtimes.executorch.kit_files import KitBlock, KitDescription, KitOutput

VECTORS = kit_files.KIT / kit_files.PROJECT / "vggtedge/src/test/resources/vectors.json"
# Big frames say no more about the arithmetic, and every vector is read by every build of every app.
SHARED = (
    "poses", "quaternion_signs", "sizes", "intrinsics", "resizes", "turns", "colors", "drifts", "unprojections",
    "confidences", "latencies", "safetensors", "framings",
)  # fmt: skip
Array = np.ndarray
FRAMES, HEIGHT, WIDTH = 2, 14, 28


@cache
def ios_vectors() -> ModuleType:
    path = Path(__file__).parents[1] / "coreml" / "kit_vectors.py"
    return script_module(path, "ios_kit_vectors")


def vectors() -> dict[str, Any]:
    """Everything, from fixed seeds."""
    shared = ios_vectors().vectors()
    kit, golden = _kit_and_golden()
    own = {"kit": _text(kit), "golden": _text(golden), "photos": _photos()}
    return {name: shared[name] for name in SHARED} | own


def encoded() -> str:
    return json.dumps(vectors(), sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _photos() -> list[dict[str, Any]]:
    """Small pictures as files, turned as EXIF says and partly transparent, and what the exporter's reader sees."""
    random = np.random.default_rng(14)
    result = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        file = io.BytesIO()
        colors = random.integers(0, 256, (2, 3, 4 if orientation % 2 else 3), np.uint8)
        Image.fromarray(colors).save(file, "PNG", exif=exif)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "photo.png"
            path.write_bytes(file.getvalue())
            pixels = read_image(path).upright()
        result.append(
            {
                "name": f"orientation {orientation}",
                "file": _text(file.getvalue()),
                "size": {"width": pixels.shape[1], "height": pixels.shape[0]},
                "pixels": _text(pixels.tobytes()),
            }
        )
    return result


def description(**changes: Any) -> KitDescription:
    """A small kit, as ``write_kit`` takes it."""
    pixels = (1, FRAMES, HEIGHT, WIDTH)
    outputs = (
        KitOutput("pose_enc", (1, FRAMES, 9), "pose_encoding"),
        KitOutput("depth", pixels, "depth"),
        KitOutput("depth_conf", pixels, "confidence"),
    )
    fields: dict[str, Any] = {
        "target": "android-8-elite",
        "plan_digest": "5" * 64,
        "program": "vggt.pte",
        "executorch_version": "1.4.1",
        "planned_bytes": 4096,
        "frames": FRAMES,
        "height": HEIGHT,
        "width": WIDTH,
        "outputs": outputs,
        "blocks": (KitBlock("frame_blocks.0", "w4a8d"), KitBlock("depth_head", "w8a8d")),
        "backend_sqnr_db_min": 30.0,
    }
    return KitDescription(**(fields | changes))


def golden_arrays() -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Inputs, simulation, FP32 of that kit."""
    inputs, simulation, fp32 = ios_vectors().golden_arrays()
    return inputs, simulation, fp32


def write_model(folder: Path, *, weights: bool = False) -> None:
    """Stand-ins for the program and its weights: the kit only lists them."""
    (folder / "vggt.pte").write_bytes(b"program")
    if weights:
        (folder / "vggt.ptd").write_bytes(b"weights")


def _kit_and_golden() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_model(folder)
        kit_files.write_kit(folder, description())
        golden = kit_files.write_golden(folder, *golden_arrays())
        return (folder / kit_files.KIT_FILE).read_bytes(), golden.read_bytes()


def main() -> None:
    VECTORS.parent.mkdir(parents=True, exist_ok=True)
    VECTORS.write_text(encoded())


if __name__ == "__main__":
    main()
