"""What differs between two bundles: settings, plan, sizes, latency, accuracy, audits, files."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.bundle import PLAN, Manifest, read_manifest
from vggt_edge.exporter.lowered import REST, lowered_file, read_lowered
from vggt_edge.exporter.validation.rows import ValidationReport

Value: TypeAlias = str | int | float | None


@dataclass(frozen=True)
class Change:
    """One thing that is not the same in both bundles.

    - section: ``setting``, ``tool``, ``plan``, ``size``, ``latency``, ``accuracy``, ``audit`` or ``file``
    - first, second: the values; None where a bundle has none
    - relative: of two numbers, how much the second is larger, as a share of the first
    """

    section: str
    name: str
    first: Value
    second: Value
    relative: float | None


@dataclass(frozen=True)
class Difference:
    """All changes, in the order of their sections. The files are not hashed: `verify` does that."""

    first: Path
    second: Path
    changes: tuple[Change, ...]


def difference(first: Path, second: Path) -> Difference:
    """Compare two bundles. ``InputError`` for a folder that is no bundle, or whose documents cannot be read."""
    manifests = read_manifest(first), read_manifest(second)
    changes = []
    for section, read in _SECTIONS.items():
        values = [read(bundle, manifest) for bundle, manifest in zip((first, second), manifests, strict=True)]
        changes += list(_changes(section, *values))
    return Difference(first, second, tuple(changes))


def _changes(section: str, first: Mapping[str, Value], second: Mapping[str, Value]) -> Iterator[Change]:
    for name in dict.fromkeys((*first, *second)):
        if first.get(name) != second.get(name):
            yield Change(section, name, first.get(name), second.get(name), _relative(first.get(name), second.get(name)))


def _relative(first: Value, second: Value) -> float | None:
    if isinstance(first, str) or isinstance(second, str) or not first or second is None:
        return None
    return second / first - 1


def _settings(bundle: Path, manifest: Manifest) -> dict[str, Value]:
    path = bundle / "resolved.toml"
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the settings: {error}", where=str(path), expected="a bundle's settings"
        ) from error
    named = {f"sha256 of {name}": digest for name, digest in manifest.digests.items() if name not in ("plan", "stats")}
    return {name: _shown(value) for name, value in settings.items()} | named


def _shown(value: object) -> Value:
    return value if isinstance(value, str | int | float) else str(value)


def _tools(bundle: Path, manifest: Manifest) -> Mapping[str, Value]:
    return manifest.tools


def _read_plan(bundle: Path) -> PrecisionPlan:
    path = bundle / PLAN
    return PrecisionPlan.from_json(path.read_text(encoding="utf-8"), where=str(path))


def _plan(bundle: Path, manifest: Manifest) -> Mapping[str, Value]:
    plan = _read_plan(bundle)
    kept = {
        f"{one.block}, kept in {plan.kept_scheme}": ", ".join(one.excluded) for one in plan.assignments if one.excluded
    }
    return {one.block: one.scheme for one in plan.assignments} | {REST: plan.rest_scheme} | kept


def _sizes(bundle: Path, manifest: Manifest) -> dict[str, Value]:
    """Sizes in bytes: planned weights, all files, and those of every folder."""
    plan = _read_plan(bundle)
    sizes: dict[str, Value] = {"weights as planned": plan.weight_bytes + plan.rest_bytes, "bundle": manifest.size_bytes}
    for folder in sorted({entry.path.partition("/")[0] for entry in manifest.files if "/" in entry.path}):
        inside = (entry.size_bytes for entry in manifest.files if entry.path.startswith(f"{folder}/"))
        sizes[f"{folder}/"] = sum(inside)
    return sizes


def _latency(bundle: Path, manifest: Manifest) -> dict[str, Value]:
    return {"blocks as predicted, ms": _read_plan(bundle).predicted_latency_ms}


def _accuracy(bundle: Path, manifest: Manifest) -> dict[str, Value]:
    path = bundle / "validation.json"
    report = ValidationReport.from_json(path.read_text(encoding="utf-8"), where=str(path))
    values: dict[str, Value] = {"status": report.status.value}
    for row in report.rows:
        name = f"{row.subject}, {row.output}: {row.metric}" + (f" against {row.against}" if row.against else "")
        values[name] = row.value
        values[f"{name}, status"] = row.status.value
    return values


def _audits(bundle: Path, manifest: Manifest) -> dict[str, Value]:
    """The audits of every backend: what artifact and program hold per block, and how the checks ended."""
    values: dict[str, Value] = {}
    for path in sorted(bundle.glob(lowered_file("*"))):
        lowered = read_lowered(path)
        own = lowered.backend
        values |= {f"{own}, {one.block}: stored": one.realised for one in lowered.realised}
        values |= {
            f"{own}, {one.block or REST}: computed": f"{one.computed} ({one.status})" for one in lowered.computed
        }
        values |= {f"{own}: {check.name}": check.status for check in lowered.checks}
    return values


def _files(bundle: Path, manifest: Manifest) -> dict[str, Value]:
    return {entry.path: f"{entry.size_bytes} bytes, sha256 {entry.sha256[:12]}" for entry in manifest.files}


_SECTIONS: Mapping[str, Callable[[Path, Manifest], Mapping[str, Value]]] = {
    "setting": _settings,
    "tool": _tools,
    "plan": _plan,
    "size": _sizes,
    "latency": _latency,
    "accuracy": _accuracy,
    "audit": _audits,
    "file": _files,
}
