"""The one door to Core AI's packages: imported only when called, in the right order, and untyped."""

from __future__ import annotations

import importlib
from typing import Any


def sdk(name: str) -> Any:
    """A module of ``coreai`` or ``coreai_torch``, untyped so that type checks do not depend on what is installed."""
    importlib.import_module("coreai.authoring")  # coreai.runtime fails to load before it
    return importlib.import_module(name)


def dialect() -> Any:
    """The operators of a Core AI program."""
    return sdk("coreai._compiler.dialects.coreai")
