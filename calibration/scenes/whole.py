"""Whether an image file holds all of its pixels, told from its bytes.

Pillow forgives a file that ends too early: the pixels that are not there are made up. It also decodes without a limit
on the work. These checks run before the decoder, or after it for what only the pixels tell.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

# A scan of a progressive JPEG may visit every pixel: 1.5e9 is 100 megapixels in 15 scans, about six seconds.
MAX_PIXEL_SCANS = 1_500_000_000
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_PNG_SIGNATURE_BYTES = 8
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column, first row, step of columns, step of rows of each pass of an interlaced PNG (RFC 2083, 2.6).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATE_BYTES = 1 << 20


@dataclass(frozen=True)
class JpegLayout:
    """``scans``: how many the file holds. ``end``: offset of the end-of-image marker behind the last of them."""

    scans: int
    end: int


def is_whole(file_format: str, data: bytes) -> bool:
    """Whether the file is complete, as far as its bytes tell; True for a format that is not known here."""
    check = {"JPEG": _jpeg_is_whole, "MPO": _jpeg_is_whole, "PNG": _png_is_whole, "WEBP": _webp_ends, "BMP": _bmp_ends}
    return file_format not in check or check[file_format](data)


def jpeg_layout(data: bytes) -> JpegLayout | None:
    """Walk the segments up to the end of the image; those of an embedded thumbnail lie inside a segment."""
    position, scans = 2, 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker != _START_OF_SCAN:
            continue
        scans += 1
        found = _NEXT_MARKER.search(data, position)
        if found is None:
            return None
        position = found.start()
        if data[position + 1] == _END_OF_IMAGE:
            return JpegLayout(scans, position)
    return None


def overlong_jpeg(data: bytes, end: int) -> bytes:
    """The same JPEG with noise behind its last scan.

    It decodes to the same pixels only if that scan is complete: a decoder that still waits for data takes the noise.
    """
    noise = bytes(1 + value * 101 % 254 for value in range(256))
    return data[:end] + noise + data[end:]


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of the chunks of a PNG up to its end or to the first one that is cut short."""
    position = _PNG_SIGNATURE_BYTES
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + length]
        position += 12 + length
        if position > len(data):
            return
        yield kind, content
        if kind == b"IEND":
            return


def _jpeg_is_whole(data: bytes) -> bool:
    return jpeg_layout(data) is not None


def _png_is_whole(data: bytes) -> bool:
    """The end is there, and the compressed data unpack to every row."""
    chunks = list(png_chunks(data))
    if not chunks or chunks[-1][0] != b"IEND" or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        return False
    left = _png_bytes(chunks[0][1])
    inflate = zlib.decompressobj()
    for kind, content in chunks:
        while kind == b"IDAT" and content and left > 0 and not inflate.eof:
            try:
                left -= len(inflate.decompress(content, _INFLATE_BYTES))
            except zlib.error:
                return False
            content = inflate.unconsumed_tail
    return left <= 0


def _png_bytes(header: bytes) -> int:
    """Bytes of the unpacked rows, each with its filter byte."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _PNG_CHANNELS.get(colour, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = ((-(-(width - left) // x), -(-(height - top) // y)) for left, top, x, y in passes)
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sides if columns > 0 and rows > 0)


def _webp_ends(data: bytes) -> bool:
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


def _bmp_ends(data: bytes) -> bool:
    return len(data) >= int.from_bytes(data[2:6], "little")
