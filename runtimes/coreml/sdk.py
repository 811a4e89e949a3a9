"""Apple's converter, imported without its noise."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from vggt_edge.devices.errors import ToolchainError


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines or progress bars: on Linux coremltools complains of each library that only a Mac has."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def load_coremltools(module: str = "coremltools") -> Any:
    """coremltools or one of its modules; ``ToolchainError`` where it is not installed."""
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        raise ToolchainError(
            f"{module} cannot be imported: {error}", remedy="pip install 'vggt-edge[apple]'"
        ) from error
