"""How to deploy, the same for every device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

#: Takes a line for the person who waits.
Say: TypeAlias = Callable[[str], None]

TIME_LIMIT_S = 7200.0
LONGEST_FILE = 4 << 20  # of a result.json, which has some ten kilobytes


class KitLanguage(StrEnum):
    """Which kit a board runs; the one in C++ is compiled there first."""

    PYTHON = "python"
    CPP = "cpp"


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    - host_keys: fingerprints of boards that known_hosts does not list.
    - time_limit_s: for the kit on each device.
    - runs: measured predictions; None: the kit's own number.
    - kit: the language of the kit that runs on boards, ``python`` or ``cpp``.
    - key: file with the public key that kits on boards check the bundle with; None: they check nothing.
    - min_release: the smallest signed release that they accept; goes with ``key``.
    - runner: the ``executor_runner`` for adb.
    - dry_run: look and tell, but change nothing.
    """

    host_keys: frozenset[str] = frozenset()
    time_limit_s: float = TIME_LIMIT_S
    runs: int | None = None
    kit: KitLanguage = KitLanguage.PYTHON
    key: Path | None = None
    min_release: int | None = None
    runner: Path | None = None
    dry_run: bool = False
