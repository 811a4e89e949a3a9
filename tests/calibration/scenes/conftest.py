"""Real scene files, written with Pillow, PyAV and struct, whose geometry can be checked in the pixels."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from vggt_edge.devices.errors import InputError

Array = npt.NDArray[np.float64]
WIDTH, HEIGHT = 72, 48
INTRINSICS = np.array([[60.0, 0, 33.5], [0, 64.0, 26.25], [0, 0, 1]])
POINT = np.array([0.1, -0.05, 3.0])
Lens = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Cameras:
    """Five cameras around one bright point. ``extrinsics``: (5, 3, 4) world-to-camera."""

    extrinsics: Array
    names: tuple[str, ...] = ("a_1.png", "a_2.png", "a_3.png", "a_9.png", "a_10.png")

    def quaternion(self, index: int) -> Array:
        """w, x, y, z of a rotation well away from half a turn."""
        rotation = self.extrinsics[index, :, :3]
        w = np.sqrt(1 + np.trace(rotation)) / 2
        skew = rotation - rotation.T
        return np.array([w, skew[2, 1] / (4 * w), skew[0, 2] / (4 * w), skew[1, 0] / (4 * w)])

    def camera_to_world_opengl(self, index: int) -> list[list[float]]:
        square = np.vstack([self.extrinsics[index], [0, 0, 0, 1]])
        matrix: list[list[float]] = (np.linalg.inv(square) @ np.diag([1, -1, -1, 1])).tolist()
        return matrix

    def paint(self, index: int, lens: Lens = lambda x, y: (x, y)) -> Image.Image:
        """``lens``: from the straight image plane at distance 1 to the one that is taken."""
        seen = self.extrinsics[index] @ np.append(POINT, 1.0)
        u, v, _ = INTRINSICS @ np.array([*lens(seen[0] / seen[2], seen[1] / seen[2]), 1.0])
        rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        distance = (columns - u) ** 2 + (rows - v) ** 2
        blob = (255 * np.exp(-distance / (2 * 3.0**2))).round().astype(np.uint8)
        return Image.fromarray(np.repeat(blob[..., None], 3, axis=2))

    def write_images(self, folder: Path, lens: Lens = lambda x, y: (x, y)) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(self.names):
            self.paint(index, lens).save(folder / name)
        return folder


def _rotation(axis: Array, angle: float) -> Array:
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: Array = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation


@pytest.fixture(scope="session")
def cameras() -> Cameras:
    extrinsics = []
    for index in range(5):
        rotation = _rotation(np.array([0.3, 1.0, -0.5]), 0.05 * (index - 1.5))
        translation = np.array([0.08 * index - 0.1, 0.03 * (index % 3), 0.1 * index])
        extrinsics.append(np.hstack([rotation, translation[:, None]]))
    return Cameras(np.stack(extrinsics))


@pytest.fixture(scope="session")
def assert_geometry() -> Callable[..., None]:
    """The blob in each frame lies where the ground truth says that the point is, and frame 0 is the origin."""

    def check(scene: Any, first: Array, atol: float = 0.1) -> None:
        truth = scene.ground_truth
        assert truth.depth is None
        assert truth.points is None
        np.testing.assert_array_equal(truth.extrinsics[0], np.eye(3, 4, dtype=np.float32))
        point = first @ np.append(POINT, 1.0)
        _, _, height, width = scene.images.shape
        rows, columns = np.mgrid[:height, :width] + 0.5
        for image, extrinsics, intrinsics in zip(scene.images, truth.extrinsics, truth.intrinsics, strict=True):
            seen = intrinsics @ (extrinsics @ np.append(point, 1.0))
            weight = image[0]
            centroid = [(columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()]
            np.testing.assert_allclose(centroid, seen[:2] / seen[2], atol=atol)

    return check


@pytest.fixture(scope="session")
def write_transforms(cameras: Cameras) -> Callable[..., Path]:
    """A folder with transforms.json and images; ``edit`` may spoil the document before it is written."""

    def write(folder: Path, edit: Callable[[dict[str, Any]], object] = lambda document: None) -> Path:
        cameras.write_images(folder / "images")
        frames = [
            {"file_path": f"./images/{name}", "transform_matrix": cameras.camera_to_world_opengl(index)}
            for index, name in enumerate(cameras.names)
        ]
        document: dict[str, Any] = {
            "w": WIDTH,
            "h": HEIGHT,
            "camera_model": "OPENCV",
            "k1": 0.01,
            "frames": frames[::-1],
        }
        for key, value in zip(("fl_x", "fl_y", "cx", "cy"), INTRINSICS[[0, 1, 0, 1], [0, 1, 2, 2]], strict=True):
            document[key] = float(value)
        edit(document)
        path = folder / "transforms.json"
        path.write_text(json.dumps(document))
        return path

    return write


def colmap_text(cameras: Cameras) -> tuple[str, str]:
    k = INTRINSICS
    head = f"# Camera list\n# Number of cameras: 1\n7 PINHOLE {WIDTH} {HEIGHT} "
    lines = ["# Image list\n# Number of images: 5, mean observations per image: 1\n"]
    for index in reversed(range(5)):
        numbers = [*cameras.quaternion(index), *cameras.extrinsics[index, :, 3]]
        pose = " ".join(repr(float(number)) for number in numbers)
        points = "" if index % 2 else "1.5 2.5 -1 3.5 4.5 12"
        lines.append(f"{index + 1} {pose} 7 {cameras.names[index]}\n{points}\n")
    return head + f"{k[0, 0]} {k[1, 1]} {k[0, 2]} {k[1, 2]}\n", "".join(lines)


def colmap_binary(cameras: Cameras) -> tuple[bytes, bytes]:
    k = INTRINSICS
    camera = struct.pack("<QiiQQ4d", 1, 7, 1, WIDTH, HEIGHT, k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    images = struct.pack("<Q", 5)
    for index in reversed(range(5)):
        numbers = [*cameras.quaternion(index), *cameras.extrinsics[index, :, 3]]
        images += struct.pack("<I7dI", index + 1, *numbers, 7) + cameras.names[index].encode() + b"\0"
        images += struct.pack("<Q", index) + struct.pack("<ddq", 1.5, 2.5, -1) * index
    return camera, images


@pytest.fixture(scope="session")
def write_colmap(cameras: Cameras) -> Callable[..., Path]:
    """A project folder with ``images`` and a model of the kind ``.txt`` or ``.bin`` in ``inner``."""

    def write(folder: Path, suffix: str, inner: str = "sparse/0") -> Path:
        cameras.write_images(folder / "images")
        model = folder / inner
        model.mkdir(parents=True, exist_ok=True)
        texts, binaries = colmap_text(cameras), colmap_binary(cameras)
        for name, text, binary in zip(("cameras", "images"), texts, binaries, strict=True):
            (model / f"{name}{suffix}").write_bytes(binary if suffix == ".bin" else text.encode())
        return model

    return write


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """A video whose frame n is grey with the value 10 n, so that a frame tells its number.

    aspect: of a pixel, width to height. matrix: the display matrix of the track.
    """

    def write(
        path: Path,
        count: int = 20,
        width: int = 64,
        height: int = 48,
        aspect: Fraction | None = None,
        matrix: tuple[int, ...] | None = None,
    ) -> Path:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            if matrix is not None:
                stream.set_display_matrix(matrix)
            for number in range(count):
                grey = np.full((height, width, 3), number * 10 % 250, np.uint8)
                grey[: height // 4, : width // 4] = (250, 0, 0)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def refused_or() -> Callable[[Path], AbstractContextManager[None]]:
    """The body either goes through or ends in an ``InputError`` about ``path`` or a file inside it, and in no other."""

    @contextmanager
    def either(path: Path) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            if not error.where.startswith(str(path)):
                raise AssertionError(f"the error names {error.where!r}, not {path}") from error

    return either


@pytest.fixture
def photos(repository: Path) -> Path:
    folder = repository.parent / "shared" / "data" / "photos"
    if not folder.is_dir():
        pytest.skip(f"the real photographs are not here: no folder {folder}")
    return folder
