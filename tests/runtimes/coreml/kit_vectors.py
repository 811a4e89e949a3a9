"""What the exporter's own code says, for the Swift tests to replay: ``python tests/runtimes/coreml/kit_vectors.py``.

Writes ``Tests/VGGTEdgeCoreTests/Resources/vectors.json`` of the iOS kit. ``test_kit.py`` fails when the file is not
what this gives today, so Swift and Python cannot drift apart unseen.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save

from vggt_edge.calibration.metrics.figures import confident_pixels, drift, pose_errors
from vggt_edge.calibration.metrics.geometry import decode_pose, invert_pose, unproject
from vggt_edge.calibration.metrics.quantities import PoseEncoding
from vggt_edge.calibration.scenes.framing import MODES, PIXEL_CENTERS, Preprocess
from vggt_edge.calibration.scenes.resize import fit_shape, resize_frame, resize_intrinsics
from vggt_edge.runtimes.coreml import kit_files
from vggt_edge.runtimes.coreml.kit_files import KitBlock, KitDescription, KitOutput
from vggt_edge.runtimes.tensorrt.engine import kit_module

VECTORS = kit_files.KIT / "VGGTEdge/Tests/VGGTEdgeCoreTests/Resources/vectors.json"
Array = np.ndarray
FRAMES, HEIGHT, WIDTH = 2, 14, 28
JSON_CASES = Path(__file__).parents[2] / "kits/json_cases"


def vectors() -> dict[str, Any]:
    """Everything, from fixed seeds."""
    kit, golden = _kit_and_golden()
    return {
        "poses": _poses(),
        "quaternion_signs": _quaternion_signs(),
        "sizes": _sizes(),
        "intrinsics": _intrinsics(),
        "resizes": _resizes(),
        "framings": _framings(),
        "turns": _turns(),
        "colors": _colors(),
        "gamuts": _gamuts(),
        "alphas": _alphas(),
        "drifts": _drifts(),
        "pose_errors": _pose_errors(),
        "unprojections": _unprojections(),
        "confidences": _confidences(),
        "latencies": _latencies(),
        "safetensors": _safetensors(),
        "json": _json(),
        "kit": _text(kit),
        "golden": _text(golden),
    }


def encoded() -> str:
    return json.dumps(vectors(), sort_keys=True, indent=None, separators=(",", ":"), allow_nan=False) + "\n"


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _floats(values: Array) -> list[float]:
    return [float(value) for value in np.asarray(values).ravel()]


def _size(height: int, width: int) -> dict[str, int]:
    return {"width": width, "height": height}


def _encoding(random: np.random.Generator, frames: int) -> Array:
    pose = random.normal(size=(frames, 9)).astype(np.float32)
    pose[:, 7:] = random.uniform(0.4, 1.8, (frames, 2))
    return pose


def _poses() -> list[dict[str, Any]]:
    random = _random(1)
    edges = _encoding(random, 3)
    edges[0] = (0, 0, 0, 0, 0, 0, 1, 1, 1)
    edges[1, 7:] = 0
    edges[2, 7:] = 4
    cases = [(_encoding(random, 3), (378, 518)), (_encoding(random, 1), (518, 518)), (edges, (14, 28))]
    return [_pose(pose, size) for pose, size in cases]


def _pose(pose: Array, size: tuple[int, int]) -> dict[str, Any]:
    extrinsics, intrinsics = decode_pose(pose, size)
    return {
        "encoding": _floats(pose),
        "size": _size(*size),
        "extrinsics": [_floats(each) for each in extrinsics],
        "intrinsics": [_floats(each) for each in intrinsics],
        "centers": [_floats(each[:, 3]) for each in invert_pose(extrinsics)],
    }


def _quaternion_signs() -> list[dict[str, Any]]:
    random = _random(2)
    reference, values = _encoding(random, 4), _encoding(random, 4)
    values[0, 3:7] = -reference[0, 3:7]
    aligned = PoseEncoding().aligned(values, reference)
    return [{"values": _floats(values), "reference": _floats(reference), "aligned": _floats(aligned)}]


def _sizes() -> list[dict[str, Any]]:
    frames = [(1920, 1440), (1440, 1920), (1280, 720), (640, 480), (4032, 3024), (1, 1), (3000, 1), (517, 519), (13, 9)]
    frames += [tuple(int(side) for side in _random(3 + index).integers(1, 5000, 2)) for index in range(30)]
    result = []
    for width, height in frames:
        for long_side in (14, 224, 518):
            fitting = fit_shape(width, height, long_side)
            result.append({"frame": _size(height, width), "long_side": long_side, "fitting": _size(*fitting)})
    return result


def _intrinsics() -> list[dict[str, Any]]:
    random = _random(4)
    sizes = [((1440, 1920), (392, 518)), ((720, 1280), (518, 518)), ((1920, 1080), (518, 294)), ((30, 40), (140, 140))]
    result = []
    for source, target in sizes:
        focal, center = random.uniform(500, 2000, 2), random.uniform(0.3, 0.7, 2) * source[::-1]
        lens = np.array([[focal[0], 0, center[0]], [0, focal[1], center[1]], [0, 0, 1]])
        after = resize_intrinsics(lens, source, target)
        result.append(
            {
                "source": _size(*source),
                "target": _size(*target),
                "before": _floats(_lens(lens)),
                "after": _floats(_lens(after)),
            }
        )
    return result


def _lens(matrix: Array) -> Array:
    return np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])


def _picture(random: np.random.Generator, height: int, width: int) -> Array:
    """Noise over a gradient: overshoots at both ends of the range, and flat parts."""
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = 128 + 120 * np.sin(rows / 5)[..., None] * np.cos(columns / 7)[..., None]
    noisy = smooth + random.normal(scale=60, size=(height, width, 3))
    return np.clip(np.where(columns[..., None] > width / 2, noisy, smooth), 0, 255).astype(np.uint8)


def _resizes() -> list[dict[str, Any]]:
    random = _random(5)
    cases = [
        ((53, 71), (28, 42)),  # down, cropped across
        ((80, 33), (28, 14)),  # down, cropped along, columns first
        ((90, 50), (42, 42)),  # the same for a square
        ((11, 9), (28, 28)),  # up
        ((28, 42), (28, 42)),  # nothing to do
        ((28, 60), (28, 42)),  # cropped only, between pixels
        ((41, 28), (14, 28)),  # one pass
        ((1, 1), (14, 14)),
        ((61, 130), (14, 28)),  # far down
    ]
    result = []
    for source, target in cases:
        picture = _picture(random, *source)
        frame = resize_frame(picture, *target)
        resized = np.round(frame * 255).astype(np.uint8).transpose(1, 2, 0)
        result.append(
            {
                "source": _size(*source),
                "pixels": _text(picture.tobytes()),
                "target": _size(*target),
                "resized": _text(resized.tobytes()),
            }
        )
    return result


def _framings() -> list[dict[str, Any]]:
    """Every mode for tall, flat, odd and tiny pictures: pixels, what shows the picture, lenses, and the way back."""
    random = _random(17)
    cases = [
        ((31, 41), (28, 42)),  # down
        ((60, 25), (28, 28)),  # tall: cropped, or white at the sides
        ((21, 61), (42, 42)),  # flat: white above and below, an odd number of rows
        ((11, 9), (28, 42)),  # up
        ((14, 28), (14, 28)),  # nothing to do
        ((42, 28), (14, 28)),  # as wide as the input: rows are cut only
        ((1, 1), (14, 28)),
        ((120, 9), (14, 14)),  # columns first, far down
    ]
    result = []
    for source, target in cases:
        picture = _picture(random, *source)
        lens = np.array([[60.5, 0, source[1] / 2 + 1], [0, 61.5, source[0] / 2 - 2], [0, 0, 1]])
        for mode in MODES:
            for patch in (14, 7) if target == (28, 28) and mode != "fit" else (14,):
                rule = Preprocess(mode, patch)
                framing = rule.framing(source, target)
                framed = np.round(resize_frame(picture, *target, rule) * 255).astype(np.uint8).transpose(1, 2, 0)
                result.append(
                    {
                        "mode": mode,
                        "patch": patch,
                        "source": _size(*source),
                        "pixels": _text(picture.tobytes()),
                        "target": _size(*target),
                        "framed": _text(framed.tobytes()),
                        "content": list(framing.content),
                        "before": _floats(_lens(lens)),
                        "after": _floats(_lens(framing.intrinsics(lens))),
                        "picture_from_input": _floats(framing.picture_from_input),
                    }
                )
    return result


def _turns() -> list[dict[str, Any]]:
    picture = _picture(_random(6), 5, 7)
    turns = {"upright": 0, "counterclockwise": 1, "half": 2, "clockwise": 3}
    return [
        {
            "source": _size(5, 7),
            "pixels": _text(picture.tobytes()),
            "turn": name,
            "turned": _text(np.ascontiguousarray(np.rot90(picture, quarters)).tobytes()),
        }
        for name, quarters in turns.items()
    ]


def _colors() -> list[dict[str, Any]]:
    """The exact inverse of the standards' own definition of Y, Cb and Cr."""
    weights = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
    result = []
    for matrix, (red, blue) in weights.items():
        forward = np.array([[red, 1 - red - blue, blue], [0, 0, 0], [0, 0, 0]])
        forward[1] = (np.array([0, 0, 1]) - forward[0]) / (2 * (1 - blue))
        forward[2] = (np.array([1, 0, 0]) - forward[0]) / (2 * (1 - red))
        for levels, gains, black in (("full", (255, 255, 255), 0), ("video", (219, 224, 224), 16)):
            triples = np.array([[16, 128, 128], [235, 128, 128], [0, 0, 0], [255, 255, 255], [81, 90, 240]])
            triples = np.concatenate([triples, _random(7).integers(0, 256, (60, 3))])
            unit = (triples - np.array([black, 128, 128])) / np.array(gains)
            rgb = np.clip(np.round(unit @ np.linalg.inv(forward).T * 255), 0, 255)
            result.append(
                {"matrix": matrix, "levels": levels, "ycbcr": triples.tolist(), "rgb": rgb.astype(int).tolist()}
            )
    return result


# x and y of red, green and blue, from the standards; the white of all three is D65.
_PRIMARIES = {
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "displayP3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    "bt2020": ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046)),
}
_D65 = (0.3127, 0.3290)


def _to_xyz(space: str) -> Array:
    """From linear values of these primaries to XYZ: white becomes the white point."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in _PRIMARIES[space]]).T
    white = np.array([_D65[0] / _D65[1], 1, (1 - _D65[0] - _D65[1]) / _D65[1]])
    return columns * np.linalg.solve(columns, white)


def _gamuts() -> list[dict[str, Any]]:
    """The exact sRGB of colours in wider primaries, all with the curve of sRGB."""
    levels = np.concatenate([_random(14).integers(0, 256, (60, 3)), [[0, 0, 0], [255, 255, 255], [255, 0, 0]]])
    encoded = levels / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    result = []
    for space in ("displayP3", "bt2020"):
        moved = np.clip(linear @ np.linalg.solve(_to_xyz("sRGB"), _to_xyz(space)).T, 0, 1)
        rgb = 255 * np.where(moved <= 0.0031308, 12.92 * moved, 1.055 * moved ** (1 / 2.4) - 0.055)
        result.append({"space": space, "levels": levels.tolist(), "rgb": np.round(rgb).astype(int).tolist()})
    return result


def _alphas() -> list[dict[str, Any]]:
    """Pillow lays pixels with straight alpha on white."""
    pixels = _random(15).integers(0, 256, (4, 60, 4)).astype(np.uint8)
    pixels[0, :5, 3] = (0, 1, 127, 254, 255)
    white = Image.new("RGBA", (60, 4), "white")
    laid = np.asarray(Image.alpha_composite(white, Image.fromarray(pixels)).convert("RGB"))
    return [{"source": _size(4, 60), "pixels": _text(pixels.tobytes()), "on_white": _text(laid.tobytes())}]


def _pose_errors() -> list[dict[str, Any]]:
    """The largest angles over all pairs of frames."""
    random = _random(16)
    truth = _encoding(random, 4)
    standing = truth.copy()
    standing[1:, :3] = standing[0, :3]
    standing[1:, 3:7] = standing[0, 3:7]
    near = truth + random.normal(scale=1e-3, size=truth.shape).astype(np.float32)
    cases = [(near, truth), (truth, truth), (_encoding(random, 4), truth), (standing, truth), (truth, standing)]
    result = []
    for ours, reference in cases:
        cameras = [decode_pose(each, (14, 14))[0] for each in (ours, reference)]
        errors = pose_errors(*cameras)
        angles = {"rotation": float(errors.rotation_deg.max()), "translation": float(errors.translation_deg.max())}
        result.append({"values": _floats(ours), "reference": _floats(reference)} | angles)
    return result


def _drifts() -> list[dict[str, Any]]:
    random = _random(8)
    reference = random.normal(size=257).astype(np.float32)
    cases = [
        (reference + random.normal(scale=0.01, size=257).astype(np.float32), reference),
        (reference, reference),
        (np.zeros(5, np.float32), np.zeros(5, np.float32)),
        (np.ones(5, np.float32), np.zeros(5, np.float32)),
        (np.zeros(3, np.float32), np.ones(3, np.float32)),
        (np.array([3.5], np.float32), np.array([-3.5], np.float32)),
        (reference * np.float32(1e18), reference),
    ]
    result = []
    for values, truth in cases:
        figures = {name: _floats(np.array([value]))[0] for name, value in asdict(drift(values, truth)).items()}
        result.append({"values": _floats(values), "reference": _floats(truth), "drift": figures})
    return result


def _unprojections() -> list[dict[str, Any]]:
    random = _random(9)
    pose, size = _encoding(random, 2), (3, 4)
    depth = random.uniform(0.5, 5, (2, *size)).astype(np.float32)
    extrinsics, intrinsics = decode_pose(pose, size)
    given = {"encoding": _floats(pose), "size": _size(*size), "depth": _floats(depth)}
    return [
        given | {"centers": centers, "points": _floats(unproject(depth, intrinsics, extrinsics, centers))}
        for centers in PIXEL_CENTERS
    ]


def _confidences() -> list[dict[str, Any]]:
    random = _random(10)
    one, two = (1 + random.exponential(size=(2, 3, 4, 5))).astype(np.float32)
    odd = (1 + random.exponential(size=21)).astype(np.float32)
    cases = [(one,), (one, two), (odd,), (np.ones(6, np.float32),), (np.array([2, 2, 1, 1], np.float32),)]
    return [
        {"maps": [_floats(each) for each in maps], "keep": confident_pixels(*maps).ravel().tolist()} for maps in cases
    ]


def _latencies() -> list[dict[str, Any]]:
    times = [[5.0], [3.0, 1.0, 2.0], _floats(_random(11).exponential(20, 137))]
    return [{"milliseconds": each, "latency": kit_module().quantiles(each)} for each in times]


def _safetensors() -> list[dict[str, Any]]:
    values = _random(12).normal(size=(2, 3)).astype(np.float32)
    good = [("plain", values), ("scalar", np.array(7, np.float32)), ("empty", np.zeros((0, 4), np.float32))]
    result = [
        {"name": name, "file": _text(save({"t": array})), "shape": list(array.shape), "values": _floats(array)}
        for name, array in good
    ]
    with_metadata = save({"t": values}, metadata={"made": "by hand"})
    result.append({"name": "metadata", "file": _text(with_metadata), "shape": [2, 3], "values": _floats(values)})
    return result + [{"name": name, "file": _text(data)} for name, data in _hostile(values)]


def _json() -> list[dict[str, Any]]:
    """The texts that all kits read alike."""
    return [
        {"name": path.stem, "text": _text(path.read_bytes()), "accepted": path.parent.name == "accepted"}
        for path in sorted(JSON_CASES.glob("*/*.json"))
    ]


def _hostile(values: Array) -> Iterable[tuple[str, bytes]]:
    whole = save({"t": values})
    yield "nothing", b""
    yield "half a length", whole[:5]
    yield "header cut short", whole[:20]
    yield "tensor cut short", whole[:-1]
    yield "something behind", whole + b"\0"
    yield "header of 2^63 bytes", (2**63).to_bytes(8, "little") + whole[8:]
    yield "float64", save({"t": values.astype(np.float64)})
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    for name, change in {
        "negative side": {"shape": [-2, -3]},
        "huge shape": {"shape": [2**62, 4]},
        "another shape": {"shape": [2, 4]},
        "offset outside": {"data_offsets": [8, 32]},
        "offsets reversed": {"data_offsets": [24, 0]},
        "one offset": {"data_offsets": [0]},
        "fractional side": {"shape": [2.5, 3]},
    }.items():
        yield name, _raw({"t": entry | change})
    yield "overlap", _raw({"t": entry, "u": entry})
    yield "no object", _raw([])
    yield "no JSON", b"\x02\0\0\0\0\0\0\0{]" + bytes(24)


def _raw(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(24)


def description(**changes: Any) -> KitDescription:
    """A small kit, as ``write_kit`` takes it."""
    pixels = (1, FRAMES, HEIGHT, WIDTH)
    outputs = (
        KitOutput("pose_enc", (1, FRAMES, 9), "pose_encoding"),
        KitOutput("depth", pixels, "depth"),
        KitOutput("depth_conf", pixels, "confidence"),
    )
    fields: dict[str, Any] = {
        "target": "ios-ar",
        "plan_digest": "5" * 64,
        "package": "vggt.mlpackage",
        "input_kind": "tensor",
        "frames": FRAMES,
        "height": HEIGHT,
        "width": WIDTH,
        "outputs": outputs,
        "compute_units": "cpuAndNeuralEngine",
        "minimum_ios": 18,
        "blocks": (KitBlock("frame_blocks.0", "w4a16"), KitBlock("depth_head", "fp16")),
        "backend_sqnr_db_min": 30.0,
    }
    return KitDescription(**(fields | changes))


def golden_arrays(seed: int = 13) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Inputs, simulation, FP32 of that kit."""
    random = _random(seed)
    levels = random.integers(0, 256, (1, FRAMES, 3, HEIGHT, WIDTH))
    images = (levels / np.float32(255)).astype(np.float32)
    fp32 = {output.name: random.normal(2, 0.3, output.shape).astype(np.float32) for output in description().outputs}
    simulation = {name: (array + np.float32(1 / 64)).astype(np.float32) for name, array in fp32.items()}
    return {"images": images}, simulation, fp32


def write_package(folder: Path) -> None:
    """A stand-in for the ``.mlpackage``: the kit only lists its files."""
    for name in ("Manifest.json", "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"):
        path = folder / "vggt.mlpackage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def _kit_and_golden() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_package(folder)
        kit_files.write_kit(folder, description())
        golden = kit_files.write_golden(folder, *golden_arrays())
        return (folder / kit_files.KIT_FILE).read_bytes(), golden.read_bytes()


def main() -> None:
    text = encoded()
    VECTORS.parent.mkdir(parents=True, exist_ok=True)
    VECTORS.write_text(text)


if __name__ == "__main__":
    main()
