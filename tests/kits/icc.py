"""Small ICC profiles, written from their definition, for pictures that carry one."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA = 563 / 256
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def xyz(chromaticity: tuple[float, float]) -> Matrix:
    """XYZ of a chromaticity (x, y) at luminance 1."""
    x, y = chromaticity
    return np.array([x / y, 1.0, (1 - x - y) / y])


def rgb_to_xyz(primaries: Sequence[tuple[float, float]]) -> Matrix:
    """(3, 3), linear RGB with a white of D65 to XYZ."""
    columns = np.stack([xyz(primary) for primary in primaries], axis=1)
    return columns * np.linalg.solve(columns, xyz(D65))


def adaptation() -> Matrix:
    """(3, 3), XYZ under D65 to XYZ under D50, the white of profiles."""
    scale = (_BRADFORD @ xyz(D50)) / (_BRADFORD @ xyz(D65))
    return np.linalg.inv(_BRADFORD) @ (scale[:, None] * _BRADFORD)


def srgb_curve() -> bytes:
    """The transfer function of sRGB and Display P3 as a parametric curve of type 3."""
    return _parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def gamma_curve(gamma: float) -> bytes:
    return _parametric(0, gamma)


def rgb_profile(primaries: Sequence[tuple[float, float]], curve: bytes) -> bytes:
    """A display profile: three primaries and one curve."""
    to_d50 = adaptation()
    columns = to_d50 @ rgb_to_xyz(primaries)
    tags = {b"rXYZ": _xyz(columns[:, 0]), b"gXYZ": _xyz(columns[:, 1]), b"bXYZ": _xyz(columns[:, 2])}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _profile(b"RGB ", tags | {b"chad": b"sf32" + bytes(4) + _fixed(*to_d50.ravel())})


def grey_profile(curve: bytes) -> bytes:
    return _profile(b"GRAY", {b"kTRC": curve})


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = "vggt-edge test".encode("utf-16-be")
    words = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    tags = {b"desc": words, b"cprt": words, b"wtpt": _xyz(xyz(D50)), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += padded
    date = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x04300000, b"mntr", space, b"XYZ ") + date + b"acsp"
    head += bytes(28) + _fixed(*xyz(D50))
    return head.ljust(128, b"\0") + table + body


def _parametric(kind: int, *values: float) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + _fixed(*values)


def _xyz(values: Matrix) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
