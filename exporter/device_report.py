"""All of a device's ``result.json`` (docs/how-to/kit-result.md), checked against the bundle that it speaks of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vggt_edge.calibration.documents import Count, Finite, Sha256, read_document
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.bundle import Manifest

Verdict: TypeAlias = Literal["passed", "failed", "not_judged"]
_EXPECTED = "the result.json that a device kit wrote for this bundle (docs/how-to/kit-result.md)"
_REMEDY = "run the kit of this very bundle on the device again"


@dataclass(frozen=True)
class Named:
    """A program and its version."""

    name: str
    version: str


@dataclass(frozen=True)
class DeviceNames:
    """As the device calls itself; None: it does not tell."""

    model: str | None
    system: str | None


@dataclass(frozen=True)
class Thermal:
    """Thermal state before the first and after the last prediction, in the system's words."""

    before: str | None
    after: str | None


@dataclass(frozen=True)
class Milliseconds:
    """Of the measured predictions."""

    median: Finite
    p90: Finite
    min: Finite
    max: Finite
    count: Count


@dataclass(frozen=True)
class Timings:
    """Milliseconds; None: did not happen, or was not measured."""

    compile: Finite | None
    load: Finite | None
    first_prediction: Finite | None
    measured: Milliseconds | None


@dataclass(frozen=True)
class Times:
    """What executor_runner says: mean milliseconds of the runs."""

    runs: Count
    mean_ms: Finite
    load_ms: Finite | None


@dataclass(frozen=True)
class PeakMemory:
    """value: bytes; how: the system's name for it."""

    value: Count | None
    how: str | None


@dataclass(frozen=True)
class Distance:
    """How far an output is from its reference."""

    cosine: Finite
    sqnr_db: Finite
    max_abs: Finite


@dataclass(frozen=True)
class Angles:
    """Largest angles between the relative cameras of two frames, in degrees."""

    rotation_degrees: Finite
    translation_degrees: Finite


@dataclass(frozen=True)
class OutputResult:
    """One output of the model; distances are None where values are not finite."""

    output: str
    status: Verdict
    finite: bool
    sqnr_db_min: Finite | None
    against_simulation: Distance | None
    against_fp32: Distance | None = None
    pose: Angles | None = None


@dataclass(frozen=True)
class Engine:
    """build_s: seconds that TensorRT took to build the engine."""

    bytes: Count
    build_s: Finite
    weights_packed: Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class BlockPrecision:
    """asked: scheme of the plan. counts: layers by the precision that they were seen to compute in."""

    block: str
    asked: str
    status: Literal["realised", "not_realised", "unknown"]
    counts: Mapping[str, Count]


@dataclass(frozen=True)
class DeviceReport:
    """The keys that all kits write; those that only some write have defaults."""

    schema_version: Literal[1]
    status: Verdict
    target: str
    plan_digest: str
    runtime: Named
    device: DeviceNames
    thermal: Thermal
    timings_ms: Timings
    memory_bytes: PeakMemory
    outputs: tuple[OutputResult, ...]
    model_sha256: Sha256 | None = None
    gpu_ms: Milliseconds | None = None
    gpu_memory_bytes: int | None = None
    times: Times | None = None
    engine: Engine | None = None
    precision: tuple[BlockPrecision, ...] = ()
    runs_unlike_first: Count = 0
    exit_code: int | None = None

    @property
    def median_ms(self) -> float | None:
        """Of a prediction; the mean where the runtime tells no more."""
        if self.timings_ms.measured is not None:
            return self.timings_ms.measured.median
        return self.times.mean_ms if self.times else None

    @property
    def worst(self) -> OutputResult | None:
        """The output that is furthest from the simulation; one that is not finite before all others."""
        return min(self.outputs, key=_nearness, default=None)

    def blocks(self, status: str) -> int:
        """How many blocks have this status of precision."""
        return sum(block.status == status for block in self.precision)


def _nearness(output: OutputResult) -> float:
    return -1e9 if output.against_simulation is None else output.against_simulation.sqnr_db


def read_report(content: bytes, manifest: Manifest, outputs: Iterable[str], where: str) -> DeviceReport:
    """A result, as far as it is one of this bundle; ``InputError`` says what differs.

    outputs: names that ``kit.json`` lists. A check that only built an engine has none of them.
    """
    report = read_document(
        DeviceReport, content, what="a device's result", where=where, expected=_EXPECTED, remedy=_REMEDY, extra="ignore"
    )
    named = {entry.output for entry in report.outputs}
    digests = {entry.sha256 for entry in manifest.files}
    problems = [
        (report.target != manifest.target, f"target {report.target!r}, not {manifest.target!r}"),
        (report.plan_digest != manifest.digests.get("plan"), "another precision plan than the bundle's"),
        (report.model_sha256 is not None and report.model_sha256 not in digests, "a model that the bundle lacks"),
        (bool(named) and named != set(outputs), f"the outputs {sorted(named)}, not {sorted(set(outputs))}"),
        (report.status == "passed" and not _all_passed(report), "passed, with an output that has not"),
    ]
    for differs, what in problems:
        if differs:
            raise InputError(f"a result of something else: {what}", where=where, expected=_EXPECTED, remedy=_REMEDY)
    return report


def _all_passed(report: DeviceReport) -> bool:
    return bool(report.outputs) and all(entry.status == "passed" and entry.finite for entry in report.outputs)
