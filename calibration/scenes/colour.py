"""From the samples of a decoded image to RGB as sRGB means it, 8 bits a channel (docs/preprocessing.md has the rule).

What a picture says about its colours is followed, or the picture is refused: the same file has to give the model the
same numbers during calibration as in an app.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms

from vggt_edge.calibration.scenes.whole import png_chunks

_SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_CHROMATICITY_TOLERANCE, _GAMMA_TOLERANCE = 0.005, 0.005
_SRGB_CODE_POINTS = (1, 13)  # primaries and transfer of sRGB (ITU-T H.273)
_MAX_PROFILE_BYTES = 4 << 20
# Profiles that differ from sRGB by no more than this on a grid of colours are sRGB in another tool's digits.
_SRGB_TOLERANCE = 1
_GRID_LEVELS = 17
_BMP_PROFILE = (b"DEBM", b"KNIL")  # a profile that is embedded, or linked to; little-endian


def to_srgb(image: Image.Image, data: bytes) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 sRGB of a loaded image. ``data``: its file, for what Pillow does not read.

    ``ValueError`` says which colours cannot be read.
    """
    _refuse_other_colours(image, data)
    alpha = _alpha(image)
    colours = _colours(image)
    if alpha is None:
        return np.array(colours)
    laid = Image.new("RGB", colours.size, "white")
    laid.paste(colours, mask=alpha)
    return np.array(laid)


def _refuse_other_colours(image: Image.Image, data: bytes) -> None:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.format == "PNG":
        _check_png_colours(image, data)
    if image.format == "BMP" and data[70:74] in _BMP_PROFILE and int.from_bytes(data[14:18], "little") >= 124:
        raise ValueError("it carries a colour profile, which is not read from BMP: save it in sRGB")
    interoperability = image.getexif().get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    if interoperability == "R03" and "icc_profile" not in image.info:
        raise ValueError("its EXIF says Adobe RGB, but it carries no colour profile: save it in sRGB")


def _check_png_colours(image: Image.Image, data: bytes) -> None:
    for kind, content in png_chunks(data):
        if kind == b"cICP" and tuple(content[:2]) != _SRGB_CODE_POINTS:
            raise ValueError(f"its cICP chunk says the colour space {tuple(content[:2])}, not sRGB: save it in sRGB")
        if kind == b"IDAT":
            break
    if "icc_profile" in image.info or "srgb" in image.info:
        return  # they come before gAMA and cHRM
    gamma = image.info.get("gamma", 1 / 2.2)
    corners = image.info.get("chromaticity", _SRGB_CHROMATICITIES)
    if abs(gamma - 1 / 2.2) > _GAMMA_TOLERANCE or np.abs(np.subtract(corners, _SRGB_CHROMATICITIES)).max() > (
        _CHROMATICITY_TOLERANCE
    ):
        raise ValueError("its gAMA or cHRM chunk says another colour space than sRGB: save it in sRGB")


def _alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data:
        return None
    if _is_deep(image):
        raise ValueError("it has 16 bits and a transparent colour: save it with an alpha channel")
    return image.convert("RGBA").getchannel("A")


def _colours(image: Image.Image) -> Image.Image:
    """RGB in sRGB, whatever is transparent."""
    plain = _opaque(image)
    profile = image.info.get("icc_profile")
    if not profile:
        if plain.mode == "CMYK":
            raise ValueError("it has inks (CMYK) and no colour profile that says which: save it in sRGB")
        return plain.convert("RGB")
    space = _space(profile)
    if plain.mode == "L" and space == "RGB":
        plain = plain.convert("RGB")
    if {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[plain.mode] != space:
        raise ValueError(f"its colour profile is for {space}, its pixels are {plain.mode}: save it in sRGB")
    transform = _to_srgb(profile, plain.mode)
    return plain.convert("RGB") if transform is None else transform.apply(plain)


def _opaque(image: Image.Image) -> Image.Image:
    """Without alpha, as L, RGB or CMYK. Of 16 bits the high byte stays."""
    if _is_deep(image):
        return Image.fromarray((np.clip(np.asarray(image, np.int64), 0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I")


def _space(profile: bytes) -> str:
    return _opened(profile).profile.xcolor_space.strip()


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    if len(profile) > _MAX_PROFILE_BYTES:
        raise ValueError(f"its colour profile holds {len(profile)} bytes, more than {_MAX_PROFILE_BYTES}")
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError("its colour profile cannot be read: save it in sRGB") from error


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Relative colorimetric, without black-point compensation; None where the profile is sRGB itself."""
    try:
        transform = ImageCms.buildTransform(
            _opened(profile),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    except ImageCms.PyCMSError as error:
        raise ValueError("its colour profile cannot be used: save it in sRGB") from error
    return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.linspace(0, 255, 256 if mode == "L" else _GRID_LEVELS).round().astype(np.uint8)
    grid = levels[None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    before = Image.fromarray(grid)
    after = np.asarray(transform.apply(before), np.int16)
    return bool(np.abs(after - np.asarray(before.convert("RGB"), np.int16)).max() <= _SRGB_TOLERANCE)
