"""What the template shows, made ready: texts, not figures, so that the template decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.devices.units import format_bytes
from vggt_edge.exporter.lowered import REST
from vggt_edge.exporter.machine.runtimes import JudgedWith
from vggt_edge.exporter.pages import Table, number
from vggt_edge.exporter.report.charts import SCHEME_COLORS
from vggt_edge.exporter.report.data import FP16_BYTES, FP32_BYTES, Budget, ComponentSize, ReportData, component_of
from vggt_edge.exporter.validation import Row, Status, ValidationReport
from vggt_edge.exporter.validation.rows import ALL, FP32
from vggt_edge.runtimes.base import Lowered, Realised
from vggt_edge.runtimes.onnxruntime import OnnxRuntime
from vggt_edge.runtimes.registry import backend, subject_titles

METRIC_TITLES = {
    "auc30": "AUC@30",
    "auc15": "AUC@15",
    "auc5": "AUC@5",
    "auc3": "AUC@3",
    "abs_rel": "AbsRel",
    "rmse": "RMSE",
    "delta125": "delta < 1.25",
    "accuracy": "accuracy",
    "completeness": "completeness",
    "normal_consistency": "normal consistency",
    "cross_head": "cross-head distance",
    "relative_error": "relative error",
    "auc30_drop": "AUC@30 drop",
    "abs_rel_increase": "AbsRel increase",
    "delta125_drop": "delta < 1.25 drop",
    "sqnr_db": "SQNR (dB)",
    "cosine": "cosine",
    "max_abs": "max |error|",
    "p99_abs": "p99 |error|",
    "max_rel": "max relative",
    "p99_rel": "p99 relative",
    "scale_error": "scale error",
    "focal_error": "focal length error",
    "finite_share": "finite values",
    "relative_spread": "relative spread",
}
DRIFT_METRICS = ("cosine", "sqnr_db", "max_abs", "p99_abs", "max_rel", "p99_rel")
ALL_OUTPUTS = "all outputs"
NO_TITLES: Mapping[str, str] = MappingProxyType({})
AGAINST_TITLES = {"ground_truth": "ground truth", "fp32": "FP32", "simulation": "simulation", "": "itself"}
SUBJECT_TITLES = {FP32: "FP32", "simulation": "Simulation"}
_COMPUTED_TITLES = {"passed": "as asked", "failed": "differs", "unknown": "not proven"}
STATUS_TITLES = {"passed": "passed", "failed": "failed", "not_run": "not run", "info": "info"}
_HEADLINES = {
    Status.PASSED: ("Passed", "Every accuracy gate that could run here holds."),
    Status.FAILED: ("Failed", "At least one accuracy gate is broken: do not deploy this bundle."),
    Status.NOT_RUN: ("Not validated", "No accuracy gate has run: this bundle is unproven."),
}


@dataclass(frozen=True)
class Verdict:
    """The sentence at the top of the report."""

    status: str
    title: str
    text: str
    subjects: tuple[tuple[str, str, str], ...]
    """(name, status, why)."""


@dataclass(frozen=True)
class Card:
    """One figure in large type, with a title and a note."""

    title: str
    value: str
    note: str


@dataclass(frozen=True)
class Cell:
    """One block in the map of precisions."""

    label: str
    scheme: str
    color: str
    tip: tuple[str, ...]
    departed: bool
    """The artifact holds something else than the plan asks for."""


@dataclass(frozen=True)
class MapRow:
    """One row of the map of precisions: a part of the model."""

    title: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class SizeRow:
    """One row of the table of sizes."""

    title: str
    parameters: str
    fp32: str
    fp16: str
    ours: str
    ratio: str
    share_percent: float
    error: str


@dataclass(frozen=True)
class BackendView:
    """A backend's artifact: headline, checks, findings. computed: precision in its compiled program, if it has one."""

    title: str
    headline: str
    ok: bool
    checks: Table
    realised: Table
    computed: Table
    findings: Table
    findings_title: str


def verdict(report: ValidationReport | None) -> Verdict:
    """The sentence at the top of the report, from the status and its failures."""
    status = report.status if report else Status.NOT_RUN
    title, text = _HEADLINES[status]
    if report is not None and status is not Status.FAILED and report.ungated:
        pairs = "; ".join(f"{output} of {subject_title(subject)}" for subject, output in report.ungated)
        text = f"No accuracy gate has judged {pairs}: see the table of gates for the reason."
    subjects = []
    for name in report.subjects if report else ():
        assert report is not None
        whole = report.status_of(name)
        rows = [row for row in report.of(name) if row.status is whole and row.reason]
        why = rows[0].reason if rows and whole is not Status.PASSED else ""
        subjects.append((subject_title(name), str(whole), why))
    return Verdict(str(status), title, text, tuple(subjects))


def cards(data: ReportData) -> tuple[Card, ...]:
    """The figures that one wants to see first."""
    found = []
    if data.sizes:
        ours, parameters = sum(size.weight_bytes for size in data.sizes), sum(size.parameters for size in data.sizes)
        ratio = FP32_BYTES * parameters / max(ours, 1)
        found.append(Card("Weights", format_bytes(ours), f"{ratio:.1f}x smaller than FP32"))
    elif data.plan:
        found.append(Card("Weights", format_bytes(data.plan.weight_bytes), "as planned"))
    if data.plan:
        latency = data.plan.predicted_latency_ms
        note = f"not a measurement: cost model of {data.device_chip or data.device_title}"
        found.append(Card("Predicted latency", f"{number(latency)} ms", note))
    if data.validation:
        found += _accuracy_cards(data.validation, [one.subject for one in data.judged_with])
    return tuple(found)


def _accuracy_cards(report: ValidationReport, executors: Iterable[str]) -> list[Card]:
    """AUC and AbsRel of the subject nearest to the device, beside FP32's: the first of the target's own artifact."""
    judged = [name for name in report.subjects if name != FP32 and len(report.of(name)) > 1]
    if not judged:
        return []
    own = [name for name in executors if name in judged and name != OnnxRuntime.name]
    nearest = own[0] if own else judged[-1]
    rows = {(row.subject, row.metric, row.against): row.value for row in report.rows if row.output != ALL}
    found = []
    for metric in ("auc30", "abs_rel"):
        for against in ("ground_truth", "fp32"):
            value = rows.get((nearest, metric, against))
            if value is None:
                continue
            base = rows.get((FP32, metric, against))
            note = f"FP32: {number(base)}" if base is not None else "against FP32"
            title = "Pose AUC@30" if metric == "auc30" else "Depth AbsRel"
            found.append(Card(title, number(value), f"{note} ({subject_title(nearest)})"))
            break
    return found


def plan_map(
    plan: PrecisionPlan, lowered: Iterable[Lowered], titles: Mapping[str, str] = NO_TITLES
) -> tuple[MapRow, ...]:
    """One row per component; those that are a single block share one. titles: of components."""
    departed = {each.block: each for backend in lowered for each in backend.realised if each.asked != each.realised}
    rows: dict[str, list[Cell]] = {}
    for assignment in plan.assignments:
        component = component_of(assignment.block)
        is_single = component == assignment.block
        title = "Heads" if is_single else titles.get(component, component)
        label = component.split("_")[0] if is_single else assignment.block.rsplit(".", 1)[-1]
        rows.setdefault(title, []).append(_cell(assignment, label, departed.get(assignment.block)))
    return tuple(MapRow(title, tuple(cells)) for title, cells in rows.items())


def _cell(assignment: Assignment, label: str, departed: Realised | None) -> Cell:
    tip = [
        assignment.reason,
        f"weights {format_bytes(assignment.weight_bytes)}",
        f"predicted error {number(assignment.predicted_error)}",
        f"predicted latency {number(assignment.predicted_latency_ms)} ms",
    ]
    if assignment.excluded:
        tip.append(f"kept wider than the block: {', '.join(assignment.excluded)}")
    if departed:
        tip.append(f"realised as {departed.realised} ({departed.how})")
    color = SCHEME_COLORS.get(assignment.scheme, "#888888")
    return Cell(label, assignment.scheme, color, (assignment.block, *filter(None, tip)), departed is not None)


def scheme_legend(plan: PrecisionPlan) -> tuple[tuple[str, str, int], ...]:
    """(scheme, colour, number of blocks), in the vocabulary's order."""
    names = [assignment.scheme for assignment in plan.assignments]
    return tuple((name, color, names.count(name)) for name, color in SCHEME_COLORS.items() if name in names)


def size_rows(data: ReportData) -> tuple[SizeRow, ...]:
    """By component, the total last. Errors are the plan's predictions, added up."""
    errors: dict[str, float] = {}
    for assignment in data.plan.assignments if data.plan else ():
        component = component_of(assignment.block)
        errors[component] = errors.get(component, 0.0) + assignment.predicted_error
    total = ComponentSize(
        "total", sum(size.parameters for size in data.sizes), sum(size.weight_bytes for size in data.sizes)
    )
    if data.plan:
        errors["total"] = sum(errors.values())
    titles = data.components
    return tuple(_size_row(size, total, errors.get(size.component), titles) for size in (*data.sizes, total))


def _size_row(size: ComponentSize, total: ComponentSize, error: float | None, titles: Mapping[str, str]) -> SizeRow:
    fp32 = size.parameters * FP32_BYTES
    return SizeRow(
        title=titles.get(size.component, size.component.capitalize()),
        parameters=f"{size.parameters:,}",
        fp32=format_bytes(fp32),
        fp16=format_bytes(size.parameters * FP16_BYTES),
        ours=format_bytes(size.weight_bytes),
        ratio=f"{fp32 / size.weight_bytes:.1f}x" if size.weight_bytes else "-",
        share_percent=round(100 * size.weight_bytes / max(fp32, 1), 1),
        error=number(error),
    )


def budget_lines(budget: Budget | None, plan: PrecisionPlan | None) -> tuple[tuple[str, str], ...]:
    """(sentence, status). The drop is judged by the validation, not here."""
    if budget is None:
        return ()
    lines = []
    if budget.max_memory_bytes is not None and plan:
        ok = plan.weight_bytes <= budget.max_memory_bytes
        text = f"Weights {format_bytes(plan.weight_bytes)} of at most {format_bytes(budget.max_memory_bytes)}"
        lines.append((text, "passed" if ok else "failed"))
    if budget.max_latency_ms is not None and plan:
        ok = plan.predicted_latency_ms <= budget.max_latency_ms
        text = f"Predicted latency {number(plan.predicted_latency_ms)} ms of at most {number(budget.max_latency_ms)} ms"
        lines.append((text, "passed" if ok else "failed"))
    if budget.max_accuracy_drop is not None:
        lines.append((f"Predicted error of at most {number(budget.max_accuracy_drop)} asked for", "info"))
    return tuple(lines)


def judged_lines(judged_with: Iterable[JudgedWith]) -> tuple[tuple[str, str], ...]:
    """(subject, what computed its numbers, and how that differs from the device)."""
    return tuple((subject_title(one.subject), one.text) for one in judged_with)


def gates(report: ValidationReport, titles: Mapping[str, str] = NO_TITLES) -> Table:
    """Every gate, those that did not apply with the reason, and whatever else failed; failures first.

    titles: of outputs.
    """
    rows = [row for row in report.rows if row.status is not Status.INFO]
    rows.sort(key=lambda row: (row.status is not Status.FAILED, row.status is Status.NOT_RUN))
    return Table(
        ("Subject", "Output", "Metric", "Against", "Value", "Tolerance", "Status", "Why"),
        tuple(
            (*_names(row, titles), number(row.value), _tolerance(row), status_title(row), row.reason) for row in rows
        ),
        tuple(str(row.status) for row in rows),
    )


def comparison(report: ValidationReport, titles: Mapping[str, str] = NO_TITLES) -> Table:
    """Geometry side by side: one row per figure, one column per subject, FP32 always among them."""
    subjects = [name for name in report.subjects if len(report.of(name)) > 1]
    rows: dict[tuple[str, str, str], dict[str, float | None]] = {}
    for row in report.rows:
        drift_or_check = row.metric in ("cosine", "sqnr_db", "finite_share", "relative_spread") or (
            "_" in row.metric
            and (row.metric.startswith(("max_", "p99_")) or row.metric.endswith(("_drop", "_increase")))
        )
        if not drift_or_check and row.output != ALL:
            rows.setdefault((row.output, row.metric, row.against), {})[row.subject] = row.value
    return Table(
        ("Output", "Metric", "Against", *map(subject_title, subjects)),
        tuple(
            (
                _output_title(output, titles),
                METRIC_TITLES.get(metric, metric),
                against_title(against),
                *(number(values.get(name)) for name in subjects),
            )
            for (output, metric, against), values in rows.items()
        ),
    )


def drift_table(report: ValidationReport, titles: Mapping[str, str] = NO_TITLES) -> Table:
    """Distance from FP32 per output, one column per subject."""
    rows: dict[tuple[str, str, str], dict[str, float | None]] = {}
    for row in report.rows:
        if row.metric in DRIFT_METRICS:
            rows.setdefault((row.subject, row.against, row.output), {})[row.metric] = row.value
    return Table(
        ("Subject", "Against", "Output", *(METRIC_TITLES[metric] for metric in DRIFT_METRICS)),
        tuple(
            (
                subject_title(subject),
                against_title(against),
                _output_title(output, titles),
                *(number(values.get(metric)) for metric in DRIFT_METRICS),
            )
            for (subject, against, output), values in rows.items()
        ),
    )


def backend_view(lowered: Lowered) -> BackendView:
    """The texts for one backend's section."""
    departed = [each for each in lowered.realised if each.asked != each.realised]
    count = len(lowered.realised)
    headline = (
        f"{len(departed)} of {count} blocks did not get the precision that the plan asks for"
        if departed
        else f"All {count} blocks hold the precision that the plan asks for"
    )
    otherwise = sum(each.status != "passed" for each in lowered.computed)
    if otherwise:
        headline += f"; {otherwise} parts of the model are not proven to be computed as asked"
    return BackendView(
        title=backend(lowered.backend).title,
        headline=headline,
        ok=not departed and all(check.status != "failed" for check in lowered.checks),
        checks=Table(
            ("Check", "Detail", "Figures", "Status"),
            tuple(
                (
                    check.name,
                    check.detail,
                    ", ".join(f"{name} = {_figure(value)}" for name, value in sorted(check.figures.items())),
                    STATUS_TITLES.get(check.status, check.status),
                )
                for check in lowered.checks
            ),
            tuple(check.status for check in lowered.checks),
        ),
        realised=Table(
            ("Block", "Asked", "Realised", "Evidence"),
            tuple((each.block, each.asked, each.realised, each.how) for each in lowered.realised),
            tuple("info" if each.asked == each.realised else "failed" for each in lowered.realised),
        ),
        computed=Table(
            ("Block", "Asked", "Stored", "Computed", "Status"),
            tuple(
                (each.block or REST, each.asked, each.stored, each.computed, _COMPUTED_TITLES[each.status])
                for each in lowered.computed
            ),
            tuple("info" if each.status == "passed" else "failed" for each in lowered.computed),
        ),
        findings=Table(
            ("Severity", "Operation", "Block", "Finding", "Remedy", "Rule", "Source"),
            tuple(
                (each.severity, each.op, each.block or "-", each.what, each.remedy, each.rule, each.source)
                for each in lowered.findings
            ),
        ),
        findings_title=_counted(Counter(each.severity for each in lowered.findings)),
    )


def _counted(counts: Counter[str]) -> str:
    """``2 errors, 1 warning``."""
    return ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items())


def subject_title(name: str) -> str:
    """A subject's name for readers."""
    return SUBJECT_TITLES.get(name) or subject_titles().get(name, name)


def against_title(name: str) -> str:
    """For readers, what a figure compares with: a reference, or another subject."""
    return AGAINST_TITLES.get(name) or subject_titles().get(name, name)


def status_title(row: Row) -> str:
    """A row's status for readers."""
    return STATUS_TITLES[row.status]


def _figure(value: float | int | str) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _output_title(output: str, titles: Mapping[str, str]) -> str:
    return ALL_OUTPUTS if output == ALL else titles.get(output, output)


def _names(row: Row, titles: Mapping[str, str]) -> tuple[str, str, str, str]:
    return (
        subject_title(row.subject),
        _output_title(row.output, titles),
        METRIC_TITLES.get(row.metric, row.metric),
        against_title(row.against),
    )


def _tolerance(row: Row) -> str:
    if row.tolerance is None:
        return "-"
    if not row.tolerance_key:
        return f">= {number(row.tolerance)}"
    return f"{'>=' if row.is_floor else '<='} {number(row.tolerance)}"
