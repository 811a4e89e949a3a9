"""The documents that commands print with ``--json``, and the events that they print meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.exporter.machine.doctor import Finding
from vggt_edge.exporter.machine.estimate import StepEstimate

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The document of ``--json`` after success."""

    result: T
    exit_code: int


@dataclass(frozen=True)
class ErrorText:
    """An error in words. kind: its class, as docs/exit-codes.md lists them."""

    kind: str
    what: str
    where: str
    expected: str
    remedy: str


@dataclass(frozen=True)
class Failure:
    """The document of ``--json`` after a failure."""

    error: ErrorText
    exit_code: int


@dataclass(frozen=True)
class Targets:
    """The document of ``targets --json``."""

    targets: tuple[DeviceProfile, ...]
    exit_code: int


@dataclass(frozen=True)
class Findings:
    """The document of ``doctor --json``."""

    findings: tuple[Finding, ...]
    exit_code: int


@dataclass(frozen=True)
class Needs:
    """An estimate: time, memory and disk, in all and by step."""

    steps: tuple[StepEstimate, ...]
    memory_bytes: int
    disk_bytes: int
    seconds: float
    forward_seconds: float


@dataclass(frozen=True)
class DryRun:
    """The document of ``--dry-run --json``.

    - request: the settings by their names, as in a configuration.
    - would_be_refused: the error that the command would end with; None for none.
    """

    dry_run: Literal[True]
    request: Mapping[str, Any]
    estimate: Needs
    would_be_refused: str | None
    exit_code: int


@dataclass(frozen=True)
class Written:
    """The schemas that ``schemas`` wrote, and their folder."""

    schemas: tuple[str, ...]
    folder: str
    count: int


@dataclass(frozen=True)
class StepStarted:
    """An event: a step begins. total: its units of work; left out where nobody knows."""

    event: Literal["step_started"]
    step: str
    peak_memory_bytes: int
    total: int | None = None


@dataclass(frozen=True)
class StepProgress:
    """An event: a step goes on. done: units of work; total, to_go_seconds: left out where nobody knows."""

    event: Literal["step_progress"]
    step: str
    done: int
    peak_memory_bytes: int
    total: int | None = None
    to_go_seconds: float | None = None


@dataclass(frozen=True)
class StepDone:
    """An event: a step has ended."""

    event: Literal["step_done"]
    step: str
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Note:
    """An event: a line for people."""

    event: Literal["note"]
    text: str
    peak_memory_bytes: int


Event: TypeAlias = StepStarted | StepProgress | StepDone | Note


@dataclass(frozen=True)
class Description:
    """The description of a file or bundle by ``inspect``.

    facts: single values. rows: one table, ``columns`` naming its cells; neither holds arrays. parts: further
    descriptions, each with facts and a table.
    """

    kind: str
    path: str
    facts: Mapping[str, object]
    columns: tuple[str, ...] = ()
    rows: Sequence[tuple[object, ...]] = field(default=())
    parts: tuple[Description, ...] = ()


@dataclass(frozen=True)
class RandomCheckpoint:
    """The file that ``--write-random-checkpoint`` wrote."""

    path: Path
    model: str
    bytes: int
    parameters: int
    seed: int
    random: bool = True
