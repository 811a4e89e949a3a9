"""COLMAP models: geometry checked in the pixels, layouts, and every way a model can be spoilt."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vggt_edge.calibration.scenes.opening import open_scenes
from vggt_edge.devices.errors import InputError

WriteColmap = Callable[..., Path]
Lens = Callable[[float, float], tuple[float, float]]
RefusedOr = Callable[[Path], AbstractContextManager[None]]
SUFFIXES = [".txt", ".bin"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(56, 84), (56, 56), (28, 98)])
def test_points_are_seen_where_the_blobs_are(
    tmp_path: Path, write_colmap: WriteColmap, assert_geometry: Any, cameras: Any, suffix: str, shape: tuple[int, int]
) -> None:
    write_colmap(tmp_path, suffix)
    (scene,) = open_scenes(tmp_path, frames=4, shape=shape)
    assert scene.sources == ("images/a_1.png", "images/a_2.png", "images/a_3.png", "images/a_9.png")
    assert_geometry(scene, cameras.extrinsics[0])


def test_text_and_binary_agree(tmp_path: Path, write_colmap: WriteColmap) -> None:
    truths = []
    for suffix in SUFFIXES:
        write_colmap(tmp_path / suffix[1:], suffix)
        (scene,) = open_scenes(tmp_path / suffix[1:], frames=5, long_side=56)
        truths.append(scene.ground_truth)
    np.testing.assert_allclose(truths[0].extrinsics, truths[1].extrinsics, atol=1e-6)
    np.testing.assert_array_equal(truths[0].intrinsics, truths[1].intrinsics)


@pytest.mark.parametrize("inner", ["sparse/0", "sparse", ".", "colmap/sparse/0"])
def test_layouts(tmp_path: Path, write_colmap: WriteColmap, inner: str) -> None:
    write_colmap(tmp_path, ".bin", inner)
    (scene,) = open_scenes(tmp_path, frames=5, long_side=28)
    assert scene.sources[-1] == "images/a_10.png"
    assert scene.ground_truth is not None


@pytest.mark.parametrize("inner", ["sparse/0", "sparse"])
def test_the_model_folder_itself_finds_the_images_above(tmp_path: Path, write_colmap: WriteColmap, inner: str) -> None:
    model = write_colmap(tmp_path, ".txt", inner)
    (scene,) = open_scenes(model, frames=5, long_side=28)
    assert scene.sources[0] == "images/a_1.png"


def test_a_camera_solved_on_larger_images_is_scaled(
    tmp_path: Path, write_colmap: WriteColmap, assert_geometry: Any, cameras: Any
) -> None:
    model = write_colmap(tmp_path, ".txt")
    (model / "cameras.txt").write_text("7 PINHOLE 144 96 120 128 67 52.5\n")
    (scene,) = open_scenes(tmp_path, frames=5, long_side=56)
    assert_geometry(scene, cameras.extrinsics[0])


def test_a_camera_of_another_aspect_is_refused(tmp_path: Path, write_colmap: WriteColmap) -> None:
    model = write_colmap(tmp_path, ".txt")
    (model / "cameras.txt").write_text("7 PINHOLE 100 100 60 60 50 50\n")
    with pytest.raises(InputError, match="72 x 48, its camera was solved for 100 x 100") as caught:
        open_scenes(tmp_path, frames=5, long_side=56)
    assert caught.value.where.endswith("a_1.png")


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_tagged_image_is_turned_together_with_its_camera(
    tmp_path: Path, write_colmap: WriteColmap, assert_geometry: Any, orientation: int, cameras: Any
) -> None:
    """COLMAP solves on the stored pixels; all frames are tagged alike, so frame 0 turns the whole world."""
    write_colmap(tmp_path, ".bin")
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in (tmp_path / "images").iterdir():
        with Image.open(path) as image:
            image.save(path, exif=exif)
    (scene,) = open_scenes(tmp_path, frames=5, shape=(84, 56) if orientation > 3 else (56, 84))
    turn = {3: np.diag([-1.0, -1, 1]), 6: np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])}
    turn[8] = turn[6].T
    assert_geometry(scene, turn[orientation] @ cameras.extrinsics[0])


def test_of_several_models_the_one_with_most_images_is_used(tmp_path: Path, write_colmap: WriteColmap) -> None:
    """COLMAP splits a capture that it cannot join; here one of two images, as text, comes before one of five."""
    write_colmap(tmp_path, ".bin", "sparse/1")
    model = write_colmap(tmp_path, ".txt", "sparse/0")
    lines = (model / "images.txt").read_text().splitlines(keepends=True)
    (model / "images.txt").write_text("".join(lines[2:6]))
    for folder in (tmp_path, tmp_path / "sparse"):
        notes: list[str] = []
        (scene,) = open_scenes(folder, frames=5, long_side=28, note=notes.append)
        assert [name.rpartition("/")[2] for name in scene.sources] == [f"a_{n}.png" for n in (1, 2, 3, 9, 10)]
        (said,) = notes
        assert "0 with 2 images" in said
        assert "1 with 5 images" in said
        assert "1 is used" in said


def test_a_model_of_its_own_is_taken_though_others_lie_beside_it(tmp_path: Path, write_colmap: WriteColmap) -> None:
    write_colmap(tmp_path, ".bin", "sparse/1")
    model = write_colmap(tmp_path, ".txt", "sparse/0")
    notes: list[str] = []
    open_scenes(model, frames=5, long_side=28, note=notes.append)
    assert notes == []


def test_letter_case_back_slashes_and_encodings_of_other_systems(tmp_path: Path, write_colmap: WriteColmap) -> None:
    """The disk: ``IMAGES/left/Café 1.PNG`` and a name in Latin-1. The model, as Windows and macOS spell the same."""
    model = write_colmap(tmp_path, ".txt")
    left = tmp_path / "IMAGES" / "left"
    left.mkdir(parents=True)
    source = tmp_path / "images"
    renamed = {"a_1.png": "Caf\u00e9_1.PNG", "a_2.png": "b.png", "a_3.png": os.fsdecode(b"\xfcber.png")}
    for old, new in renamed.items():
        (source / old).rename(left / new)
    for rest in source.iterdir():
        rest.rename(left / rest.name)
    source.rmdir()
    text = (model / "images.txt").read_text()
    for old, listed in {"a_1.png": "cafe\u0301_1.png", "a_2.png": "B.png", "a_3.png": "\u00dcber.png"}.items():
        text = text.replace(f" {old}", f" LEFT\\{listed}")
    for same in ("a_9.png", "a_10.png"):
        text = text.replace(f" {same}", f" left\\{same}")
    for name, content in (("utf8", text.encode("utf-8-sig")), ("windows", text.encode("utf-16"))):
        (model / "images.txt").write_bytes(content)
        (scene,) = open_scenes(tmp_path, frames=5, long_side=28)
        shown = {"IMAGES/left/Caf\u00e9_1.PNG", "IMAGES/left/b.png", "IMAGES/left/\\xfcber.png"}
        assert shown <= set(scene.sources), name


def test_a_name_in_bytes_of_another_encoding_finds_its_file(tmp_path: Path, write_colmap: WriteColmap) -> None:
    """The model was written where file names are Latin-1; the disk holds UTF-8."""
    model = write_colmap(tmp_path, ".bin")
    content = (model / "images.bin").read_bytes()
    assert content.count(b"a_9.png") == 1
    (model / "images.bin").write_bytes(content.replace(b"a_9.png", b"\xe9_9.png"))
    (tmp_path / "images/a_9.png").rename(tmp_path / "images/\u00e9_9.png")
    (scene,) = open_scenes(tmp_path, frames=5, long_side=28)
    assert "images/\u00e9_9.png" in scene.sources


def test_a_name_that_could_be_two_files_is_refused(tmp_path: Path, write_colmap: WriteColmap) -> None:
    model = write_colmap(tmp_path, ".txt")
    image = tmp_path / "images/a_1.png"
    for name in ("B.png", "b.PNG"):
        (tmp_path / "images" / name).write_bytes(image.read_bytes())
    path = model / "images.txt"
    path.write_text(path.read_text().replace(" a_1.png", " b.png"))
    with pytest.raises(InputError, match=r"could be any of B\.png, b\.PNG"):
        open_scenes(tmp_path, frames=5, long_side=28)


@pytest.mark.parametrize("name", ["C:\\capture\\a_1.png", "..\\secret.png", "\\\\server\\share\\a.png"])
def test_windows_paths_that_lead_out_are_refused(tmp_path: Path, write_colmap: WriteColmap, name: str) -> None:
    model = write_colmap(tmp_path, ".txt")
    (tmp_path / "secret.png").write_bytes((tmp_path / "images/a_1.png").read_bytes())
    (model / "images.txt").write_text(f"1 1 0 0 0 0 0 0 7 {name}\n\n")
    with pytest.raises(InputError, match=r"leads out|does not exist"):
        open_scenes(tmp_path, frames=1, long_side=28)


def radial(k1: float, k2: float, r: float) -> float:
    return 1 + k1 * r**2 + k2 * r**4


def bent(x: float, y: float, factor: float, p1: float, p2: float) -> tuple[float, float]:
    r2 = x * x + y * y
    return factor * x + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), factor * y + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def by_angle(x: float, y: float) -> tuple[float, float]:
    r = math.hypot(x, y)
    return x * math.atan(r) / r, y * math.atan(r) / r


def prism(x: float, y: float) -> tuple[float, float]:
    u, v = by_angle(x, y)
    r = math.hypot(u, v)
    u2, v2 = bent(u, v, radial(0.1, -0.05, r) + 0.02 * r**6, 0.01, -0.02)
    return u2 + 0.03 * r**2, v2 - 0.01 * r**2


def aria(x: float, y: float) -> tuple[float, float]:
    u, v = by_angle(x, y)
    grow = radial(0.1, -0.05, math.hypot(u, v))
    u, v = u * grow, v * grow
    r2 = u * u + v * v
    along = 2 * (0.01 * u - 0.02 * v)
    return u + along * u + 0.01 * r2 + 0.03 * r2 + 0.02 * r2**2, v + along * v - 0.02 * r2 - 0.01 * r2


# A camera's line after its size, and its lens by the formulas of COLMAP's and Project Aria's documentation.
LENSES: dict[str, tuple[str, Lens]] = {
    "SIMPLE_RADIAL": ("60 33.5 26.25 0.3", lambda x, y: bent(x, y, radial(0.3, 0, math.hypot(x, y)), 0, 0)),
    "RADIAL": ("60 33.5 26.25 -0.3 0.1", lambda x, y: bent(x, y, radial(-0.3, 0.1, math.hypot(x, y)), 0, 0)),
    "OPENCV": (
        "60 64 33.5 26.25 -0.3 0.1 0.02 -0.03",
        lambda x, y: bent(x, y, radial(-0.3, 0.1, math.hypot(x, y)), 0.02, -0.03),
    ),
    "FULL_OPENCV": (
        "60 64 33.5 26.25 -0.2 0.1 0.02 -0.01 0 0.1 0.1 0",
        lambda x, y: bent(x, y, radial(-0.3, 0.1, math.hypot(x, y)) / radial(0.2, 0.1, math.hypot(x, y)), 0.02, -0.03),
    ),
    "OPENCV_FISHEYE": (
        "60 64 33.5 26.25 -0.2 0.1 0 0",
        lambda x, y: bent(*by_angle(x, y), radial(-0.2, 0.1, math.atan(math.hypot(x, y))), 0, 0),
    ),
    "SIMPLE_RADIAL_FISHEYE": (
        "60 33.5 26.25 0.1",
        lambda x, y: bent(*by_angle(x, y), radial(0.1, 0, math.atan(math.hypot(x, y))), 0, 0),
    ),
    "RADIAL_FISHEYE": (
        "60 33.5 26.25 0.1 -0.1",
        lambda x, y: bent(*by_angle(x, y), radial(0.1, -0.1, math.atan(math.hypot(x, y))), 0, 0),
    ),
    "FOV": (
        "60 64 33.5 26.25 1.2",
        lambda x, y: bent(x, y, math.atan(2 * math.hypot(x, y) * math.tan(0.6)) / 1.2 / math.hypot(x, y), 0, 0),
    ),
    "THIN_PRISM_FISHEYE": ("60 64 33.5 26.25 0.1 -0.05 0.01 -0.02 0.02 0 0.03 -0.01", prism),
    "RAD_TAN_THIN_PRISM_FISHEYE": ("60 64 33.5 26.25 0.1 -0.05 0 0 0 0 0.01 -0.02 0.03 0.02 -0.01 0", aria),
}


@pytest.mark.parametrize("kind", LENSES)
def test_points_of_a_distorted_camera_are_seen_where_they_belong(
    tmp_path: Path, write_colmap: WriteColmap, assert_geometry: Any, cameras: Any, kind: str
) -> None:
    """The picture shows the blob where the lens put it; the undistorted one has it where the pinhole camera sees it."""
    numbers, lens = LENSES[kind]
    model = write_colmap(tmp_path, ".txt")
    fy = float(numbers.split()[1]) if len(numbers.split()[1]) == 2 else 60.0
    stretched = lambda x, y: (lens(x, y)[0], lens(x, y)[1] * fy / 64)  # noqa: E731 - the painter's own fy is 64
    cameras.write_images(tmp_path / "images", stretched)
    (model / "cameras.txt").write_text(f"7 {kind} 72 48 {numbers}\n")
    notes: list[str] = []
    (scene,) = open_scenes(tmp_path, frames=5, shape=(56, 84), note=notes.append)
    assert_geometry(scene, cameras.extrinsics[0], atol=0.25)
    assert notes == [f"sparse/0: 5 images of {kind} cameras are undistorted"]


def test_a_straight_picture_is_left_as_it_is(tmp_path: Path, write_colmap: WriteColmap) -> None:
    model = write_colmap(tmp_path, ".txt")
    (model / "cameras.txt").write_text("7 OPENCV 72 48 60 64 33.5 26.25 0 0 0 0\n")
    notes: list[str] = []
    (distorted,) = open_scenes(tmp_path, frames=5, shape=(56, 84), note=notes.append)
    write_colmap(tmp_path, ".txt")
    (straight,) = open_scenes(tmp_path, frames=5, shape=(56, 84), note=notes.append)
    assert distorted.digest == straight.digest
    assert notes == []


def test_coefficients_that_fold_the_picture_are_refused(tmp_path: Path, write_colmap: WriteColmap) -> None:
    model = write_colmap(tmp_path, ".txt")
    (model / "cameras.txt").write_text("7 RADIAL 72 48 60 33.5 26.25 -900 0\n")
    with pytest.raises(InputError, match="fold the picture") as caught:
        open_scenes(tmp_path, frames=5, shape=(56, 84))
    assert caught.value.where.endswith("a_1.png")


def spoilt(tmp_path: Path, name: str, frames: int = 5) -> InputError:
    """Open the project; the one error has to name the file ``name``."""
    with pytest.raises(InputError) as caught:
        open_scenes(tmp_path, frames=frames, long_side=28)
    assert str(tmp_path / "sparse/0" / name) in f"{caught.value.where} {caught.value.what}"
    return caught.value


@pytest.mark.parametrize(
    ("cameras_text", "message"),
    [
        ("7 MAGIC 72 48 1 2 3 4\n", "unknown camera model MAGIC"),
        ("7 PINHOLE 72 48 1 2 3\n", "3 parameters where PINHOLE has 4"),
        ("7 PINHOLE 72\n", "not a camera"),
        ("7 PINHOLE 72 48 nan 2 3 4\n", "nan"),
        ("7 PINHOLE 72 48 -5 2 3 4\n", "focal length"),
        ("7 PINHOLE 0 48 5 2 3 4\n", "0 x 48"),
        ("8 PINHOLE 72 48 5 2 3 4\n", "camera 7"),
        ("# Number of cameras: 2\n7 PINHOLE 72 48 5 2 3 4\n", "holds 1 cameras"),
    ],
)
def test_spoilt_cameras(tmp_path: Path, write_colmap: WriteColmap, cameras_text: str, message: str) -> None:
    model = write_colmap(tmp_path, ".txt")
    (model / "cameras.txt").write_text(cameras_text)
    assert message in str(spoilt(tmp_path, "cameras.txt"))


@pytest.mark.parametrize(
    ("images_text", "message"),
    [
        ("1 1 0 0 0 0 0 nan 7 a_1.png\n\n", "the pose is nan"),
        ("1 1 0 0 0 0 0 1e300 7 a_1.png\n\n", "the pose is 1e+300"),
        ("1 0 0 0 0 0 0 0 7 a_1.png\n\n", "quaternion of length 0"),
        ("1 1 0 0 0 0 0 7\n\n", "not an image"),
        ("1 1 0 0 0 0 0 0 7 a_1.png\n2 1 0 0 0 0 0 0 7 a_2.png\n", "no line of points"),
        ("# Number of images: 2\n1 1 0 0 0 0 0 0 7 a_1.png\n\n", "holds 1 images"),
        ("1 1 0 0 0 0 0 0 7 ../secret.png\n\n", "leads out"),
        ("1 1 0 0 0 0 0 0 7 /etc/hostname\n\n", "leads out"),
        ("1 1 0 0 0 0 0 0 7 link.png\n\n", "leads out"),
        ("1 1 0 0 0 0 0 0 7 none.png\n\n", "does not exist"),
        (f"1 1 0 0 0 0 0 0 7 {'x' * 5000}.png\n\n", "no file name"),
        ("# nothing\n", "no images"),
        ("\udcff", "not text"),
    ],
)
def test_spoilt_images(tmp_path: Path, write_colmap: WriteColmap, images_text: str, message: str) -> None:
    model = write_colmap(tmp_path, ".txt")
    (tmp_path / "secret.png").write_bytes((tmp_path / "images" / "a_1.png").read_bytes())
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (model / "images.txt").write_text(images_text, errors="surrogateescape")
    assert message in str(spoilt(tmp_path, "images.txt", frames=1))


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory, write_colmap: WriteColmap) -> Path:
    folder = tmp_path_factory.mktemp("binary")
    write_colmap(folder, ".bin")
    return folder


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
@given(data=st.data())
def test_a_truncated_binary_is_always_refused(binary: Path, name: str, data: st.DataObject) -> None:
    path = binary / "sparse/0" / name
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        spoilt(binary, name)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
@given(data=st.data())
def test_a_corrupt_binary_is_read_or_refused_but_never_crashes(
    binary: Path, name: str, refused_or: RefusedOr, data: st.DataObject
) -> None:
    path = binary / "sparse/0" / name
    whole = path.read_bytes()
    content = bytearray(whole)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    try:
        path.write_bytes(content)
        with refused_or(binary):
            (scene,) = open_scenes(binary, frames=5, long_side=28)
            assert scene.ground_truth is not None
            assert np.isfinite(scene.ground_truth.extrinsics).all()
            assert np.isfinite(scene.ground_truth.intrinsics).all()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", 2**63), "claims"),
        (struct.pack("<QI7dI", 1, 1, 1, 0, 0, 0, 0, 0, 0, 7) + b"a_1.png\0" + struct.pack("<Q", 2**60), "points"),
        (struct.pack("<QI7dI", 1, 1, 1, 0, 0, 0, 0, 0, 0, 7) + b"a" * 5000, "no end"),
        (struct.pack("<QI7dI", 1, 1, 1, 0, 0, 0, 0, 0, 0, 7) + b"\xff\xfe\0" + bytes(8), "UTF-8"),
        (struct.pack("<QI7dI", 1, 1, 1, 0, 0, 0, 0, 0, 0, 7) + b"a_1.png\0" + bytes(9), "1 bytes follow"),
        (struct.pack("<QI7dI", 1, 1, 1, 0, 0, 0, 0, 0, 0, 7) + b"../images/../x.png\0" + bytes(8), "leads out"),
    ],
)
def test_hostile_binaries(tmp_path: Path, write_colmap: WriteColmap, content: bytes, message: str) -> None:
    model = write_colmap(tmp_path, ".bin")
    (model / "images.bin").write_bytes(content)
    assert message in str(spoilt(tmp_path, "images.bin", frames=1))


def test_an_unknown_camera_model_number_is_named(tmp_path: Path, write_colmap: WriteColmap) -> None:
    model = write_colmap(tmp_path, ".bin")
    content = bytearray((model / "cameras.bin").read_bytes())
    content[12:16] = struct.pack("<i", 99)
    (model / "cameras.bin").write_bytes(content)
    assert "unknown camera model number 99" in str(spoilt(tmp_path, "cameras.bin"))
