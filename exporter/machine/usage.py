"""What an export costs: time by step, with the model's own forwards apart, and the most memory it held."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from vggt_edge.calibration.documents import Count, Seconds, read_document

MEASURED = "measured.json"
SCHEMA_VERSION: Literal[1] = 1


@dataclass(frozen=True)
class Timing:
    """One step. forward_seconds: of ``seconds``, what the model's own forward passes took."""

    step: str
    seconds: Seconds
    forward_seconds: Seconds


@dataclass(frozen=True)
class Measured:
    """Seconds and memory of an export. They differ between runs, so they lie in a file that no digest covers.

    peak_memory_bytes: the largest resident size of the exporting process, or of a process that it started.
    timings, checks: of the steps that ran, in order, and what the checks of each lowering measured, by backend and by
    the check's name. What was taken from an earlier run is missing.
    """

    peak_memory_bytes: Count
    timings: tuple[Timing, ...] = ()
    checks: Mapping[str, Mapping[str, Mapping[str, float | int | str]]] = field(default_factory=dict)
    schema_version: Literal[1] = SCHEMA_VERSION

    @property
    def seconds(self) -> float:
        return sum(timing.seconds for timing in self.timings)

    @property
    def forward_seconds(self) -> float:
        return sum(timing.forward_seconds for timing in self.timings)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: bytes, *, where: str = MEASURED) -> Measured:
        """Read it back; ``InputError`` says which field is wrong."""
        return read_document(
            cls, text, what="what an export measured", where=where, expected="the file that `vggt-edge export` writes"
        )


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
