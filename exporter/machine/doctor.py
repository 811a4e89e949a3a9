"""What this machine can and cannot do for an export, and the remedy for each thing that is missing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from vggt_edge.devices.profile import load_profile
from vggt_edge.devices.units import format_bytes
from vggt_edge.exporter.machine.runtimes import JudgedWith

DISTRIBUTION = "vggt-edge"
# An export of vggt-mini stays well below these; a 1.2 billion parameter model needs several times as much.
WANTED_MEMORY_BYTES = 2 << 30
WANTED_DISK_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``needed``: an export cannot do without it."""

    subject: str
    ok: bool
    needed: bool
    found: str
    remedy: str = ""

    @property
    def state(self) -> str:
        if self.ok:
            return "ok"
        return "missing" if self.needed else "optional"


@dataclass(frozen=True)
class JudgedBundle:
    """The target of a bundle, and the runtimes that judged the bundle's artifacts."""

    target: str
    judged_with: tuple[JudgedWith, ...]


def examine(
    target: str | None = None, folder: Path | None = None, bundle: JudgedBundle | None = None
) -> tuple[Finding, ...]:
    """Look at Python, packages, backends, memory and the disk that ``folder`` (default: the current one) is on.

    With a target its backend becomes needed; ``UnknownNameError`` if there is no such target. With a bundle, what ran
    its artifacts to judge them.
    """
    wanted_runtime = load_profile(target).runtime if target else None
    return (
        _python(),
        *_packages(),
        *_backends(wanted_runtime),
        *_emulations(),
        _memory(),
        _disk(folder or Path.cwd()),
        *(_judged(bundle) if bundle is not None else ()),
    )


def _python() -> Finding:
    return Finding("python", True, True, sys.version.split()[0])


def _packages() -> tuple[Finding, ...]:
    """The distribution's own metadata is the list, so that it cannot fall behind pyproject.toml."""
    try:
        requirements = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return (Finding(DISTRIBUTION, False, True, "not installed", "pip install vggt-edge"),)
    extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    findings = [
        package_finding(requirement, extra)
        for requirement in requirements
        for extra in ("", *extras)
        if extra != "dev" and _asked_by(requirement, extra)
    ]
    return tuple(dict.fromkeys(findings))


def _asked_by(requirement: Requirement, extra: str) -> bool:
    """Whether exactly this extra ("" for none) asks for the requirement on this platform."""
    if requirement.marker is None:
        return extra == ""
    if extra and requirement.marker.evaluate({"extra": ""}):
        return False
    return requirement.marker.evaluate({"extra": extra})


def package_finding(requirement: Requirement, extra: str = "") -> Finding:
    """Whether a version inside the range is installed; nothing is imported for it."""
    needed = not extra
    what = f"{DISTRIBUTION}[{extra}]" if extra else f"{requirement.name}{requirement.specifier}"
    remedy = f'pip install "{what}"'
    subject = f"{requirement.name} [{extra}]" if extra else requirement.name
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(subject, False, needed, "not installed", remedy)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(subject, False, needed, f"{version}, wanted {requirement.specifier}", remedy)
    return Finding(subject, True, needed, version)


def _backends(wanted: str | None) -> tuple[Finding, ...]:
    from vggt_edge.runtimes.registry import backends

    findings = []
    for name, backend in sorted(backends().items()):
        availability = backend.availability()
        found = "ready" if availability.ok else availability.reason
        findings.append(Finding(f"backend {name}", availability.ok, name == wanted, found, availability.remedy))
    return tuple(findings)


def _emulations() -> Iterator[Finding]:
    """What `--execute` can be told here, each once."""
    from vggt_edge.runtimes.registry import backends

    executors = [one for backend in backends().values() for one in backend.executors() if one.on_request]
    for name, executor in {one.on_request: one for one in reversed(executors)}.items():
        state = executor.availability()
        found = f"ready for --execute {name}: {executor.how}" if state.ok else state.reason
        yield Finding(f"emulation {name}", state.ok, False, found, state.remedy)


def _judged(bundle: JudgedBundle) -> Iterator[Finding]:
    """By what the bundle's artifacts were judged, and whether that is what its device runs."""
    from vggt_edge.runtimes.registry import backend

    yield from (Finding(f"judged by {one.subject}", True, False, one.text) for one in bundle.judged_with)
    profile = load_profile(bundle.target)
    nearer = [one for one in backend(profile.runtime).executors() if one.on_request and one.fits(profile)]
    if nearer and not {one.subject for one in nearer} & {one.subject for one in bundle.judged_with}:
        yield Finding(
            "judged by the device's build",
            False,
            False,
            f"no: by none of {', '.join(one.subject for one in nearer)}",
            f"export with --execute {nearer[0].on_request}",
        )


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    return Finding(
        "memory",
        free >= WANTED_MEMORY_BYTES,
        False,
        f"{format_bytes(free)} free",
        "" if free >= WANTED_MEMORY_BYTES else f"close other programs: {format_bytes(WANTED_MEMORY_BYTES)} are wanted",
    )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    return Finding(
        "disk",
        free >= WANTED_DISK_BYTES,
        False,
        f"{format_bytes(free)} free",
        "" if free >= WANTED_DISK_BYTES else f"free some space: {format_bytes(WANTED_DISK_BYTES)} are wanted",
    )
