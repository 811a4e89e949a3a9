"""Checked reading of a TOML table: every value has a type and a range, and a key that nobody asked for is an error."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from vggt_edge.devices.errors import InputError, UsageError
from vggt_edge.devices.units import parse_bytes

NAME = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")


class Table:
    """One table of a TOML file. Read every key, then call ``done``.

    Errors name the file, the key and what belongs there.
    """

    def __init__(self, raw: Mapping[str, Any], file: str, prefix: str = "") -> None:
        self._raw = raw
        self._file = file
        self._prefix = prefix
        self._read: set[str] = set()

    def fail(self, key: str, problem: str, expected: str) -> NoReturn:
        """Raise the ``InputError`` that names the key and the file."""
        raise InputError(f"key {self._prefix}{key}: {problem}", where=self._file, expected=expected)

    def _value(self, key: str, expected: str) -> Any:
        self._read.add(key)
        if key not in self._raw:
            self.fail(key, "is missing", expected)
        return self._raw[key]

    def has(self, key: str) -> bool:
        """Whether the table has the key."""
        return key in self._raw

    def names(self) -> tuple[str, ...]:
        """The keys of the table."""
        return tuple(self._raw)

    def text(self, key: str, expected: str = "a line of text", pattern: str = r"\S(.*\S)?") -> str:
        """A text that the pattern matches from start to end."""
        value = self._value(key, expected)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            self.fail(key, f"{value!r} does not fit", expected)
        return value

    def name(self, key: str) -> str:
        """A name of lower-case letters, digits, ``-``, ``_`` and ``.``."""
        return self.text(key, "a name of lower-case letters, digits, - _ and .", NAME.pattern)

    def choice(self, key: str, options: tuple[str, ...]) -> str:
        """One of the given texts."""
        expected = f"one of: {', '.join(options)}"
        value = self._value(key, expected)
        if value not in options:
            near = did_you_mean(value, options) if isinstance(value, str) else ""
            self.fail(key, f"{value!r} does not fit", expected + near)
        return str(value)

    def integer(self, key: str, *, at_least: int = 1, at_most: int = 10**15) -> int:
        """A whole number within the limits."""
        expected = f"a whole number from {at_least} to {at_most}"
        value = self._value(key, expected)
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= at_most:
            self.fail(key, f"{value!r} does not fit", expected)
        return value

    def number(
        self, key: str, *, above: float = -math.inf, at_least: float = -math.inf, at_most: float = 1e21
    ) -> float:
        """A finite number in the range; ``above`` is exclusive."""
        low = f"above {above:g}" if above > -math.inf else f"of at least {at_least:g}"
        expected = f"a number {low} and at most {at_most:g}"
        value = self._value(key, expected)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            self.fail(key, f"{value!r} does not fit", expected)
        if value <= above or not at_least <= value <= at_most:
            self.fail(key, f"{value!r} is out of range", expected)
        return float(value)

    def size(self, key: str) -> int:
        """Bytes, written as a whole number or with a unit."""
        if not isinstance(self._raw.get(key), str):
            return self.integer(key)
        self._read.add(key)
        try:
            return parse_bytes(self._raw[key])
        except UsageError as error:
            self.fail(key, error.what, error.expected)

    def texts(self, key: str, *, names: bool = False) -> tuple[str, ...]:
        """A list of distinct strings; of names if asked for."""
        expected = "a list of distinct names" if names else "a list of distinct lines of text"
        value = self._value(key, expected)
        pattern = NAME if names else re.compile(r"\S(.*\S)?")
        if not isinstance(value, list) or not all(isinstance(item, str) and pattern.fullmatch(item) for item in value):
            self.fail(key, f"{value!r} does not fit", expected)
        if len(set(value)) < len(value):
            self.fail(key, f"{value!r} repeats itself", expected)
        return tuple(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of distinct whole numbers above zero."""
        expected = "a list of distinct whole numbers above zero"
        value = self._value(key, expected)
        if not isinstance(value, list) or not all(type(item) is int and item > 0 for item in value):
            self.fail(key, f"{value!r} does not fit", expected)
        if len(set(value)) < len(value):
            self.fail(key, f"{value!r} repeats itself", expected)
        return tuple(value)

    def table(self, key: str) -> Table:
        """A table inside this one."""
        expected = f"a table [{self._prefix}{key}]"
        value = self._value(key, expected)
        if not isinstance(value, dict):
            self.fail(key, f"{value!r} does not fit", expected)
        return Table(value, self._file, f"{self._prefix}{key}.")

    def tables(self, key: str) -> tuple[Table, ...]:
        """A list of tables inside this one."""
        expected = f"tables [[{self._prefix}{key}]]"
        value = self._value(key, expected)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fail(key, f"{value!r} does not fit", expected)
        return tuple(Table(item, self._file, f"{self._prefix}{key}[{index}].") for index, item in enumerate(value))

    def done(self, optional: Iterable[str] = ()) -> None:
        """Raise ``InputError`` for the first key that was never read. ``optional``: known keys that may be absent."""
        known = self._read | set(optional)
        for key in sorted(set(self._raw) - known):
            self.fail(key, "is unknown", f"one of: {', '.join(sorted(known))}{did_you_mean(key, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing if no known name is near."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
