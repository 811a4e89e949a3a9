"""Decodes one still image, and nothing but whole and sane ones."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from vggt_edge.calibration.scenes.colour import to_srgb
from vggt_edge.calibration.scenes.source import MAX_PIXELS, MAX_SIDE
from vggt_edge.calibration.scenes.whole import (
    MAX_PIXEL_SCANS,
    JpegLayout,
    is_whole,
    jpeg_layout,
    overlong_jpeg,
)
from vggt_edge.devices.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# Named, since Pillow would otherwise try every plugin it has, some of which start other programs. Without TIFF, whose
# library prints its own complaints about a corrupt file.
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
_MAX_FILE_BYTES = 512 * 2**20
_ORIENTATION_TAG = 0x0112
_JPEG_BLOCK = 8
_JPEGS = ("JPEG", "MPO")
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Picture:
    """``pixels``: (H, W, 3) uint8 sRGB, not turned yet; ``orientation``: the EXIF tag, 1..8."""

    pixels: npt.NDArray[np.uint8]
    orientation: int

    def upright(self) -> npt.NDArray[np.uint8]:
        """The pixels turned the way the orientation tag says."""
        if self.orientation == 1:
            return self.pixels
        return np.asarray(Image.fromarray(self.pixels).transpose(_TRANSPOSES[self.orientation]))


@dataclass(frozen=True)
class Header:
    """``size``: (width, height) of the pixels as stored. ``mode``: Pillow's name of their kind."""

    size: tuple[int, int]
    mode: str


@dataclass(frozen=True)
class Glance:
    """``size``: (width, height) of the pixels as stored. ``image``: in colours as stored."""

    size: tuple[int, int]
    image: Image.Image


def is_image(path: Path) -> bool:
    """Whether the file's name says that it is a picture that can be read."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def read_image(path: Path) -> Picture:
    """Decode an image file. ``InputError`` names the file that is empty, cut short, corrupt, too large or no image."""
    data = _read(path)
    with _opened(path, io.BytesIO(data)) as image:
        _check_whole(path, image.format or "", data)
        layout = jpeg_layout(data) if image.format in _JPEGS else None
        if layout is not None:
            _check_scans(path, image, layout)
        image.load()
        if layout is not None:
            _check_last_rows(path, image, data, layout)
        return Picture(to_srgb(image, data), _orientation(image))


def read_header(path: Path) -> Header:
    """From the file's header alone. ``InputError`` as for ``read_image``."""
    with _opened(path, path) as image:
        return Header(image.size, image.mode)


def glance(path: Path, side: int) -> Glance:
    """A quick look, upright and perhaps reduced, to no less than ``side``. ``InputError`` as for ``read_image``."""
    data = _read(path)
    with _opened(path, io.BytesIO(data)) as image:
        layout = jpeg_layout(data) if image.format in _JPEGS else None
        if layout is not None:
            _check_scans(path, image, layout)
        size = image.size
        image.draft(None, (side, side))
        return Glance(size, ImageOps.exif_transpose(image))


@contextmanager
def _opened(path: Path, source: Path | io.BytesIO) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        # Oddities of metadata are warnings in Pillow; the pixels are judged on their own.
        warnings.simplefilter("ignore")
        try:
            with Image.open(source, formats=_FORMATS) as image:
                _check_size(path, *image.size)
                yield image
        except (InputError, PermissionError):
            raise
        except Exception as error:  # Pillow's decoders raise about ten unrelated types on corrupt bytes
            raise InputError(
                f"the image cannot be decoded: {_plain(error)}",
                where=str(path),
                expected=f"a whole image of one of the formats {', '.join(_FORMATS)}",
                remedy="replace the file or take it out of the folder",
            ) from error


def _plain(error: Exception) -> str:
    """Pillow's message for a file of no known kind prints an object's address, different in each run."""
    return "not an image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if 0 < size <= _MAX_FILE_BYTES else b""
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError("no such image", where=str(path), expected="an image file") from error
    if not data:
        what = "the image is empty (0 bytes)" if size == 0 else f"the image file holds {size} bytes"
        raise InputError(what, where=str(path), expected=f"an image of at most {_MAX_FILE_BYTES} bytes")
    return data


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError(
            f"the image claims {width} x {height} pixels",
            where=str(path),
            expected=f"at most {MAX_PIXELS} pixels and {MAX_SIDE} a side",
            remedy="scale the image down; the model sees a few hundred pixels a side",
        )


def _check_whole(path: Path, file_format: str, data: bytes) -> None:
    """Pillow forgives a missing end: what the last bytes said is then made up."""
    if not is_whole(file_format, data):
        raise _cut_short(path, file_format)


def _check_scans(path: Path, image: Image.Image, layout: JpegLayout) -> None:
    """Each scan of a progressive JPEG may visit all pixels, in a few bytes."""
    pixels = image.width * image.height
    if layout.scans * pixels > MAX_PIXEL_SCANS:
        raise InputError(
            f"the image has {layout.scans} scans over {pixels} pixels",
            where=str(path),
            expected=f"at most {MAX_PIXEL_SCANS // pixels} scans at this size",
            remedy="save the image again",
        )


def _check_last_rows(path: Path, image: Image.Image, data: bytes, layout: JpegLayout) -> None:
    """A JPEG whose end-of-image marker comes early has its last rows made up: flat in a file of one pass."""
    corner = np.asarray(image)[-_JPEG_BLOCK:, -_JPEG_BLOCK:]
    if layout.scans == 1 and (corner != corner[:1, :1]).any():
        return
    with Image.open(io.BytesIO(overlong_jpeg(data, layout.end)), formats=_FORMATS) as longer:
        try:
            same = np.array_equal(np.asarray(longer), np.asarray(image))
        except OSError:  # the noise made a decoder stumble that was still waiting for data
            same = False
    if not same:
        raise _cut_short(path, "JPEG")


def _cut_short(path: Path, file_format: str) -> InputError:
    return InputError(
        "the image is cut short",
        where=str(path),
        expected=f"a whole {file_format} file",
        remedy="copy or download the file again",
    )


def _orientation(image: Image.Image) -> int:
    tag = image.getexif().get(_ORIENTATION_TAG, 1)
    return tag if tag in _TRANSPOSES else 1
