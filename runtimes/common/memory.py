"""Memory that this process has freed and still holds."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back_memory() -> None:
    """Return it to the system: programs refer to themselves, and glibc keeps what they free."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
