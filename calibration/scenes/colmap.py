"""COLMAP sparse models: images with solved cameras. Pictures of distorted cameras are undistorted as they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vggt_edge.calibration.scenes.colmap_files import (
    CAMERA_MODELS,
    CameraRow,
    ImageRow,
    read_cameras,
    read_images,
)
from vggt_edge.calibration.scenes.distortion import distortion
from vggt_edge.calibration.scenes.folder import ImageSource, StillImage, folder_name, relative_label
from vggt_edge.calibration.scenes.names import child, listed_file, shown
from vggt_edge.calibration.scenes.pose import finite, image_sides, pinhole, rotation_of_quaternion
from vggt_edge.calibration.scenes.source import Camera, natural_key
from vggt_edge.devices.errors import InputError

# Where COLMAP and its users put models; the first place that holds any counts.
_PLACES = ((), ("sparse",), ("colmap", "sparse"))


@dataclass(frozen=True)
class _Model:
    """The files of one model."""

    cameras: Path
    images: Path

    @property
    def folder(self) -> Path:
        return self.images.parent


def find_model(folder: Path) -> Path | None:
    """The folder of a COLMAP model in ``folder`` or in the usual places below it."""
    models = _models(folder)
    return models[0].folder if models else None


def colmap_source(folder: Path, root: Path) -> ImageSource:
    """Images and cameras of a COLMAP model, in the natural order of the image names.

    COLMAP makes several models of a capture that it cannot join: the one with the most images is taken. Images are
    sought in ``images`` beside or above the model, else beside the model's files.
    ``InputError`` names the file that is corrupt, cut short or leads out of the image folder.
    """
    models = _models(folder)
    if not models:
        raise InputError("no COLMAP model", where=str(folder), expected="cameras and images, both .bin or both .txt")
    read = [(model, read_images(model.images)) for model in models]
    model, rows = max(read, key=lambda pair: len(pair[1]))
    rows = sorted(rows, key=lambda row: natural_key(row.name))
    cameras = read_cameras(model.cameras)
    image_folder = _image_folder(folder, model.folder)
    if not rows:
        raise InputError("the COLMAP model holds no images", where=str(model.images), expected="at least one image")
    stills = []
    for row in rows:
        path = listed_file(image_folder, row.name, listed_in=model.images)
        camera = _camera(row, cameras, shown(f"{model.images}, image {row.name!r}"), model.cameras)
        stills.append(StillImage(path, relative_label(path, root), camera))
    notes = (*_other_models(model, read, root), *_distorted(rows, stills, cameras, model, root))
    return ImageSource(folder_name(folder), model.images, tuple(stills), notes)


def _models(folder: Path) -> list[_Model]:
    """All models of the capture, in natural order."""
    for place in _PLACES:
        base: Path | None = folder
        for part in place:
            base = None if base is None else child(base, part)
        if base is None or not base.is_dir():
            continue
        inner = sorted(base.iterdir(), key=lambda entry: natural_key(entry.name)) if _holds_models(base, place) else []
        found = [_model(entry) for entry in (base, *inner) if entry.is_dir()]
        if models := [model for model in found if model is not None]:
            return models
    return []


def _holds_models(base: Path, place: Sequence[str]) -> bool:
    """Whether numbered models lie inside; also where the user gave ``sparse`` itself."""
    return bool(place) or base.resolve().name.casefold() == "sparse"


def _model(folder: Path) -> _Model | None:
    for suffix in (".bin", ".txt"):
        cameras, images = child(folder, f"cameras{suffix}"), child(folder, f"images{suffix}")
        if cameras is not None and images is not None and cameras.is_file() and images.is_file():
            return _Model(cameras, images)
    return None


def _other_models(taken: _Model, read: Sequence[tuple[_Model, list[ImageRow]]], root: Path) -> list[str]:
    if len(read) == 1:
        return []
    counts = ", ".join(f"{relative_label(model.folder, root)} with {len(rows)} images" for model, rows in read)
    label = relative_label(taken.folder, root)
    return [f"COLMAP split the capture into {len(read)} models ({counts}): {label} is used, the others are passed over"]


def _distorted(
    rows: Sequence[ImageRow],
    stills: Sequence[StillImage],
    cameras: Mapping[int, CameraRow],
    model: _Model,
    root: Path,
) -> list[str]:
    counts = Counter(
        cameras[row.camera_id].model
        for row, still in zip(rows, stills, strict=True)
        if still.camera is not None and still.camera.distortion is not None
    )
    where = relative_label(model.folder, root)
    return [f"{where}: {count} images of {kind} cameras are undistorted" for kind, count in sorted(counts.items())]


def _image_folder(folder: Path, model: Path) -> Path:
    """``model`` may itself be what the user gave, so its parents are asked as well."""
    absolute = model.resolve()
    beside = [folder, model]
    if "sparse" in (absolute.name.casefold(), absolute.parent.name.casefold()):
        beside += [absolute.parent, absolute.parent.parent]
    places = (child(place, "images") for place in beside)
    return next((images for images in places if images is not None and images.is_dir()), folder)


def _camera(row: ImageRow, cameras: Mapping[int, CameraRow], where: str, cameras_path: Path) -> Camera:
    if row.camera_id not in cameras:
        raise InputError(
            f"the image belongs to camera {row.camera_id}, which {cameras_path} does not hold", where=where
        )
    known = cameras[row.camera_id]
    parameters = [finite(value, "a camera parameter", str(cameras_path)) for value in known.parameters]
    kind = CAMERA_MODELS[known.model]
    focals = kind.focals
    fx, fy = parameters[0], parameters[focals - 1]
    intrinsics = pinhole(fx, fy, parameters[focals], parameters[focals + 1], str(cameras_path))
    for value in (*row.quaternion, *row.translation):
        finite(value, "the pose", where)
    rotation = rotation_of_quaternion(row.quaternion, where)
    extrinsics = np.hstack([rotation, np.array(row.translation)[:, None]])
    width, height = image_sides(known.width, known.height, str(cameras_path))
    lens = distortion(kind.projection, dict(zip(kind.coefficients, parameters[focals + 2 :], strict=True)))
    return Camera(extrinsics, intrinsics, width, height, lens)
