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
from PIL import Image, UnidentifiedImageError

from vggt_edge.calibration.scenes.source import MAX_PIXELS
from vggt_edge.devices.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# Named, since Pillow would otherwise try every plugin it has, some of which start other programs. Without TIFF, whose
# library prints its own complaints about a corrupt file.
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
_MAX_FILE_BYTES = 512 * 2**20
_ORIENTATION_TAG = 0x0112
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
    """``pixels``: (H, W, 3) uint8 RGB as stored; ``orientation``: the EXIF tag, 1..8."""

    pixels: npt.NDArray[np.uint8]
    orientation: int

    def upright(self) -> npt.NDArray[np.uint8]:
        """The pixels turned the way the orientation tag says."""
        if self.orientation == 1:
            return self.pixels
        return np.asarray(Image.fromarray(self.pixels).transpose(_TRANSPOSES[self.orientation]))


def is_image(path: Path) -> bool:
    """Whether the file's name says that it is a picture that can be read."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def read_image(path: Path) -> Picture:
    """Decode an image file. ``InputError`` names the file that is empty, cut short, corrupt, too large or no image."""
    data = _read(path)
    with _opened(path, io.BytesIO(data)) as image:
        _check_whole(path, image.format or "", data)
        image.load()
        return Picture(_rgb(image), _orientation(image))


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the pixels as stored, from the file's header alone."""
    with _opened(path, path) as image:
        return image.size


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
    if width * height > MAX_PIXELS:
        raise InputError(
            f"the image claims {width} x {height} pixels",
            where=str(path),
            expected=f"at most {MAX_PIXELS} pixels",
            remedy="scale the image down; the model sees a few hundred pixels a side",
        )


def _check_whole(path: Path, file_format: str, data: bytes) -> None:
    """Pillow forgives a missing end: what the last bytes said is then made up. Look for the end ourselves."""
    whole = {"JPEG": _jpeg_ends, "PNG": _png_ends, "WEBP": _webp_ends, "BMP": _bmp_ends}.get(file_format)
    if whole is not None and not whole(data):
        raise InputError(
            "the image is cut short",
            where=str(path),
            expected=f"a whole {file_format} file",
            remedy="copy or download the file again",
        )


def _jpeg_ends(data: bytes) -> bool:
    """An end-of-image marker after the first scan; those of an embedded thumbnail lie before it."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            return data.find(b"\xff\xd9", position) >= 0
    return False


def _png_ends(data: bytes) -> bool:
    return data.rfind(b"\x00\x00\x00\x00IEND\xaeB`\x82") >= 0


def _webp_ends(data: bytes) -> bool:
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


def _bmp_ends(data: bytes) -> bool:
    return len(data) >= int.from_bytes(data[2:6], "little")


def _orientation(image: Image.Image) -> int:
    tag = image.getexif().get(_ORIENTATION_TAG, 1)
    return tag if tag in _TRANSPOSES else 1


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8. 16-bit grey keeps its high byte; what is transparent becomes white, as in rendered data sets."""
    if image.mode.startswith("I"):
        wide = np.clip(np.asarray(image, np.int64), 0, 65535)
        return np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return np.array(image.convert("RGB"))
