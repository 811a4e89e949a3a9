"""Files on disk: digests, and writes that outlive a power cut."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def follow_umask(path: Path) -> None:
    """Give a file the rights that ``open`` would have given it; native writers make it readable for its owner alone."""
    executable = path.stat().st_mode & 0o111
    path.chmod((0o666 | executable) & ~_umask())


def _umask() -> int:
    mask = os.umask(0o022)  # the only way to read it is to set it
    os.umask(mask)
    return mask


def sync_tree(folder: Path) -> None:
    """Force a folder and all that it holds to disk, so that a rename of it cannot outlive its content."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)
    sync_folder(folder)


def sync_file(path: Path) -> None:
    """Force the content of one file to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk, as far as its file system and the operating system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
