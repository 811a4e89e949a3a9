"""What a validation says: frozen rows, each one figure with its tolerance and status, and their JSON form."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Literal

from vggt_edge.calibration.documents import Finite, read_document
from vggt_edge.devices.errors import InputError

SCHEMA_VERSION: Literal[1] = 1
FP32 = "fp32"
ALL = "all"  # in the place of an output: the subject as a whole


class Status(StrEnum):
    """``info``: a figure that no tolerance gates. ``not_run`` is never a pass: its row says what was missing."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not_run"
    INFO = "info"


@dataclass(frozen=True)
class Row:
    """One figure of one subject.

    subject: ``fp32``, ``simulation``, or the name of a backend. output: the tensor or pair of heads it is about.
    against: ``ground_truth``, ``fp32`` or ``simulation``; "" for a check that compares with nothing.
    tolerance_key: the field of ``devices.profile.Tolerances`` that gates it; its suffix says which way.
    """

    subject: str
    output: str
    metric: str
    against: str
    status: Status
    value: Finite | None = None
    tolerance: Finite | None = None
    tolerance_key: str = ""
    reason: str = ""

    @property
    def is_floor(self) -> bool:
        """Whether the tolerance is the least value that passes; otherwise it is the largest."""
        return self.tolerance_key.endswith("_min")

    def judged(self, value: float, limit: float | None, *, is_floor: bool) -> Row:
        """The row with a value and its status by ``limit``; without a limit it is not run."""
        row = replace(self, value=value)
        if limit is None:
            return replace(row, status=Status.NOT_RUN, reason="the device profile sets no tolerance")
        passes = value >= limit if is_floor else value <= limit
        return replace(row, tolerance=limit, status=Status.PASSED if passes else Status.FAILED)

    @property
    def is_of_an_output(self) -> bool:
        """Whether it is about one output of something other than FP32."""
        return self.subject != FP32 and self.output != ALL


@dataclass(frozen=True)
class ValidationReport:
    """``scenes``: the names of all; ``ground_truth_scenes``: of those with ground truth. Rows in a stable order.

    notes: what the user should know of how the scenes were read.
    """

    scenes: tuple[str, ...]
    ground_truth_scenes: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    schema_version: Literal[1] = SCHEMA_VERSION

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.subject for row in self.rows))

    @property
    def status(self) -> Status:
        """``failed`` if any row failed; ``passed`` if a gate held for every output of every subject but FP32.

        Else ``not_run``: that FP32 is sound, or that another output holds, says nothing about an output without a gate.
        """
        if self.failures:
            return Status.FAILED
        if self.ungated:
            return Status.NOT_RUN
        return overall(tuple(row for row in self.rows if row.subject != FP32))

    @property
    def ungated(self) -> tuple[tuple[str, str], ...]:
        """(subject, output) of every output that was computed and that no gate has judged."""
        seen = dict.fromkeys((row.subject, row.output) for row in self.rows if row.is_of_an_output)
        judged = {(row.subject, row.output) for row in self.rows if row.status in (Status.PASSED, Status.FAILED)}
        return tuple(pair for pair in seen if pair not in judged)

    def status_of(self, subject: str) -> Status:
        return overall(self.of(subject))

    def of(self, subject: str) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.subject == subject)

    @property
    def failures(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.status is Status.FAILED)

    def to_json(self) -> str:
        """Canonical; holds ``status`` for readers that look at nothing else."""
        document = {**asdict(self), "status": self.status}
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "validation.json") -> ValidationReport:
        """Read a report back; ``InputError`` says what is wrong with it."""
        expected = f"a report of schema version {SCHEMA_VERSION}, as `vggt-edge validate` writes it"
        stored = read_document(StoredReport, text, what="a validation report", where=where, expected=expected)
        report = cls(stored.scenes, stored.ground_truth_scenes, stored.rows, stored.notes)
        if stored.status is not report.status:
            raise InputError(
                f"not a validation report: status: {stored.status.value!r}, but its rows say {report.status.value!r}",
                where=where,
                expected=expected,
            )
        return report


@dataclass(frozen=True)
class StoredReport:
    """What ``validation.json`` holds."""

    scenes: tuple[str, ...]
    ground_truth_scenes: tuple[str, ...]
    rows: tuple[Row, ...]
    schema_version: Literal[1]
    status: Status
    notes: tuple[str, ...] = ()


def overall(rows: tuple[Row, ...]) -> Status:
    """``failed`` if any row failed, else ``passed`` if any passed, else ``not_run``."""
    seen = {row.status for row in rows}
    return next((status for status in (Status.FAILED, Status.PASSED) if status in seen), Status.NOT_RUN)
