"""transforms.json: OpenGL poses checked in the pixels, the dialects in use, and hostile documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.calibration.scenes.opening import open_scenes
from vggt_edge.devices.errors import InputError

WriteTransforms = Callable[..., Path]
Document = dict[str, Any]


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize("shape", [(56, 84), (70, 56)])
def test_points_are_seen_where_the_blobs_are(
    tmp_path: Path,
    write_transforms: WriteTransforms,
    assert_geometry: Any,
    cameras: Any,
    as_file: bool,
    shape: tuple[int, int],
) -> None:
    path = write_transforms(tmp_path)
    (scene,) = open_scenes(path if as_file else tmp_path, frames=5, shape=shape)
    assert scene.sources == tuple(f"images/{name}" for name in cameras.names)
    assert scene.name == f"{tmp_path.name}-00"
    assert_geometry(scene, cameras.extrinsics[0])


def test_the_training_split_without_suffixes_and_with_an_angle(
    tmp_path: Path, write_transforms: WriteTransforms
) -> None:
    """The dialect of nerf_synthetic: one horizontal angle of view, names without suffix, size from the image."""

    def edit(document: Document) -> None:
        for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_model"):
            del document[key]
        document["camera_angle_x"] = 2 * math.atan(72 / (2 * 60))
        for frame in document["frames"]:
            frame["file_path"] = frame["file_path"].removesuffix(".png")

    write_transforms(tmp_path, edit).rename(tmp_path / "transforms_train.json")
    (scene,) = open_scenes(tmp_path, frames=5, shape=(56, 84))
    assert scene.ground_truth is not None
    np.testing.assert_allclose(scene.ground_truth.intrinsics[0], [[70, 0, 42], [0, 70, 28], [0, 0, 1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "lens"),
    [
        ({"k1": -0.3, "k2": 0.1, "p1": 0.02, "p2": -0.03}, "OPENCV"),
        ({"camera_model": "OPENCV_FISHEYE", "k1": -0.2, "k2": 0.1, "k3": 0, "k4": 0}, "OPENCV_FISHEYE"),
        ({"camera_model": None, "is_fisheye": True, "k1": -0.2, "k2": 0.1}, "OPENCV_FISHEYE"),
    ],
)
def test_pictures_of_distorted_cameras_are_undistorted(
    tmp_path: Path,
    write_transforms: WriteTransforms,
    assert_geometry: Any,
    cameras: Any,
    settings: Document,
    lens: str,
) -> None:
    """nerfstudio's and instant-ngp's ways to write it."""

    def edit(document: Document) -> None:
        document.update(settings)
        if document["camera_model"] is None:
            del document["camera_model"]

    def bend(x: float, y: float) -> tuple[float, float]:
        r = math.hypot(x, y)
        if lens == "OPENCV_FISHEYE":
            theta = math.atan(r)
            grow = theta * (1 - 0.2 * theta**2 + 0.1 * theta**4) / r
            return x * grow, y * grow
        grow = 1 - 0.3 * r**2 + 0.1 * r**4
        x2 = x * grow + 0.04 * x * y - 0.03 * (r**2 + 2 * x**2)
        return x2, y * grow + 0.02 * (r**2 + 2 * y**2) - 0.06 * x * y

    path = write_transforms(tmp_path, edit)
    cameras.write_images(tmp_path / "images", bend)
    notes: list[str] = []
    (scene,) = open_scenes(path, frames=5, shape=(56, 84), note=notes.append)
    assert_geometry(scene, cameras.extrinsics[0], atol=0.25)
    assert notes == ["transforms.json: 5 images of distorted cameras are undistorted"]


def test_back_slashes_letter_case_and_a_mark_of_windows(tmp_path: Path, write_transforms: WriteTransforms) -> None:
    def edit(document: Document) -> None:
        for frame in document["frames"]:
            frame["file_path"] = frame["file_path"].removeprefix("./").replace("/", "\\").replace("a_", "A_")

    path = write_transforms(tmp_path, edit)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (scene,) = open_scenes(path, frames=5, long_side=28)
    assert scene.sources[0] == "images/a_1.png"


def test_a_frames_own_intrinsics_win(tmp_path: Path, write_transforms: WriteTransforms) -> None:
    path = write_transforms(tmp_path, lambda document: document["frames"][-1].update(fl_x=30, k1=0))
    (scene,) = open_scenes(path, frames=5, shape=(56, 84))
    assert scene.ground_truth is not None
    np.testing.assert_allclose(scene.ground_truth.intrinsics[:, 0, 0], [35, 70, 70, 70, 70], rtol=1e-6)


def first_frame(**changes: object) -> Callable[[Document], None]:
    return lambda document: document["frames"][0].update(changes)


def pose(value: object) -> Callable[[Document], None]:
    return first_frame(transform_matrix=[[1.0, 0, 0, value], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (pose(float("nan")), "the pose is nan"),
        (pose(float("inf")), "the pose is inf"),
        (pose("1"), "not a number"),
        (pose(True), "not a number"),
        (pose(10**400), "not a number"),
        (first_frame(transform_matrix=[[1, 2, 3, 4]]), "misshapen"),
        (first_frame(transform_matrix=None), "missing"),
        (first_frame(transform_matrix=[[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]), "rigid"),
        (first_frame(transform_matrix=[[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]), "rigid"),
        (first_frame(file_path="../secret.png"), "leads out"),
        (first_frame(file_path="/etc/hostname"), "leads out"),
        (first_frame(file_path="link.png"), "leads out"),
        (first_frame(file_path="images/../../secret"), "leads out"),
        (first_frame(file_path="images/none.png"), "does not exist"),
        (first_frame(file_path="images/a\0.png"), "no file name"),
        (first_frame(file_path=7), "not a frame"),
        (first_frame(camera_model="EQUIRECTANGULAR"), "unknown camera model EQUIRECTANGULAR"),
        (first_frame(fl_x=0), "focal length"),
        (first_frame(w=0), "0.0 x"),
        (lambda document: document.pop("fl_x"), "no focal length"),
        (lambda document: document.update(frames=[]), "no frames"),
        (lambda document: document.update(frames=["a"]), "not a frame"),
    ],
)
def test_spoilt_documents(
    tmp_path: Path, write_transforms: WriteTransforms, edit: Callable[[Document], object], message: str
) -> None:
    folder = tmp_path / "scene"
    path = write_transforms(folder, edit)
    (tmp_path / "secret.png").write_bytes((folder / "images" / "a_1.png").read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError) as caught:
        open_scenes(path, frames=1, long_side=28)
    assert message in str(caught.value)
    assert str(path) in caught.value.where


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"frames": 3}', "[" * 100_000, '{"frames": [' + "9" * 5000])
def test_what_is_no_transforms_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "transforms.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        open_scenes(tmp_path, frames=1, long_side=28)
    assert caught.value.where == str(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, write_transforms: WriteTransforms) -> Path:
    return write_transforms(tmp_path_factory.mktemp("whole"))


@given(data=st.data())
def test_a_truncated_document_is_always_refused(whole: Path, data: st.DataObject) -> None:
    content = whole.read_bytes()
    spoilt = whole.with_name("cut.json")
    spoilt.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(InputError) as caught:
        open_scenes(spoilt, frames=1, long_side=28)
    assert caught.value.where == str(spoilt)
