"""The files of COLMAP sparse models, text and binary (https://colmap.github.io/format.html), parsed into rows.

A parser of our own, because the usual binding ends the process on a corrupt file. Only cameras and images are read.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from vggt_edge.calibration.scenes.names import is_unicode
from vggt_edge.devices.errors import InputError

_TANGENTIAL = ("k1", "k2", "p1", "p2")
_RATIONAL = (*_TANGENTIAL, "k3", "k4", "k5", "k6")
_ARIA = ("k0", "k1", "k2", "k3", "k4", "k5", "p0", "p1", "s0", "s1", "s2", "s3")


@dataclass(frozen=True)
class CameraModel:
    """Parameters of a camera: ``focals`` focal lengths, cx, cy, then ``coefficients`` by name.

    projection: what they are coefficients of (``distortion.PROJECTIONS``).
    """

    number: int
    focals: int
    projection: str = "perspective"
    coefficients: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """How many a camera has."""
        return self.focals + 2 + len(self.coefficients)


CAMERA_MODELS: Mapping[str, CameraModel] = MappingProxyType(
    {
        "SIMPLE_PINHOLE": CameraModel(0, 1),
        "PINHOLE": CameraModel(1, 2),
        "SIMPLE_RADIAL": CameraModel(2, 1, "perspective", ("k1",)),
        "RADIAL": CameraModel(3, 1, "perspective", ("k1", "k2")),
        "OPENCV": CameraModel(4, 2, "perspective", _TANGENTIAL),
        "OPENCV_FISHEYE": CameraModel(5, 2, "fisheye", ("k1", "k2", "k3", "k4")),
        "FULL_OPENCV": CameraModel(6, 2, "perspective", _RATIONAL),
        "FOV": CameraModel(7, 2, "fov", ("omega",)),
        "SIMPLE_RADIAL_FISHEYE": CameraModel(8, 1, "fisheye", ("k1",)),
        "RADIAL_FISHEYE": CameraModel(9, 1, "fisheye", ("k1", "k2")),
        "THIN_PRISM_FISHEYE": CameraModel(10, 2, "fisheye", (*_TANGENTIAL, "k3", "k4", "sx1", "sy1")),
        "RAD_TAN_THIN_PRISM_FISHEYE": CameraModel(11, 2, "aria", _ARIA),
    }
)
_NAMES_BY_NUMBER = {model.number: name for name, model in CAMERA_MODELS.items()}
_MAX_NAME_BYTES = 4096


@dataclass(frozen=True)
class CameraRow:
    """A camera as the file spells it; its values are not checked yet."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class ImageRow:
    """``quaternion`` (w, x, y, z) and ``translation``: world-to-camera, not checked yet."""

    quaternion: tuple[float, float, float, float]
    translation: tuple[float, float, float]
    camera_id: int
    name: str


def model_named(name: str, where: str) -> CameraModel:
    """A camera model by COLMAP's name; ``InputError`` lists the known ones."""
    if name not in CAMERA_MODELS:
        raise InputError(
            f"unknown camera model {name}",
            where=where,
            expected=f"one of: {', '.join(CAMERA_MODELS)}",
            remedy="undistort the images with `colmap image_undistorter` and give its output",
        )
    return CAMERA_MODELS[name]


# Binary: little-endian, no padding.


class _Reader:
    """Reads records and refuses, before anything is allocated, to read past the end of the file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._left = os.fstat(file.fileno()).st_size

    def take(self, layout: str) -> tuple[int | float, ...]:
        record = struct.Struct("<" + layout)
        return record.unpack(self._bytes(record.size))

    def integers(self, layout: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self.take(layout))

    def count(self, smallest_record: int) -> int:
        (count,) = self.integers("Q")
        if count * smallest_record > self._left:
            raise self.broken(f"it claims {count} records, more than its size allows")
        return count

    def name(self) -> str:
        raw = bytearray()
        while (byte := self._bytes(1)) != b"\0":
            raw += byte
            if len(raw) > _MAX_NAME_BYTES:
                raise self.broken("an image name has no end")
        return raw.decode(errors="surrogateescape")  # the bytes of a file's name, whatever they mean

    def skip(self, records: int, record_bytes: int) -> None:
        if records * record_bytes > self._left:
            raise self.broken(f"it claims {records} points, more than its size allows")
        self._file.seek(records * record_bytes, os.SEEK_CUR)
        self._left -= records * record_bytes

    def end(self) -> None:
        if self._left:
            raise self.broken(f"{self._left} bytes follow its last record")

    def broken(self, why: str) -> InputError:
        return InputError(
            f"the COLMAP file is cut short or corrupt: {why}",
            where=str(self._path),
            expected="a whole COLMAP binary file",
            remedy="export the model again with `colmap model_converter`",
        )

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        self._left -= len(data)
        if len(data) < count:
            raise self.broken("it ends within a record")
        return data


def read_cameras(path: Path) -> dict[int, CameraRow]:
    """Cameras by id, of a ``.bin`` or ``.txt`` file. ``InputError`` names the file, and the line where it has lines."""
    return _cameras_binary(path) if path.suffix == ".bin" else _cameras_text(path)


def read_images(path: Path) -> list[ImageRow]:
    """Images in the file's order. ``InputError`` as for ``read_cameras``."""
    return _images_binary(path) if path.suffix == ".bin" else _images_text(path)


def _cameras_binary(path: Path) -> dict[int, CameraRow]:
    cameras = {}
    with path.open("rb") as file:
        reader = _Reader(file, path)
        for _ in range(reader.count(smallest_record=24 + 3 * 8)):
            camera_id, number, width, height = reader.integers("iiQQ")
            name = _NAMES_BY_NUMBER.get(number, f"number {number}")
            parameters = reader.take(f"{model_named(name, str(path)).parameters}d")
            cameras[camera_id] = CameraRow(name, width, height, parameters)
        reader.end()
    return cameras


def _images_binary(path: Path) -> list[ImageRow]:
    rows = []
    with path.open("rb") as file:
        reader = _Reader(file, path)
        for _ in range(reader.count(smallest_record=4 + 7 * 8 + 4 + 1 + 8)):
            reader.take("I")
            w, x, y, z, *translation = reader.take("7d")
            (camera_id,) = reader.integers("I")
            name = reader.name()
            (points,) = reader.integers("Q")
            reader.skip(points, record_bytes=2 * 8 + 8)
            tx, ty, tz = translation
            rows.append(ImageRow((w, x, y, z), (tx, ty, tz), camera_id, name))
        reader.end()
    return rows


# Text: one record a line; an image has a second line of points, which may be empty.

_CAMERA_LAYOUT = "CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"
_IMAGE_LAYOUT = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"


def _cameras_text(path: Path) -> dict[int, CameraRow]:
    cameras: dict[int, CameraRow] = {}
    for number, line in _lines(path):
        if not _is_record(line):
            continue
        where = f"{path}, line {number}"
        fields = line.split()
        try:
            camera_id, name, width, height = int(fields[0]), fields[1], int(fields[2]), int(fields[3])
            parameters = tuple(float(field) for field in fields[4:])
        except (ValueError, IndexError) as error:
            if not is_unicode(line):
                raise _not_text(path) from error
            raise _bad_line(f"not a camera ({error})", where, _CAMERA_LAYOUT) from error
        wanted = model_named(name, where).parameters
        if len(parameters) != wanted:
            raise _bad_line(f"{len(parameters)} parameters where {name} has {wanted}", where, _CAMERA_LAYOUT)
        cameras[camera_id] = CameraRow(name, width, height, parameters)
    _check_promised(path, "cameras", len(cameras))
    return cameras


def _images_text(path: Path) -> list[ImageRow]:
    rows = []
    lines = _lines(path)
    for number, line in lines:
        if not _is_record(line):
            continue
        where = f"{path}, line {number}"
        fields = line.split(maxsplit=9)
        try:
            w, x, y, z, tx, ty, tz = (float(field) for field in fields[1:8])
            rows.append(ImageRow((w, x, y, z), (tx, ty, tz), int(fields[8]), fields[9].strip()))
        except (ValueError, IndexError) as error:
            if not is_unicode(line):
                raise _not_text(path) from error
            raise _bad_line(f"not an image ({error})", where, _IMAGE_LAYOUT) from error
        _, points = next(lines, (0, ""))
        if len(points.split()) % 3:  # also what a lost line of points looks like
            raise _bad_line("no line of points follows the image", where, "POINTS2D[] as (X, Y, POINT3D_ID)")
    _check_promised(path, "images", len(rows))
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """UTF-8 or, with its mark, UTF-16. Names in other encodings keep their bytes."""
    content = path.read_bytes()
    is_utf16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        text = content.decode("utf-16") if is_utf16 else content.decode("utf-8-sig", errors="surrogateescape")
    except UnicodeDecodeError as error:
        raise _not_text(path) from error
    yield from enumerate(io.StringIO(text, newline=None), start=1)


def _not_text(path: Path) -> InputError:
    return InputError("the COLMAP file is not text", where=str(path), expected="UTF-8 text")


def _is_record(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _check_promised(path: Path, kind: str, found: int) -> None:
    """COLMAP writes the number of records into a comment at the top: the only sign of a text file cut short."""
    for _, line in _lines(path):
        if _is_record(line):
            return
        promise = re.match(rf"# Number of {kind}: ([0-9]{{1,18}})\b", line)
        if promise and int(promise[1]) != found:
            raise InputError(
                f"the COLMAP file is cut short or edited: it holds {found} {kind}",
                where=str(path),
                expected=f"{promise[1]} {kind}, as the comment at its top says",
            )


def _bad_line(what: str, where: str, layout: str) -> InputError:
    return InputError(f"the COLMAP file cannot be read: {what}", where=where, expected=f"a line: {layout}")
