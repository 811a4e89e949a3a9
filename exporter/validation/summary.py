"""A validation in a few lines: what was judged, and what came nearest to its limit."""

from __future__ import annotations

from collections.abc import Iterator

from vggt_edge.exporter.validation.rows import Row, Status, ValidationReport

_SHOWN_SCENES = 3


def summary(report: ValidationReport) -> Iterator[tuple[str, str]]:
    """(name, text) of each line: status, scenes, and each subject."""
    yield "status", report.status.value
    names = ", ".join(report.scenes[:_SHOWN_SCENES])
    yield "scenes", f"{len(report.scenes)}: {names}{' ..' if len(report.scenes) > _SHOWN_SCENES else ''}"
    for subject in report.subjects:
        yield subject, _subject(report, subject)


def _subject(report: ValidationReport, subject: str) -> str:
    rows = report.of(subject)
    gated = [row for row in rows if row.value is not None and row.tolerance is not None]
    held = sum(row.status is Status.PASSED for row in rows)
    status = report.status_of(subject).value
    if not gated:
        return f"{status}: {next((row.reason for row in rows if row.reason), f'{held} checks held')}"
    worst = max(gated, key=_share_of_limit)
    against = f" against {worst.against.replace('_', ' ')}" if worst.against else ""
    nearest = f"{worst.output} {worst.metric}{against} {worst.value:.4g} (limit {worst.tolerance:.4g})"
    return f"{status}, {held} checks held; nearest to its limit: {nearest}"


def _share_of_limit(row: Row) -> float:
    """1 at the limit, more beyond it."""
    assert row.value is not None
    assert row.tolerance is not None
    if row.is_floor:
        return row.tolerance / row.value if row.value > 0 else float("inf")
    return row.value / row.tolerance if row.tolerance else row.value
