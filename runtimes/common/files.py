"""Files and folders that are whole, or not there: written under a name beside their own, then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A free name beside ``path``, to write a file or a folder to; it takes the place of ``path`` at the end.

    What lies at ``path`` is not written over, since it may be linked from elsewhere. After a failure ``path`` is as it
    was, and the free name is free again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    _remove(scratch)
    try:
        yield scratch
        if scratch.is_dir():
            _remove(path)  # a folder cannot replace one that holds something
        scratch.replace(path)
    except BaseException:
        _remove(scratch)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
