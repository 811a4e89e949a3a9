"""Whether a video container is all there: its outermost elements have to tile the file.

FFmpeg forgives a lost tail, which would quietly change what is calibrated on. Cameras append data of their own to a
whole container; these are told from a lost tail by their first bytes, which start no element of the container.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_EBML = b"\x1a\x45\xdf\xa3"
_HEAD_BYTES = 16


@dataclass(frozen=True)
class _Layout:
    """length: of an element, from its first bytes; 0 if unknown, None if it is no element. name: of an element.

    needed: elements without which there is no video. known: names at this level. parts: names of elements that say
    that more are to follow, of which none may be missing.
    """

    length: Callable[[bytes], int | None]
    name: Callable[[bytes], bytes]
    needed: frozenset[bytes]
    known: frozenset[bytes]
    parts: frozenset[bytes] = frozenset()

    def may_end(self, seen: set[bytes], head: bytes) -> bool:
        """Whether what follows the elements ``seen`` may be no part of the container."""
        begun = any(name.startswith(self.name(head)) for name in self.known)
        return self.needed <= seen and not self.parts & seen and not begun


def first_broken_byte(path: Path) -> int | None:
    """Where the first element starts that is cut short or makes no sense; None for a whole container.

    Knows ISO base media (MP4, MOV, 3GP; ISO 14496-12), Matroska and WebM (RFC 9559), and RIFF (AVI), by content. An
    element that is written as of unknown length, as live recordings are, is taken to reach the end of the file.
    """
    size, position = path.stat().st_size, 0
    seen: set[bytes] = set()
    with path.open("rb") as file:
        layout = _layout(file.read(4))
        while position < size:
            file.seek(position)
            head = file.read(_HEAD_BYTES)
            length = layout.length(head)
            if length is None or position + length > size:
                return None if layout.may_end(seen, head) else position
            seen.add(layout.name(head))
            position = position + length if length else size
    return None


def _layout(magic: bytes) -> _Layout:
    if magic == _EBML:
        return _MATROSKA
    return _RIFF if magic == b"RIFF" else _ISO


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


def _ebml_name(head: bytes) -> bytes:
    return head[: _vint_bytes(head)] or head[:1]


_SEGMENT = b"\x18\x53\x80\x67"
_ISO = _Layout(
    _box_length,
    lambda head: head[4:8],
    frozenset({b"moov", b"mdat"}),
    frozenset(b"ftyp styp moov mdat moof mfra free skip wide uuid udta meta sidx ssix pdin pnot prft emsg".split()),
    frozenset({b"moof"}),
)
_MATROSKA = _Layout(_ebml_length, _ebml_name, frozenset({_SEGMENT}), frozenset({_EBML, _SEGMENT, b"\xec", b"\xbf"}))
_RIFF = _Layout(_riff_length, lambda head: head[:4], frozenset({b"RIFF"}), frozenset({b"RIFF", b"JUNK"}))
