"""One export at a time for each output: a lock that ends with its process, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vggt_edge.devices.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows: exports run there without this protection
    fcntl = None  # type: ignore[assignment]


@contextmanager
def output_lock(output: Path) -> Iterator[None]:
    """Hold the hidden file ``.<output>.lock`` beside the output, and remove it at the end.

    The lock belongs to the open file and not to the file's existence: a file that a killed process left behind locks
    nothing. Folders that were made for it and stayed empty are removed. Raises ``UsageError`` while another process
    holds the lock.
    """
    made = [parent for parent in (output.parent, *output.parent.parents) if not parent.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_name(f".{output.name}.lock")
    try:
        descriptor = _locked(path, output)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        for parent in made:
            with suppress(OSError):  # not empty: the output lies in it
                parent.rmdir()


def _locked(path: Path, output: Path) -> int:
    """The descriptor of the locked file."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"another vggt-edge process is writing to {output}",
                where=str(output),
                expected="one export at a time for each output",
                remedy="wait for it to end, or choose another -o",
            ) from None
        except OSError:  # a file system without locks
            return descriptor
        if _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # the previous holder removed the file between our open and our lock


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
