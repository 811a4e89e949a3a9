"""Memory that processes hold, and can still take."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

import psutil

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def give_back_memory() -> None:
    """Return freed memory to the system: programs refer to themselves, and glibc keeps what they free."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def held_bytes(process: int) -> int:
    """Memory that a process and its children hold, without pages of mapped files, which the system can drop.

    process: its number. 0 once it is gone.
    """
    held = 0
    with suppress(psutil.Error):
        parent = psutil.Process(process)
        for one in (parent, *parent.children(recursive=True)):
            memory = one.memory_info()
            held += int(memory.rss - getattr(memory, "shared", 0))
    return held


def available_memory_bytes(group: Path = _CONTROL_GROUP) -> int:
    """Memory that a process can still take: on the machine, or in its control group (v2) where that is less."""
    available = int(psutil.virtual_memory().available)
    left = _left_in_group(group)
    return available if left is None else min(available, left)


def _left_in_group(group: Path) -> int | None:
    """None without a control group, and for one without a limit ("max")."""
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Cached files count as used, but make room for whoever asks.
    cached = sum(int(counts.get(name, 0)) for name in ("active_file", "inactive_file"))
    return max(limit - used + cached, 0)
