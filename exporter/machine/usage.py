"""What an export costs: time by step, with the model's own forwards apart, and the most memory it held."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from vggt_edge.calibration.documents import Seconds


@dataclass(frozen=True)
class Timing:
    """One step. forward_seconds: of ``seconds``, what the model's own forward passes took."""

    step: str
    seconds: Seconds
    forward_seconds: Seconds


def peak_memory_bytes() -> int:
    """The largest resident size so far of this process or of a child that has ended; 0 where the system does not tell.

    Pages of mapped files count as long as they are resident.
    """
    try:
        import resource
    except ImportError:  # Windows
        return 0
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(own, child) * (1 if sys.platform == "darwin" else 1024)
