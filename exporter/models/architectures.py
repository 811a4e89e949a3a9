"""Finds the architectures by file name, and tells from the names of its tensors which one a checkpoint is of."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from vggt_edge.devices.errors import InputError, UnknownNameError
from vggt_edge.exporter import models
from vggt_edge.exporter.models.architecture import Architecture
from vggt_edge.exporter.models.shards import a_few


def architectures() -> Mapping[str, Architecture]:
    """Every architecture by the name of its file: the modules of this folder that define ``ARCHITECTURE``."""
    names = sorted(module.name for module in pkgutil.iter_modules(models.__path__))
    modules = {name: importlib.import_module(f"{models.__name__}.{name}") for name in names}
    return MappingProxyType(
        {name: module.ARCHITECTURE for name, module in modules.items() if hasattr(module, "ARCHITECTURE")}
    )


def recognise(names: Collection[str], where: str, *, asked: str | None = None, origin: str = "") -> Architecture:
    """The architecture whose keys are all among ``names``.

    asked: its name, where the user or the file says it. origin: the id or path of the weights, which may name one of
    two that look alike. ``UnknownNameError`` for a name that none has, ``InputError`` where none fits, with what the
    nearest lacks, and where several do.
    """
    known = architectures()
    if asked is not None and asked not in known:
        raise UnknownNameError("architecture", asked, known)
    fitting = [one for one in known.values() if set(one.keys) <= set(names)]
    found = [one for one in fitting if one.name == asked] if asked else _told_apart(fitting, origin)
    if len(found) == 1:
        return found[0]
    if asked and fitting:
        raise InputError(
            f"the tensors are not those of {asked}",
            where=where,
            expected=f"what they fit: {', '.join(one.name for one in fitting)}",
            remedy="leave out --architecture",
        )
    if found:
        raise InputError(
            f"the tensors fit {len(found)} architectures: {', '.join(one.name for one in found)}",
            where=where,
            expected="names that fit one architecture",
            remedy="leave out what belongs to the other model",
        )
    raise InputError(
        f"the {len(names)} tensors fit no architecture{_nearest(known.values(), names)}",
        where=where,
        expected=f"a checkpoint of one of: {', '.join(known)}; found tensors such as {a_few(names)}",
        remedy="give a checkpoint of a known architecture; docs/how-to/add-a-model.md adds one",
    )


def _nearest(known: Collection[Architecture], names: Collection[str]) -> str:
    """The architecture that has the largest share of its keys among ``names``, under any prefix, and what it lacks."""
    lacking = {one.name: [key for key in one.keys if not _holds(names, key)] for one in known}
    fewest = min(known, key=lambda one: (len(lacking[one.name]) / len(one.keys), bool(one.lookalike_of)))
    missing = lacking[fewest.name]
    if len(missing) == len(fewest.keys):
        return ", and have no name in common with any"
    share = f"{len(missing)} of {len(fewest.keys)} tensors that every {fewest.name} has"
    return f"; the nearest is {fewest.name}, but it lacks {share}: {a_few(missing)}"


def _holds(names: Collection[str], key: str) -> bool:
    return key in names or any(name.endswith(f".{key}") for name in names)


def _told_apart(fitting: Sequence[Architecture], origin: str) -> list[Architecture]:
    """Choose among architectures with the same tensor names.

    The architecture that ``origin`` names wins; without such a name, the architecture that the others imitate.
    """
    named = [one for one in fitting if one.lookalike_of and one.is_named_in(origin)]
    return named or [one for one in fitting if not one.lookalike_of]
