"""``validate`` in a worker, with limits of time and memory: the graph of a foreign bundle may never end."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from vggt_edge.devices.errors import ResourceError, ToolchainError, UsageError, VggtEdgeError
from vggt_edge.exporter.machine.progress import format_duration
from vggt_edge.exporter.settings import TIME_LIMIT_S
from vggt_edge.exporter.validation import ValidationReport
from vggt_edge.runtimes.common.memory import available_memory_bytes
from vggt_edge.runtimes.common.process import Ending, Outcome, run_worker, worker

_WORKER = "vggt_edge.exporter._validate_worker"


def validate(
    bundle: Path,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    memory_limit_bytes: int | None = None,
    log_level: str = "warning",
    as_json: bool = False,
    **options: str | Path | None,
) -> ValidationReport:
    """``rerun.validate`` with its ``options``, whose errors it raises; progress goes to stderr.

    memory_limit_bytes: by default what is available now. as_json: progress as events. ``ResourceError`` beyond a limit,
    ``ToolchainError`` where native code crashes.
    """
    if not time_limit_s > 0:
        raise UsageError(f"a time limit of {time_limit_s:g} s", where="--time-limit", expected="more than 0 seconds")
    limit_bytes = available_memory_bytes() if memory_limit_bytes is None else memory_limit_bytes
    given: dict[str, str | bool] = {"bundle": str(bundle), "log_level": log_level, "as_json": as_json}
    given |= {name: str(value) for name, value in options.items() if value is not None}
    with tempfile.TemporaryDirectory(prefix="vggt-edge-validate-") as folder:  # a worker that is killed leaves files
        outcome = run_worker(
            worker(_WORKER, json.dumps(given)),
            time_limit_s,
            limit_bytes,
            environment={**os.environ, "TMPDIR": folder},
            shows_errors=True,
        )
    if outcome.answer is None:
        raise _error(outcome, bundle, time_limit_s)
    if raised := outcome.answer.get("raised"):
        raise VggtEdgeError.of(raised)
    return ValidationReport.from_json(outcome.answer["report"])


def _error(outcome: Outcome, bundle: Path, time_limit_s: float) -> VggtEdgeError:
    if outcome.ending is not Ending.NO_TIME:
        remedy = "do not trust a bundle whose origin you do not know; export again"
        return outcome.error("the bundle could not be run", str(bundle), ToolchainError, remedy)
    return ResourceError(
        f"the validation did not end within {format_duration(time_limit_s)}",
        where=str(bundle),
        expected="a graph that ends; the progress above says how far it came",
        remedy="allow more with --time-limit SECONDS, if you trust the bundle",
    )
