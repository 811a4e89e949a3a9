"""What every reader gives: named frames that can be read by index, and cameras where the source knows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vggt_edge.devices.errors import InputError

# Far above any camera in use, and far below what makes a small machine swap: 300 MB as RGB.
MAX_PIXELS = 100_000_000
# What decoders and the kits take; a strip of 1 x 100 000 000 pixels costs ten times the memory of its pixels.
MAX_SIDE = 32_768


@dataclass(frozen=True)
class Camera:
    """A solved camera. OpenCV axes; pixel coordinates continuous, (0, 0) at the image's top-left corner.

    extrinsics: (3, 4) world-to-camera [R|t], float64.
    intrinsics: (3, 3) in pixels of a ``width`` x ``height`` frame, float64.
    """

    extrinsics: npt.NDArray[np.float64]
    intrinsics: npt.NDArray[np.float64]
    width: int
    height: int


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


def contained(folder: Path, name: str, *, listed_in: Path) -> Path:
    """The file ``name``, as a scene file spells it, inside ``folder``.

    Raises ``InputError`` where the name leads out of the folder (absolute, through ``..`` or a symbolic link) or to
    nothing: scene files come from strangers.
    """
    where = f"{listed_in}, image {name!r}"
    try:
        resolved = (folder / name).resolve()
        inside = resolved.is_relative_to(folder.resolve())
        exists = inside and resolved.is_file()
    except (ValueError, OSError, RuntimeError) as error:  # a null byte, a name too long, a loop of links
        raise InputError(f"an image name that is no file name: {error}", where=where) from error
    if Path(name).is_absolute() or not inside:
        raise InputError(
            "an image name that leads out of its folder",
            where=where,
            expected=f"a path inside {folder}",
            remedy="copy the images into that folder and name them relative to it",
        )
    if not exists:
        raise InputError("an image that is listed but does not exist", where=where, expected=f"a file inside {folder}")
    return folder / name
