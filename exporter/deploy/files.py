"""Files on their way to a board: what is there already, and what is left to send."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vggt_edge.calibration.documents import Count
from vggt_edge.exporter.bundle import FileEntry

CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class FileState:
    """What the board has of a file.

    - path: relative to the folder of the kit.
    - is_whole: nothing is to be sent.
    - bytes: length of what is there, in whole chunks.
    - sha256: of these bytes; empty for none.
    """

    path: str
    is_whole: bool
    bytes: Count
    sha256: str


@dataclass(frozen=True)
class Transfer:
    """How many bytes were sent, and how many were there already."""

    sent_bytes: int
    kept_bytes: int
    seconds: float


@dataclass(frozen=True)
class Item:
    """A file to bring over. local: where it lies here; start: of the first byte to send; is_whole: nothing to do."""

    local: Path
    entry: FileEntry
    start: int
    is_whole: bool

    @property
    def missing_bytes(self) -> int:
        return self.entry.size_bytes - self.start


def items_of(locals_: Sequence[Path], entries: Sequence[FileEntry], states: Sequence[FileState]) -> tuple[Item, ...]:
    """What is left to send: all behind what the board has of the same file."""
    return tuple(
        Item(local, entry, _start(local, state), state.is_whole)
        for local, entry, state in zip(locals_, entries, states, strict=True)
    )


def _start(file: Path, state: FileState) -> int:
    is_ours = state.is_whole or (state.bytes > 0 and _sha256(file, state.bytes) == state.sha256)
    return state.bytes if is_ours else 0


def _sha256(path: Path, length: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while length and (block := file.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
    return digest.hexdigest()
