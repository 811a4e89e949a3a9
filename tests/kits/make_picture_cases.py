"""Writes ``picture_cases/``: small pictures as cameras, phones and editors save them, and what each one shows.

``cases.json`` holds the values that Python reads, for the kits to compare with. Run it after a change of the rule in
docs/preprocessing.md::

    python tests/kits/make_picture_cases.py

A case: ``file``; ``width`` and ``height`` once it is upright; ``points``, each ``[x, y, red, green, blue]`` in 8-bit
sRGB; ``tolerance`` in levels for another decoder or colour engine. A case with ``refused`` in place of these has to be
refused: it says why. A system that decodes pictures itself and does not tell how may skip refusals.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import icc

from vggt_edge.calibration.scenes.image import read_image
from vggt_edge.devices.errors import InputError

FOLDER = Path(__file__).parent / "picture_cases"
Pixels = npt.NDArray[np.uint8]
BLOCK = 16
COLOURS: Pixels = np.array(
    [[[200, 100, 50], [255, 0, 0], [0, 255, 0]], [[12, 34, 56], [128, 128, 128], [250, 240, 230]]], np.uint8
)
ALPHA: Pixels = np.array([[255, 128, 0], [1, 64, 254]], np.uint8)
P3 = icc.rgb_profile(icc.DISPLAY_P3, icc.srgb_curve())


@dataclass(frozen=True)
class Case:
    """content: of the file. block: pixels a side of one colour, of which the middle is looked at."""

    file: str
    content: bytes
    what: str
    tolerance: int = 0
    block: int = 1


def cases() -> Iterator[Case]:
    yield from colour_cases()
    yield from alpha_cases()
    yield from depth_cases()
    yield from orientation_cases()
    yield from refused_cases()


def colour_cases() -> Iterator[Case]:
    rgb, grey = Image.fromarray(COLOURS), Image.fromarray(COLOURS[..., 1])
    blocks = Image.fromarray(COLOURS.repeat(BLOCK, 0).repeat(BLOCK, 1))
    same = icc.rgb_profile(icc.SRGB, icc.srgb_curve())
    adobe = icc.rgb_profile(icc.ADOBE_RGB, icc.gamma_curve(icc.ADOBE_GAMMA))
    yield Case("plain.png", saved(rgb), "no profile: sRGB")
    yield Case("srgb.png", saved(rgb, icc_profile=same), "an sRGB profile changes nothing", 1)
    yield Case("display_p3.png", saved(rgb, icc_profile=P3), "Display P3, as phones save it", 2)
    yield Case("display_p3.jpg", jpeg(blocks, icc_profile=P3), "the same as JPEG", 4, BLOCK)
    yield Case("adobe_rgb.png", saved(rgb, icc_profile=adobe), "Adobe RGB (1998)", 2)
    yield Case("grey.png", saved(grey), "one channel, no profile")
    yield Case("grey.jpg", jpeg(blocks.convert("L")), "one channel as JPEG", 2, BLOCK)
    yield Case("grey_gamma_1_8.png", saved(grey, icc_profile=icc.grey_profile(icc.gamma_curve(1.8))), "grey profile", 2)
    yield Case("grey_display_p3.png", saved(grey, icc_profile=P3), "one channel with an RGB profile", 2)


def alpha_cases() -> Iterator[Case]:
    rgba = Image.fromarray(np.dstack([COLOURS, ALPHA]))
    grey = Image.fromarray(np.dstack([COLOURS[..., 1], ALPHA]))
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    palette.putpalette(COLOURS.ravel().tolist())
    key = saved(Image.fromarray(COLOURS), transparency=tuple(COLOURS[0, 0].tolist()))
    yield Case("alpha.png", saved(rgba), "alpha lies on white", 1)
    yield Case("alpha_display_p3.png", saved(rgba, icc_profile=P3), "colours are converted, then laid on white", 3)
    yield Case("alpha.webp", saved(rgba, "WEBP", lossless=True, exact=True), "alpha in WebP", 1)
    yield Case("grey_alpha.png", saved(grey), "one channel and alpha", 1)
    yield Case("palette_alpha.png", saved(palette, transparency=bytes(ALPHA.ravel())), "a palette with alpha", 1)
    yield Case("transparent_colour.png", key, "one colour (200, 100, 50) is transparent", 1)


def depth_cases() -> Iterator[Case]:
    """Multiples of 257, so that cutting to the high byte and rounding give the same."""
    deep, grey = COLOURS.astype(np.uint16) * 257, COLOURS[..., 1].astype(np.uint16) * 257
    bits = Image.fromarray(COLOURS[..., 1] > 128)
    yield Case("deep.png", png(deep, colour_type=2), "16 bits a channel")
    yield Case("deep_grey.png", png(grey[..., None], colour_type=0), "16 bits, one channel")
    yield Case("bits.png", saved(bits), "1 bit, one channel")
    yield Case("palette.png", saved(Image.fromarray(COLOURS).quantize(6)), "a palette")


def orientation_cases() -> Iterator[Case]:
    """The stored pixels are the same each time; the tag says how to turn them."""
    blocks = Image.fromarray(COLOURS.repeat(BLOCK, 0).repeat(BLOCK, 1))
    for orientation in range(1, 9):
        content = jpeg(blocks, exif=tagged(orientation))
        yield Case(f"orientation_{orientation}.jpg", content, f"EXIF orientation {orientation}", 2, BLOCK)
    yield Case("orientation_6.png", saved(Image.fromarray(COLOURS), exif=tagged(6)), "EXIF orientation 6 in PNG")
    yield Case(
        "orientation_8_display_p3.jpg", jpeg(blocks, exif=tagged(8), icc_profile=P3), "turned, and Display P3", 4, BLOCK
    )


def refused_cases() -> Iterator[Case]:
    rgb = Image.fromarray(COLOURS)
    pixels = COLOURS.astype(np.uint8)
    yield Case("cmyk.jpg", jpeg(Image.new("CMYK", (8, 8), (10, 20, 30, 40))), "inks without a profile")
    yield Case("linear.png", png(pixels, 2, gAMA=struct.pack(">I", 100_000)), "linear light by its gAMA chunk")
    yield Case("hdr.png", png(pixels, 2, cICP=bytes([9, 16, 0, 1])), "BT.2100 PQ by its cICP chunk")
    yield Case("broken_profile.png", saved(rgb, icc_profile=P3[:200]), "a colour profile cut short")
    yield Case("wrong_profile.png", saved(rgb, icc_profile=icc.grey_profile(icc.gamma_curve(2.2))), "RGB, grey profile")
    yield Case("adobe_rgb_by_exif.jpg", jpeg(rgb, exif=adobe_by_exif()), "Adobe RGB by EXIF alone, without a profile")
    yield Case("short.png", png(pixels, 2, rows=1), "one of two rows is there")


def saved(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image, **options: object) -> bytes:
    return saved(image, "JPEG", quality=98, **({"subsampling": 0} if image.mode == "RGB" else {}), **options)


def png(values: npt.NDArray[np.generic], colour_type: int, rows: int | None = None, **chunks: bytes) -> bytes:
    """A PNG of (H, W, C) values, with further chunks before the pixels. rows: how many are there, None for all."""
    height, width, _ = values.shape
    big_endian = values.astype(values.dtype.newbyteorder(">"))
    raw = b"".join(b"\0" + row.tobytes() for row in big_endian[:rows])
    header = struct.pack(">IIBBBBB", width, height, 8 * values.dtype.itemsize, colour_type, 0, 0, 0)
    parts = {b"IHDR": header, **{name.encode(): content for name, content in chunks.items()}}
    parts |= {b"IDAT": zlib.compress(raw), b"IEND": b""}
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def adobe_by_exif() -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    return exif


def described(case: Case) -> dict[str, object]:
    """What Python reads from the written file."""
    try:
        pixels = read_image(FOLDER / case.file).upright()
    except InputError as error:
        return {"file": case.file, "what": case.what, "refused": error.what}
    height, width, _ = pixels.shape
    middles = [
        (x, y) for y in range(case.block // 2, height, case.block) for x in range(case.block // 2, width, case.block)
    ]
    points = [[x, y, *pixels[y, x].tolist()] for x, y in middles]
    size = {"width": width, "height": height, "tolerance": case.tolerance}
    return {"file": case.file, "what": case.what, **size, "points": points}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = list(cases())
    for case in made:
        (FOLDER / case.file).write_bytes(case.content)
    entries = ",\n".join(json.dumps(described(case)) for case in made)
    (FOLDER / "cases.json").write_text(f'{{"schema_version": 1, "cases": [\n{entries}\n]}}\n')


if __name__ == "__main__":
    main()
