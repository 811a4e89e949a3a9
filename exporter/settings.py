"""The declaration of a setting, and parsers of typed values. ``Setting`` annotates a field of a request.

A parser takes what a flag, ``--set`` or a TOML file holds, and raises ``UsageError`` for what it cannot read; where
that was given is added by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vggt_edge.calibration.planning.patterns import compiled
from vggt_edge.devices.errors import UnknownNameError, UsageError
from vggt_edge.devices.units import parse_bytes, parse_ms

Parser = Callable[[object], object]
TIME_LIMIT_S = 12 * 3600  # of a validation: VGGT-1B on two slow cores takes minutes for each scene and runtime
WHAT, BUDGET = "What to export", "Budgets and choices"


@dataclass(frozen=True)
class Setting:
    """The declaration of a setting: flag, key in files and line in ``--help`` come from here.

    - help: text for ``--help``, with unit and default.
    - parse: turns what was typed into the field's value.
    - panel: heading in ``--help``; None for the general one.
    - metavar: placeholder for the value in ``--help``.
    - key: name that people type, where the field's name holds a unit; None for the field's name.
    - flags: further spellings of the flag.
    - has_flag: False for a setting that only ``--set`` and files give.
    - run_only: True for a setting that steers a run and says nothing about the result; a file cannot hold it.
    """

    help: str
    parse: Parser
    panel: str | None = WHAT
    metavar: str | None = None
    key: str | None = None
    flags: tuple[str, ...] = ()
    has_flag: bool = True
    run_only: bool = False


def text(value: object) -> str:
    if not isinstance(value, str | Path):
        raise UsageError(f"{value!r} is not text")
    return str(value)


def path(value: object) -> Path:
    """A TOML file holds bytes that are not UTF-8 as ``to_toml`` wrote them."""
    name = re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), text(value))
    return Path(name).expanduser()


def whole_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UsageError(f"{value!r} is not a whole number")
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"{value!r} is not a whole number") from None


def switch(value: object) -> bool:
    """Read a flag, a TOML boolean, or ``true`` or ``false`` from ``--set``."""
    known = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if str(value) not in known:
        raise UsageError(f"{value!r} is neither true nor false")
    return known[str(value)]


def share(value: object) -> float:
    """``0.02`` and ``"2%"`` are the same."""
    typed = str(value).strip()
    try:
        return float(typed.removesuffix("%")) / (100 if typed.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"{value!r} is not a share", expected="a number such as 0.02, or 2%") from None


def size(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else parse_bytes(text(value))


def duration(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(str(value)) if is_number else parse_ms(text(value))


def resolution(value: object) -> int | tuple[int, int]:
    """``112`` (long side) or ``84x112`` (height x width); lists come from TOML."""
    parts = list(value) if isinstance(value, list | tuple) else str(value).lower().split("x")
    if len(parts) == 1:
        return whole_number(parts[0])
    if len(parts) != 2:
        raise UsageError(f"{value!r} is not a resolution", expected="a long side such as 112, or HxW such as 84x112")
    return whole_number(parts[0]), whole_number(parts[1])


def camera(value: object) -> str:
    """``rgb:1920x1080``: format and size of a camera's frames."""
    from vggt_edge.calibration.scenes.camera import CameraFrames  # brings Pillow

    return CameraFrames.parse(text(value)).text


def listed(value: object) -> tuple[str, ...]:
    """Names of heads; which of them a model has is known once it is open."""
    names = tuple(name.strip() for name in _strings(value, split=",") if name.strip())
    if not names:
        raise UsageError("no outputs were requested", expected="names of heads, such as camera,depth")
    return names


def patterns(value: object) -> tuple[str, ...]:
    found = tuple(_strings(value))
    for pattern in found:
        compiled(pattern)
    return found


def _strings(value: object, split: str = "") -> Iterable[str]:
    if isinstance(value, str):
        return value.split(split) if split else (value,)
    if isinstance(value, list | tuple):
        return tuple(text(item) for item in value)
    raise UsageError(f"{value!r} is neither text nor a list of text")


def one_of(what: str, known: Iterable[str]) -> Parser:
    """A parser of one name out of ``known``; ``UnknownNameError`` names ``what`` and lists them."""
    names = tuple(known)

    def parse(value: object) -> str:
        name = text(value)
        if name not in names:
            raise UnknownNameError(what, name, names)
        return name

    return parse


def some_of(what: str, known: Iterable[str]) -> Parser:
    """A parser of a list of names out of ``known``, each kept once."""
    parse_one = one_of(what, known)

    def parse(value: object) -> tuple[object, ...]:
        return tuple(dict.fromkeys(parse_one(name.strip()) for name in _strings(value, split=",") if name.strip()))

    return parse
