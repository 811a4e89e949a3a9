"""Whether a video container is all there: its outermost elements have to tile the file exactly.

FFmpeg forgives a lost tail, which would quietly change what is calibrated on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_EBML = b"\x1a\x45\xdf\xa3"
_HEAD_BYTES = 16


def first_broken_byte(path: Path) -> int | None:
    """Where the first element starts that is cut short or makes no sense; None for a whole container.

    Knows ISO base media (MP4, MOV; ISO 14496-12), Matroska and WebM (RFC 9559), and RIFF (AVI), by content. An element
    that is written as of unknown length, as live recordings are, is taken to reach the end of the file.
    """
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        measure = _measure(file.read(4))
        while position < size:
            file.seek(position)
            length = measure(file.read(_HEAD_BYTES))
            if length is None or position + length > size:
                return position
            position = position + length if length else size
    return None


def _measure(magic: bytes) -> Callable[[bytes], int | None]:
    """A function from an element's first bytes to its length in bytes: 0 if unknown, None if it is no element."""
    if magic == _EBML:
        return _ebml_length
    return _riff_length if magic == b"RIFF" else _box_length


def _box_length(head: bytes) -> int | None:
    if len(head) < 8:
        return None
    length, smallest = int.from_bytes(head[:4], "big"), 8
    if length == 0:
        return 0
    if length == 1:
        length, smallest = int.from_bytes(head[8:16], "big"), 16
    return length if length >= smallest else None


def _riff_length(head: bytes) -> int | None:
    if len(head) < 8:
        return None
    payload = int.from_bytes(head[4:8], "little")
    return 8 + payload + payload % 2


def _ebml_length(head: bytes) -> int | None:
    identity = _vint_bytes(head)
    width = _vint_bytes(head[identity:])
    field = head[identity : identity + width]
    if not identity or not width or len(field) < width:
        return None
    value_bits = 7 * width
    payload = int.from_bytes(field, "big") & ((1 << value_bits) - 1)
    unknown = payload == (1 << value_bits) - 1
    return 0 if unknown else identity + width + payload


def _vint_bytes(head: bytes) -> int:
    """Bytes of a variable-length integer: one more than the leading zero bits of its first byte; 0 if it is none."""
    return 9 - head[0].bit_length() if head and head[0] else 0
