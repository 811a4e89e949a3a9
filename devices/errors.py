"""Every error that vggt-edge raises on purpose, and the exit code that each one ends the command with.

::

    VggtEdgeError
    +-- UsageError (2)            the request itself is wrong
    |   +-- UnknownNameError      a target, model, scheme or output that does not exist; lists the known ones
    |   +-- InputError            a file that is missing, corrupt, misshapen or hostile
    |       +-- SignatureError    a bundle that was not signed, or not by whom it should be, or changed since
    +-- ToolchainError (3)        a toolchain is missing or of the wrong version
    |   +-- DeviceError           a device that cannot be reached, lets nobody in, is not trusted, or went away
    +-- AccuracyGateError (4)     the artifact runs, but drifts past the profile's tolerances
    +-- BudgetError (5)           no assignment fits --max-memory / --max-latency / --max-accuracy-drop
    +-- LoweringError (6)         a backend refused the graph, or did not realise the planned precision
    +-- ResourceError (7)         memory, disk, permissions or time do not suffice

They live in the lowest layer because every layer raises them (docs/decisions/001).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_MEMORY = ("can't allocate memory", "bad_alloc", "bad allocation")  # how torch and other native code say it


class VggtEdgeError(Exception):
    """Says what happened, where, what was expected and what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where", self.where), ("expected", self.expected), ("next", self.remedy)):
            if text:
                lines.append(f"  {label + ':':<10}{text}")
        return "\n".join(lines)

    @property
    def fields(self) -> dict[str, str]:
        """The error as plain text: what ``--json`` prints, and what a worker hands to its parent."""
        said = {"what": self.what, "where": self.where, "expected": self.expected, "remedy": self.remedy}
        return {"kind": type(self).__name__, **said}

    @staticmethod
    def of(fields: Mapping[str, str]) -> VggtEdgeError:
        """The error that has these ``fields``."""
        kind = next(one for one in _kinds(VggtEdgeError) if one.__name__ == fields["kind"])
        error = kind.__new__(kind)
        VggtEdgeError.__init__(error, **{name: text for name, text in fields.items() if name != "kind"})
        return error


def _kinds(root: type[VggtEdgeError]) -> Iterator[type[VggtEdgeError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)


class UsageError(VggtEdgeError):
    """The request itself is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name out of a closed vocabulary was not found."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        super().__init__(f"unknown {kind} {name!r}", where=where, expected=f"one of: {', '.join(sorted(known))}")


class InputError(UsageError):
    """A file or folder handed to us cannot be used."""


class SignatureError(InputError):
    """A bundle was not signed, or not by whom it should be, or has changed since."""


class ToolchainError(VggtEdgeError):
    """A toolchain is missing, or has the wrong version."""

    exit_code = 3


class DeviceError(ToolchainError):
    """A device cannot be reached, lets nobody in, is not the one that is known, or went away."""


class AccuracyGateError(VggtEdgeError):
    """The artifact runs, but drifts past the tolerances of the profile."""

    exit_code = 4


class BudgetError(VggtEdgeError):
    """No assignment of precisions fits the budget."""

    exit_code = 5


class LoweringError(VggtEdgeError):
    """A backend refused the graph, or did not realise the planned precision."""

    exit_code = 6


class ResourceError(VggtEdgeError):
    """Memory, disk space, permissions or time do not suffice."""

    exit_code = 7


# What a device kit means by the code that it ends with.
BY_EXIT_CODE: Mapping[int, type[VggtEdgeError]] = MappingProxyType(
    {kind.exit_code: kind for kind in (InputError, ToolchainError, AccuracyGateError, LoweringError, ResourceError)}
)


def lacking(error: BaseException) -> str:
    """``no room`` or ``no memory`` where an error means that, also where native code says so in words; else ``""``."""
    text = str(error)
    if getattr(error, "errno", None) in NO_ROOM or any(os.strerror(code) in text for code in NO_ROOM):
        return "no room"
    return "no memory" if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY) else ""
