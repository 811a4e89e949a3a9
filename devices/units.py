"""Sizes and times as people write them on a command line or in a profile: ``12MB``, ``1.5GiB``, ``35ms``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from vggt_edge.devices.errors import UsageError

_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_QUANTITY = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]+)\s*", re.ASCII)


def parse_bytes(text: str, *, where: str = "") -> int:
    """A size in bytes, rounded down. kB, MB, GB, TB are powers of 1000, KiB to TiB of 1024; case does not count.

    Raises ``UsageError`` for anything else, a bare number and zero included.
    """
    amount = math.floor(_parse(text, _BYTES, where, "a size above zero with its unit, such as 12MB, 1.5GiB or 800kB"))
    if amount < 1:
        raise UsageError(f"{text!r} is less than one byte", where=where, expected="a size of at least 1B")
    return amount


def parse_ms(text: str, *, where: str = "") -> float:
    """A time in milliseconds from ``800us``, ``35ms`` or ``1.2s``. Raises ``UsageError`` for anything else."""
    return _parse(text, _MILLISECONDS, where, "a time above zero with its unit, such as 35ms, 800us or 1.2s")


def _parse(text: str, units: Mapping[str, float], where: str, expected: str) -> float:
    match = _QUANTITY.fullmatch(text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None or float(match[1]) == 0:
        raise UsageError(f"cannot read {text!r}", where=where, expected=expected)
    return float(match[1]) * factor


def format_bytes(count: float) -> str:
    """Bytes for people, in powers of 1024: ``96.0 KiB``. Whole bytes below 1 KiB."""
    if abs(count) < 1024:
        return f"{count:.0f} B"
    scaled = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        scaled /= 1024
        if abs(scaled) < 1024:
            return f"{scaled:.1f} {unit}"
    return f"{scaled / 1024:.1f} TiB"
