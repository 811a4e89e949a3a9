"""COLMAP sparse models: images with solved cameras.

Of a distorted camera model the pinhole part is used: the frames are not undistorted, so the intrinsics of strongly
distorted (fisheye) frames hold near the image centre only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vggt_edge.calibration.scenes.colmap_files import (
    CAMERA_MODELS,
    CameraRow,
    ImageRow,
    read_cameras,
    read_images,
)
from vggt_edge.calibration.scenes.folder import ImageSource, StillImage, folder_name, relative_label
from vggt_edge.calibration.scenes.pose import finite, image_sides, pinhole, rotation_of_quaternion
from vggt_edge.calibration.scenes.source import Camera, contained, natural_key
from vggt_edge.devices.errors import InputError

_MODEL_FOLDERS = ("", "sparse/0", "sparse", "colmap/sparse/0")


def find_model(folder: Path) -> Path | None:
    """The folder of the COLMAP model in ``folder`` or in the usual places below it."""
    for inner in _MODEL_FOLDERS:
        model = folder / inner
        if _suffix(model) is not None:
            return model
    return None


def colmap_source(folder: Path, root: Path) -> ImageSource:
    """Images and cameras of a COLMAP model, in the natural order of the image names.

    Images are sought in ``images`` beside or above the model, else beside the model's files.
    ``InputError`` names the file that is corrupt, cut short or leads out of the image folder.
    """
    model = find_model(folder)
    suffix = None if model is None else _suffix(model)
    if model is None or suffix is None:
        raise InputError("no COLMAP model", where=str(folder), expected="cameras and images, both .bin or both .txt")
    cameras_path, images_path = model / f"cameras{suffix}", model / f"images{suffix}"
    cameras = read_cameras(cameras_path)
    rows = sorted(read_images(images_path), key=lambda row: natural_key(row.name))
    image_folder = _image_folder(folder, model)
    if not rows:
        raise InputError("the COLMAP model holds no images", where=str(images_path), expected="at least one image")
    stills = []
    for row in rows:
        path = contained(image_folder, row.name, listed_in=images_path)
        camera = _camera(row, cameras, f"{images_path}, image {row.name!r}", cameras_path)
        stills.append(StillImage(path, relative_label(path, root), camera))
    return ImageSource(folder_name(folder), images_path, tuple(stills))


def _suffix(model: Path) -> str | None:
    for suffix in (".bin", ".txt"):
        if (model / f"cameras{suffix}").is_file() and (model / f"images{suffix}").is_file():
            return suffix
    return None


def _image_folder(folder: Path, model: Path) -> Path:
    """``model`` may itself be what the user gave, so its parents are asked as well."""
    absolute = model.resolve()
    beside = [folder / "images", model / "images"]
    if absolute.name == "sparse" or absolute.parent.name == "sparse":
        beside += [absolute.parent / "images", absolute.parent.parent / "images"]
    return next((images for images in beside if images.is_dir()), folder)


def _camera(row: ImageRow, cameras: Mapping[int, CameraRow], where: str, cameras_path: Path) -> Camera:
    if row.camera_id not in cameras:
        raise InputError(
            f"the image belongs to camera {row.camera_id}, which {cameras_path} does not hold", where=where
        )
    known = cameras[row.camera_id]
    parameters = [finite(value, "a camera parameter", str(cameras_path)) for value in known.parameters]
    focals = CAMERA_MODELS[known.model].focals
    fx, fy = parameters[0], parameters[focals - 1]
    intrinsics = pinhole(fx, fy, parameters[focals], parameters[focals + 1], str(cameras_path))
    for value in (*row.quaternion, *row.translation):
        finite(value, "the pose", where)
    rotation = rotation_of_quaternion(row.quaternion, where)
    extrinsics = np.hstack([rotation, np.array(row.translation)[:, None]])
    width, height = image_sides(known.width, known.height, str(cameras_path))
    return Camera(extrinsics, intrinsics, width, height)
