"""Apple's converter, imported without its noise."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from vggt_edge.devices.errors import ToolchainError
from vggt_edge.runtimes.common import packages as _packages

REMEDY = "pip install 'vggt-edge[apple]' (on Linux: x86-64 only)"


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars either: on Linux coremltools complains of each library that only a Mac has."""
    with _packages.quiet(), redirect_stderr(io.StringIO()):
        yield


def load_coremltools(module: str = "coremltools") -> Any:
    """coremltools or one of its modules; ``ToolchainError`` where it is not installed."""
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        raise ToolchainError(f"{module} cannot be imported: {error}", remedy=REMEDY) from error
