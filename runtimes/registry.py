"""Finds the backends: every module or package of this folder is one, helpers aside (docs/how-to/add-a-runtime.md)."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from vggt_edge.devices.errors import UnknownNameError
from vggt_edge.runtimes.base import Backend

# Names with a leading underscore are helpers, too.
_HELPERS = frozenset({"base", "common", "registry"})


@cache
def backends() -> Mapping[str, Backend]:
    """Every backend by its name, sorted. A module without ``BACKEND`` is a programming error and says so."""
    found: dict[str, Backend] = {}
    names = (module.name for module in pkgutil.iter_modules(sys.modules[__package__].__path__))
    for name in sorted(name for name in names if name not in _HELPERS and not name.startswith("_")):
        module = importlib.import_module(f"vggt_edge.runtimes.{name}")
        found[name] = module.BACKEND
    return MappingProxyType(found)


def all_backends() -> tuple[Backend, ...]:
    """Every backend, in the order of the names."""
    return tuple(backends().values())


def backend(name: str) -> Backend:
    """The backend called ``name``; ``UnknownNameError`` lists the known ones."""
    try:
        return backends()[name]
    except KeyError:
        raise UnknownNameError("runtime", name, backends()) from None


@cache
def subject_titles() -> Mapping[str, str]:
    """Titles of all that a validation report may name beside FP32 and the simulation, by subject."""
    titles: dict[str, str] = {}
    for one in all_backends():
        titles |= {one.name: one.title, one.device_subject: f"{one.title} on the device", **one.subjects}
    return MappingProxyType(titles)
