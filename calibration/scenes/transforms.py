"""Nerf-style ``transforms.json``: images with OpenGL camera-to-world poses (instant-ngp, nerfstudio, nerf_synthetic).

Coefficients of distortion are those of nerfstudio and instant-ngp: k1..k6, p1, p2 of OpenCV's model, or k1..k4 of its
fisheye model. Pictures are undistorted as they are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.scenes.colmap_files import model_named
from vggt_edge.calibration.scenes.distortion import distortion
from vggt_edge.calibration.scenes.folder import ImageSource, StillImage, folder_name, relative_label
from vggt_edge.calibration.scenes.image import IMAGE_SUFFIXES, read_header
from vggt_edge.calibration.scenes.names import listed_file, shown
from vggt_edge.calibration.scenes.pose import finite, image_sides, pinhole, world_to_camera
from vggt_edge.calibration.scenes.source import Camera, Distortion, natural_key
from vggt_edge.devices.errors import InputError

_FILE_NAMES = ("transforms.json", "transforms_train.json")
_MAX_FILE_BYTES = 256 * 2**20
_COEFFICIENTS = {
    "perspective": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "fisheye": ("k1", "k2", "k3", "k4"),
}
_PINHOLES = (0, 1)


def find_transforms(folder: Path) -> Path | None:
    """The transforms file of a folder; the training split where there are splits."""
    return next((folder / name for name in _FILE_NAMES if (folder / name).is_file()), None)


def transforms_source(path: Path, root: Path) -> ImageSource:
    """Images and cameras of a transforms file, in the natural order of their paths.

    ``InputError`` names the file and frame that is malformed, or whose image leads out of the file's folder.
    """
    document = _document(path)
    frames = sorted(
        (_checked_frame(frame, f"{path}, frame {index}") for index, frame in enumerate(document["frames"])),
        key=lambda frame: natural_key(frame["file_path"]),
    )
    shared = {key: value for key, value in document.items() if key != "frames"}
    stills = []
    for frame in frames:
        image = _image_path(path, frame["file_path"])
        where = shown(f"{path}, frame {frame['file_path']!r}")
        stills.append(StillImage(image, relative_label(image, root), _camera({**shared, **frame}, image, where)))
    bent = sum(still.camera is not None and still.camera.distortion is not None for still in stills)
    notes = (f"{relative_label(path, root)}: {bent} images of distorted cameras are undistorted",) if bent else ()
    return ImageSource(folder_name(path.parent), path, tuple(stills), notes)


def _document(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise InputError(f"the file holds {size} bytes", where=str(path), expected=f"at most {_MAX_FILE_BYTES} bytes")
    try:
        document = json.loads(_text(path.read_bytes()))
    except (ValueError, RecursionError) as error:  # both JSON and UTF-8 errors are ValueErrors
        raise InputError(f"not JSON: {error}", where=str(path), expected="a nerf-style transforms file") from error
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not frames:
        raise InputError("the file lists no frames", where=str(path), expected='an object with a list "frames"')
    return dict(document)


def _text(content: bytes) -> str:
    """By its own mark; names in other encodings than UTF-8 keep their bytes."""
    encoding = json.detect_encoding(content)
    return content.decode(encoding, errors="surrogateescape" if encoding.startswith("utf-8") else "strict")


def _checked_frame(frame: object, where: str) -> Mapping[str, Any]:
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
        raise InputError("not a frame", where=where, expected='an object with "file_path" and "transform_matrix"')
    return frame


def _image_path(path: Path, name: str) -> Path:
    """nerf_synthetic leaves the suffix off."""
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        for suffix in (".png", *IMAGE_SUFFIXES):
            with suppress(InputError):
                return listed_file(path.parent, f"{name}{suffix}", listed_in=path)
    return listed_file(path.parent, name, listed_in=path)


def _camera(values: Mapping[str, Any], image: Path, where: str) -> Camera:
    """``values``: those of the frame over those shared by all frames."""
    if "w" in values and "h" in values:
        width, height = image_sides(finite(values["w"], "w", where), finite(values["h"], "h", where), where)
    else:
        width, height = read_header(image).size
    fx = _focal(values, "x", width, where)
    fy = _focal(values, "y", height, where) or fx
    if fx is None or fy is None:
        raise InputError("the camera has no focal length", where=where, expected='"fl_x" or "camera_angle_x"')
    cx = finite(values.get("cx", width / 2), "cx", where)
    cy = finite(values.get("cy", height / 2), "cy", where)
    extrinsics = world_to_camera(_matrix(values.get("transform_matrix"), where), where)
    return Camera(extrinsics, pinhole(fx, fy, cx, cy, where), width, height, _lens(values, where))


def _lens(values: Mapping[str, Any], where: str) -> Distortion | None:
    default = "OPENCV_FISHEYE" if values.get("is_fisheye") is True else "OPENCV"
    name = str(values.get("camera_model", default))
    kind = model_named(name, where)
    if kind.projection not in _COEFFICIENTS:
        raise InputError(
            f"cameras of the kind {name} have no coefficients in this file format",
            where=where,
            expected="OPENCV or OPENCV_FISHEYE",
            remedy="undistort the images",
        )
    names = () if kind.number in _PINHOLES else _COEFFICIENTS[kind.projection]
    return distortion(kind.projection, {key: finite(values[key], key, where) for key in names if key in values})


def _focal(values: Mapping[str, Any], axis: str, side: int, where: str) -> float | None:
    """Focal length in pixels along an axis, given as such or as the angle of view in radians; None if neither is."""
    if f"fl_{axis}" in values:
        return finite(values[f"fl_{axis}"], f"fl_{axis}", where)
    if f"camera_angle_{axis}" not in values:
        return None
    angle = finite(values[f"camera_angle_{axis}"], f"camera_angle_{axis}", where)
    if not 0 < angle < math.pi:
        raise InputError(f"camera_angle_{axis} is {angle}", where=where, expected="radians between 0 and pi")
    return side / (2 * math.tan(angle / 2))


def _matrix(rows: object, where: str) -> npt.NDArray[np.float64]:
    expected = '"transform_matrix": 4 (or 3) rows of 4 numbers, camera to world'
    if not isinstance(rows, list) or len(rows) not in (3, 4):
        raise InputError("the pose is missing or misshapen", where=where, expected=expected)
    if any(not isinstance(row, list) or len(row) != 4 for row in rows):
        raise InputError("the pose is misshapen", where=where, expected=expected)
    return np.array([[finite(value, "the pose", where) for value in row] for row in rows[:3]])
