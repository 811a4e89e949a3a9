"""The message of a failed validation: the figures that failed, and advice."""

from __future__ import annotations

from pathlib import Path

from vggt_edge.devices.errors import AccuracyGateError
from vggt_edge.exporter.validation.judge import SIMULATION
from vggt_edge.exporter.validation.rows import FP32, Row, ValidationReport


def gate_error(report: ValidationReport, where: Path, precision: str) -> AccuracyGateError:
    """Names the failed figures; the report at ``where`` shows the rest. precision: that of the request."""
    return AccuracyGateError(
        f"{len(report.failures)} of the accuracy checks failed:\n  " + "\n  ".join(map(_figure, report.failures[:8])),
        where=str(where),
        expected="every figure within the profile's tolerances",
        remedy="; ".join(dict.fromkeys(_advice(row, precision) for row in report.failures)),
    )


def _advice(row: Row, precision: str) -> str:
    """Advice for a failed row: too little precision, a wrong artifact, or a wrong model."""
    if row.subject == FP32:
        return "check the checkpoint and the scenes: the model itself gives nothing usable before any quantization"
    if row.against == SIMULATION:
        return (
            f"{row.subject} computes something else than the plan says, which no other plan mends: "
            "report it with the manifest"
        )
    if precision != "mixed":
        return (
            f"ask for --precision mixed, which gives more bits than {precision} to the blocks that need them, "
            "or --exclude the blocks that the report shows as most sensitive"
        )
    return "read the report; raise --max-memory, --exclude the blocks it shows as most sensitive, or add scenes"


def _figure(row: Row) -> str:
    what = row.reason or f"{row.value:.4g} against a limit of {row.tolerance:.4g}"
    return f"{row.subject} {row.output} {row.metric}: {what}"
