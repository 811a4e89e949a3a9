"""ExecuTorch's Python modules, imported where they are needed; it has no type information that mypy could follow."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAME = "ExecuTorch"
REMEDY = "pip install 'vggt-edge[android]'"


def sdk(name: str) -> Any:
    """The module ``executorch.<name>``."""
    with quiet():
        return importlib.import_module(f"executorch.{name}")


def installed() -> bool:
    try:
        return importlib.util.find_spec("executorch") is not None
    except (ImportError, ValueError):  # a package that is half there
        return False


@contextmanager
def quiet() -> Iterator[None]:
    """ExecuTorch and torchao log and warn about their own internals."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
