"""The section of a report about real devices; it joins the page of an export after that is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vggt_edge.devices.units import format_bytes
from vggt_edge.exporter.device_report import DeviceReport, OutputResult
from vggt_edge.exporter.machine.progress import format_duration
from vggt_edge.exporter.pages import Table, environment, number

#: Where the template leaves room; reports of earlier versions have no such marks.
MARK, NAV_MARK = "<!-- devices -->", "<!-- link to devices -->"
_STATES = {"passed": "passed", "failed": "failed", "not_judged": "not judged", "not_run": "not run"}
_PRECISIONS = {"realised": "as planned", "not_realised": "lost", "unknown": "not proven"}


@dataclass(frozen=True)
class Rails:
    """What a board measured of itself during the run, by sensor and by rail; powers in mW."""

    celsius: Mapping[str, float]
    milliwatts: Mapping[str, int]
    mean_milliwatts: Mapping[str, float]
    ram_bytes: int
    ram_total_bytes: int
    gpu_percent: int


@dataclass(frozen=True)
class DeviceRun:
    """A run of the kit on one device.

    - title: name of the device; address: as it was deployed to.
    - state: ``passed``, ``failed``, ``not_judged`` or ``not_run``.
    - report: None where the kit wrote none.
    - rails: None where the board has no tegrastats.
    - power_mode: as the board calls it; None: it does not tell.
    - trouble: the error that ended the run; empty for none.
    """

    title: str
    address: str
    state: str
    report: DeviceReport | None
    rails: Rails | None = None
    power_mode: str | None = None
    trouble: str = ""


@dataclass(frozen=True)
class DeviceView:
    """A run made ready for the template: texts only."""

    title: str
    state: str
    state_title: str
    trouble: str
    facts: tuple[tuple[str, str], ...]
    outputs: Table
    precision: Table
    precision_title: str
    precision_ok: bool
    rails: Table


def with_devices(page: str, runs: Sequence[DeviceRun]) -> str:
    """The page of an export with the section about devices."""
    template = environment().get_template("devices.html.jinja")
    section = template.render(devices=[device_view(run) for run in runs], summary=summary(runs))
    link = Markup('<a href="#devices">Devices</a>')
    if MARK not in page:
        return page.replace("</main>", f"{section}</main>", 1)
    return page.replace(NAV_MARK, link, 1).replace(MARK, section, 1)


def summary(runs: Sequence[DeviceRun]) -> Table:
    """One row per device."""
    return Table(
        ("Device", "Status", "Model", "Runtime", "Median ms", "Memory", "Hottest", "Power mode", "Worst output"),
        tuple(_summary_row(run) for run in runs),
        tuple(_status(run) for run in runs),
    )


def _status(run: DeviceRun) -> str:
    return "info" if run.state == "not_judged" else run.state


def _summary_row(run: DeviceRun) -> tuple[str, ...]:
    report = run.report
    if report is None:
        return (run.title, _STATES[run.state], "-", "-", "-", "-", _hottest(run), run.power_mode or "-", "-")
    return (
        run.title,
        _STATES[run.state],
        report.device.model or "-",
        f"{report.runtime.name} {report.runtime.version}",
        number(report.median_ms),
        "-" if report.memory_bytes.value is None else format_bytes(report.memory_bytes.value),
        _hottest(run),
        run.power_mode or "-",
        _worst(report.worst),
    )


def _hottest(run: DeviceRun) -> str:
    if run.rails is not None and run.rails.celsius:
        name, degrees = max(run.rails.celsius.items(), key=lambda entry: entry[1])
        return f"{name} {degrees:.1f} C"
    return (run.report.thermal.after if run.report else None) or "-"


def _worst(output: OutputResult | None) -> str:
    if output is None:
        return "-"
    if output.against_simulation is None:
        return f"{output.output}: NaN or infinity"
    return f"{output.output}: {output.against_simulation.sqnr_db:.1f} dB"


def device_view(run: DeviceRun) -> DeviceView:
    """The texts of one device."""
    report = run.report
    blocks = report.precision if report else ()
    lost = sum(block.status != "realised" for block in blocks)
    return DeviceView(
        title=run.address,
        state=_status(run),
        state_title=_STATES[run.state],
        trouble=run.trouble,
        facts=tuple((name, text) for name, text in _facts(run) if text) if report else (),
        outputs=_outputs(report) if report else Table((), ()),
        precision=Table(
            ("Block", "Asked", "Seen in the engine", "Status"),
            tuple((block.block, block.asked, _counts(block.counts), _PRECISIONS[block.status]) for block in blocks),
            tuple({"realised": "passed", "not_realised": "failed"}.get(block.status, "info") for block in blocks),
        ),
        precision_title=f"Realised precision: {len(blocks) - lost} of {len(blocks)} blocks proven as planned",
        precision_ok=not any(block.status == "not_realised" for block in blocks),
        rails=_rails(run.rails) if run.rails else Table((), ()),
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())) or "-"


def _facts(run: DeviceRun) -> tuple[tuple[str, str], ...]:
    report, rails = run.report, run.rails
    assert report is not None
    measured, engine = report.timings_ms.measured, report.engine
    latency = f"median {number(measured.median)}, p90 {number(measured.p90)}, {measured.count} runs" if measured else ""
    if not latency and report.times:
        latency = f"mean {number(report.times.mean_ms)}, {report.times.runs} runs"
    gpu = f"median {number(report.gpu_ms.median)}, p90 {number(report.gpu_ms.p90)}" if report.gpu_ms else ""
    memory, thermal = report.memory_bytes, report.thermal
    return (
        ("Model", report.device.model or ""),
        ("System", report.device.system or ""),
        ("Runtime", f"{report.runtime.name} {report.runtime.version}"),
        ("Latency, ms", latency),
        ("Latency by the GPU's clock, ms", gpu),
        ("First prediction, ms", _maybe(report.timings_ms.first_prediction)),
        ("Engine", f"{format_bytes(engine.bytes)}, built in {format_duration(engine.build_s)}" if engine else ""),
        ("Weights packed", engine.weights_packed if engine else ""),
        ("Memory of the process", f"{format_bytes(memory.value)} ({memory.how})" if memory.value is not None else ""),
        ("Memory on the GPU", format_bytes(report.gpu_memory_bytes) if report.gpu_memory_bytes is not None else ""),
        ("Memory of the board in use", _board_memory(rails) if rails else ""),
        ("Load of the GPU, at most", f"{rails.gpu_percent} %" if rails else ""),
        ("Power mode", run.power_mode or ""),
        ("Thermal state", f"{thermal.before or '-'} before, {thermal.after or '-'} after" if thermal.after else ""),
        ("Runs unlike the first", str(report.runs_unlike_first)),
    )


def _board_memory(rails: Rails) -> str:
    return f"{format_bytes(rails.ram_bytes)} of {format_bytes(rails.ram_total_bytes)}"


def _maybe(value: float | None) -> str:
    return "" if value is None else number(value)


def _outputs(report: DeviceReport) -> Table:
    rows = []
    for entry in report.outputs:
        ours, fp32, pose = entry.against_simulation, entry.against_fp32, entry.pose
        rows.append(
            (
                entry.output,
                f"{ours.sqnr_db:.2f}" if ours else "NaN or infinity",
                number(entry.sqnr_db_min),
                number(ours.max_abs if ours else None),
                number(ours.cosine if ours else None),
                f"{fp32.sqnr_db:.2f}" if fp32 else "-",
                f"{number(pose.rotation_degrees)} / {number(pose.translation_degrees)}" if pose else "-",
                _STATES[entry.status],
            )
        )
    columns = (
        "Output", "SQNR against the simulation (dB)", "At least", "max |error|", "cosine", "SQNR against FP32 (dB)",
        "Rotation / translation (deg)", "Status",
    )  # fmt: skip
    states = tuple("info" if entry.status == "not_judged" else entry.status for entry in report.outputs)
    return Table(columns, tuple(rows), states)


def _rails(rails: Rails) -> Table:
    heat = [(name, f"{degrees:.1f} C", "") for name, degrees in sorted(rails.celsius.items())]
    power = [
        (name, f"{highest / 1000:.2f} W", f"{rails.mean_milliwatts[name] / 1000:.2f} W")
        for name, highest in sorted(rails.milliwatts.items())
    ]
    return Table(("Sensor or rail", "Highest", "Mean"), tuple(heat + power))
