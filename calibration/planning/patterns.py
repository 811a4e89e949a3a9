"""Regular expressions that users and files give us, matched in bounded time.

The syntax is that of Python's ``re``. Its engine takes exponential time for patterns such as ``(a*)*b``; the library
``regex`` is told when to stop. What only ``regex`` knows, such as ``(?R)``, can take a gigabyte in that time.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from time import process_time

import regex

from vggt_edge.devices.errors import UsageError

LONGEST_PATTERN = 1000
# Of processor time, for one pattern and all names; the engine takes no limit of 0.
_LIMIT_S, _SHORTEST_S = 1.0, 0.001
_EXPECTED = f"a regular expression of at most {LONGEST_PATTERN} characters"


def compiled(pattern: str) -> regex.Pattern[str]:
    """``UsageError`` for what is no pattern, or too long to be compiled in reasonable time."""
    if len(pattern) > LONGEST_PATTERN:
        raise UsageError(f"a regular expression of {len(pattern)} characters", expected=_EXPECTED)
    try:
        with warnings.catch_warnings(action="ignore"):  # of what a later Python may read otherwise
            re.compile(pattern)
            return regex.compile(pattern)
    except (re.error, regex.error, RecursionError, OverflowError, ValueError) as error:
        raise UsageError(f"{pattern!r} is not a regular expression: {error}", expected=_EXPECTED) from None


def fitting(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """The names that the pattern fits from start to end. ``UsageError`` where that takes more than a second."""
    ready, begin = compiled(pattern), process_time()
    found = set()
    for name in names:
        try:
            left = max(_LIMIT_S - (process_time() - begin), _SHORTEST_S)
            if ready.fullmatch(name, timeout=left) is not None:
                found.add(name)
        except (TimeoutError, MemoryError):
            raise UsageError(
                f"the regular expression {pattern!r} takes too much time or memory for {name!r}",
                expected="a pattern without nested repetitions such as (a*)*",
                remedy="name blocks and layers plainly, such as 'frame_blocks.1' or '.*mlp.fc2'",
            ) from None
    return frozenset(found)
