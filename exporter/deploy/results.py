"""What a deployment leaves behind: a folder of results with a report, a document for ``--json``, a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from vggt_edge.calibration.scenes.names import printable
from vggt_edge.devices.units import format_bytes
from vggt_edge.exporter.bundle import REPORT, Manifest
from vggt_edge.exporter.deploy.address import SshAddress
from vggt_edge.exporter.deploy.files import Transfer
from vggt_edge.exporter.deploy.outcome import Attempt, State
from vggt_edge.exporter.deploy.page import DeviceRun, Rails, with_devices
from vggt_edge.exporter.deploy.tegrastats import Telemetry
from vggt_edge.exporter.device_report import DeviceReport
from vggt_edge.exporter.device_result import RESULT
from vggt_edge.exporter.steps.cache import check_free
from vggt_edge.runtimes.common.files import aside

DOCUMENT, LOG = "deploy.json", "kit.log"
COLUMNS = ("device", "status", "code", "model", "runtime", "median ms", "memory", "hottest", "power mode", "note")


@dataclass(frozen=True)
class BoardFacts:
    """A board before the run; ``folder``: where the kit lies. None: it does not tell, or lacks the module."""

    model: str | None
    system: str | None
    python: str
    modules: Mapping[str, str | None]
    power_mode: str | None
    free_bytes: int
    folder: str


@dataclass(frozen=True)
class DeviceAnswer:
    """One device.

    - to: the address; label: its name in tables, and of its folder.
    - board: over SSH alone; None where it was not reached.
    - result: what the kit wrote, as far as the report shows it; None where it wrote nothing.
    """

    to: str
    label: str
    status: State
    exit_code: int
    error: Mapping[str, str] | None
    board: BoardFacts | None
    to_send_bytes: int | None
    transfer: Transfer | None
    telemetry: Telemetry | None
    result: DeviceReport | None


@dataclass(frozen=True)
class Deployed:
    """The document of a deployment. output, report: None where no device gave a result."""

    bundle: Path
    target: str
    plan_digest: str | None
    dry_run: bool
    output: Path | None
    report: Path | None
    devices: tuple[DeviceAnswer, ...]
    schema_version: Literal[1] = 1


def write_results(output: Path, bundle: Path, attempts: Sequence[Attempt], document: object) -> None:
    """A new folder: the bundle's report with the devices in it, the document, and for each device result and log.

    document: plain JSON values.
    """
    page = with_devices((bundle / REPORT).read_text(encoding="utf-8"), [device_run(each) for each in attempts])
    with aside(output) as scratch:
        scratch.mkdir()
        (scratch / REPORT).write_text(page, encoding="utf-8")
        (scratch / DOCUMENT).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
        for attempt in attempts:
            folder = scratch / attempt.address.label
            folder.mkdir()
            if attempt.result:
                (folder / RESULT).write_bytes(attempt.result)
            (folder / LOG).write_text("".join(f"{printable(line)}\n" for line in attempt.log), encoding="utf-8")
        check_free(output)


def device_run(attempt: Attempt) -> DeviceRun:
    """The attempt as the report shows it."""
    seen = attempt.telemetry
    rails = None if seen is None else Rails(**{field.name: getattr(seen, field.name) for field in fields(Rails)})
    return DeviceRun(
        title=attempt.address.label,
        address=attempt.address.text,
        state=attempt.state,
        report=attempt.report,
        rails=rails,
        power_mode=attempt.survey.power_mode if attempt.survey else None,
        trouble=attempt.error.what if attempt.error else "",
    )


def answer_of(
    bundle: Path, manifest: Manifest, attempts: Sequence[Attempt], output: Path | None, *, dry_run: bool
) -> Deployed:
    """What ``--json`` prints as ``result``. output: the folder of results; None where there is none."""
    return Deployed(
        bundle=bundle,
        target=manifest.target,
        plan_digest=manifest.digests.get("plan"),
        dry_run=dry_run,
        output=output,
        report=output / REPORT if output else None,
        devices=tuple(map(_device, attempts)),
    )


def _device(attempt: Attempt) -> DeviceAnswer:
    seen = attempt.survey
    facts = None if seen is None else {field.name: getattr(seen, field.name) for field in fields(BoardFacts)}
    return DeviceAnswer(
        to=attempt.address.text,
        label=attempt.address.label,
        status=attempt.state,
        exit_code=attempt.exit_code,
        error=attempt.error.fields if attempt.error else None,
        board=BoardFacts(**facts) if facts else None,
        to_send_bytes=attempt.to_send_bytes,
        transfer=attempt.transfer,
        telemetry=attempt.telemetry,
        result=attempt.report,
    )


def table_rows(attempts: Sequence[Attempt]) -> list[tuple[object, ...]]:
    """One row of ``COLUMNS`` per device."""
    return [_row(attempt) for attempt in attempts]


def _row(attempt: Attempt) -> tuple[object, ...]:
    report, survey = attempt.report, attempt.survey
    note = attempt.error.what.partition("\n")[0] if attempt.error else _note(attempt)
    model = report.device.model if report else survey.model if survey else None
    median, memory = (report.median_ms, report.memory_bytes.value) if report else (None, None)
    return (
        attempt.address.label,
        attempt.state,
        attempt.exit_code,
        model or "-",
        f"{report.runtime.name} {report.runtime.version}" if report else "-",
        "-" if median is None else f"{median:.3f}",
        "-" if memory is None else format_bytes(memory),
        _hottest(attempt.telemetry),
        survey.power_mode if survey and survey.power_mode else "-",
        note or "-",
    )


def _hottest(telemetry: Telemetry | None) -> str:
    if telemetry is None or telemetry.hottest is None:
        return "-"
    name, degrees = telemetry.hottest
    return f"{name} {degrees:.1f} C"


def _note(attempt: Attempt) -> str:
    """What was sent; before a run, what would be."""
    if (done := attempt.transfer) is not None:
        return f"sent {format_bytes(done.sent_bytes)}, {format_bytes(done.kept_bytes)} were there"
    if attempt.to_send_bytes is not None and isinstance(attempt.address, SshAddress):
        return f"would send {format_bytes(attempt.to_send_bytes)}"
    return ""
