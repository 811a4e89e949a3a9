"""What every reader gives: named frames that can be read by index, and cameras where the source knows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from vggt_edge.devices.errors import InputError

# Far above any camera in use, and far below what makes a small machine swap: 300 MB as RGB.
MAX_PIXELS = 100_000_000
# What decoders and the kits take; a strip of 1 x 100 000 000 pixels costs ten times the memory of its pixels.
MAX_SIDE = 32_768
Coefficients: TypeAlias = Mapping[str, float]


@dataclass(frozen=True)
class Distortion:
    """What a lens does to a straight picture. ``projection``: a name of ``distortion.PROJECTIONS``."""

    projection: str
    coefficients: Coefficients


@dataclass(frozen=True)
class Camera:
    """A solved camera. OpenCV axes; pixel coordinates continuous, (0, 0) at the image's top-left corner.

    extrinsics: (3, 4) world-to-camera [R|t], float64.
    intrinsics: (3, 3) in pixels of a ``width`` x ``height`` frame, float64.
    distortion: None for a pinhole camera.
    """

    extrinsics: npt.NDArray[np.float64]
    intrinsics: npt.NDArray[np.float64]
    width: int
    height: int
    distortion: Distortion | None = None

    def scaled(self, width: int, height: int) -> Camera:
        """The camera of the same picture at another size."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        return replace(self, intrinsics=scale @ self.intrinsics, width=width, height=height)


@dataclass(frozen=True)
class Frame:
    """``pixels``: (H, W, 3) uint8 RGB, upright. ``camera`` belongs to these very pixels."""

    pixels: npt.NDArray[np.uint8]
    camera: Camera | None = None


class Source(Protocol):
    """An ordered set of frames of one place."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...

    @property
    def labels(self) -> tuple[str, ...]:
        """One per frame: where it comes from, relative to the path the user gave."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the source is read."""
        ...

    @property
    def passed_over(self) -> Mapping[str, int]:
        """What lies beside the frames and is not read: how many of each kind."""
        ...

    def read(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Decode the frames at the ascending ``indices``; ``InputError`` names the file that cannot be."""
        ...


def natural_key(name: str) -> tuple[tuple[tuple[str, int, str], ...], str]:
    """Sort key under which ``frame_10`` follows ``frame_9``; total, so that the order never depends on the disk's."""
    key: list[tuple[str, int, str]] = []
    for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name):
        # Numbers are compared by length first, then as text: a name may hold more digits than int() accepts.
        number = digits.lstrip("0")
        key.append((text.casefold(), len(number), number))
    return tuple(key), name


def listing(folder: Path) -> list[Path]:
    """The visible entries of a folder in natural order. Hidden ones are thumbnails and metadata of file managers."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except FileNotFoundError as error:
        raise InputError("no such folder", where=str(folder), expected="a folder") from error
    return sorted(entries, key=lambda entry: natural_key(entry.name))
