"""ExecuTorch's Python modules, imported where they are needed; it has no type information that mypy could follow.

And what its two backends, one for each delegate, have in common.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vggt_edge.devices.errors import LoweringError, ResourceError, lacking
from vggt_edge.runtimes.base import Availability
from vggt_edge.runtimes.common import packages as _packages
from vggt_edge.runtimes.common.files import aside
from vggt_edge.runtimes.common.packages import quiet as quiet

NAME = "ExecuTorch"
REMEDY = "pip install 'vggt-edge[android]' (on Linux: x86-64 only)"
# What kernels and loader need; the default of 128 for a segment is one of its own for every tensor.
ALIGNMENT = 16


def sdk(name: str) -> Any:
    """The module ``executorch.<name>``."""
    with quiet():
        return importlib.import_module(f"executorch.{name}")


def installed() -> bool:
    return _packages.installed("executorch")


def availability() -> Availability:
    return Availability(True) if installed() else Availability(False, "not installed: executorch", REMEDY)


@contextmanager
def refusals(who: str, where: str) -> Iterator[None]:
    """ExecuTorch says no in many ways; for its users all of them mean the same. where: the backend's name."""
    try:
        yield
    except Exception as error:
        if lack := lacking(error):
            raise ResourceError(f"{who} had {lack}: {error}", where=where, remedy="use a larger machine") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LoweringError(
            f"{who} did not lower the graph: {reason}",
            where=where,
            expected=f"operators and precisions of docs/runtimes/{where}.md",
        ) from error


def write_program(manager: Any, path: Path) -> None:
    """Write the program to ``path``."""
    with aside(path) as scratch, scratch.open("wb") as stream:
        manager.write_to_file(stream)


def flatbuffer_bytes(path: Path) -> int:
    """Of a program: everything but its segments, in which weights and delegates lie. A flatbuffer ends at 2 GB."""
    header = sdk("exir._serialize._program")._ExtendedHeader
    with path.open("rb") as stream:
        # Behind the offset of the root and the file's identifier.
        about = header.from_bytes(stream.read(8 + header.EXPECTED_LENGTH)[8:])
    return int(about.program_size)


def operator_name(target: Any) -> str:
    """``aten.expand_copy.default``, of an operator of ExecuTorch's edge dialect."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return str(target)
    return f"{schema.name.replace('::', '.')}.{schema.overload_name or 'default'}"
