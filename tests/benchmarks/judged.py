"""Lists the runtimes that judge exports for each target, and its devices' versions: the table of docs/devices.md.

``judged.py`` prints it in Markdown, from the device profiles and from what the backends run on this machine. A version
that a profile names and that nothing here runs is ``not_run``, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from measure import table

from vggt_edge.devices.profile import DeviceProfile, Toolchain, list_profiles
from vggt_edge.exporter.machine.runtimes import JudgedWith
from vggt_edge.runtimes.base import Executor
from vggt_edge.runtimes.onnxruntime import oracle
from vggt_edge.runtimes.registry import backend, subject_titles

HEADER = ("runtime and version", "build and options", "how judged", "differs from the device", "targets")
Cells = tuple[str, str, str, str]


def rows(profiles: Sequence[DeviceProfile]) -> Iterator[tuple[str, ...]]:
    """Targets that are judged in the same way share a row."""
    shared: dict[Cells, list[str]] = {}
    for profile in sorted(profiles, key=lambda one: one.runtime):
        for cells in (*_here(profile), *_on_devices(profile)):
            shared.setdefault(cells, []).append(f"`{profile.name}`")
    for cells, targets in shared.items():
        yield *cells, "all" if len(targets) == len(profiles) else ", ".join(targets)


def _executors(profile: DeviceProfile) -> list[Executor]:
    names = (profile.runtime, *profile.companions)
    found = (executor for name in names for executor in backend(name).executors() if executor.fits(profile))
    unique = {executor.subject: executor for executor in (oracle(), *found)}
    return list(unique.values())


def _here(profile: DeviceProfile) -> Iterator[Cells]:
    for executor in _executors(profile):
        used, asked = executor.runtime, f", with `--execute {executor.on_request}`" if executor.on_request else ""
        how = f"run here as {subject_titles()[executor.subject]}{asked}"
        differs = JudgedWith.of(executor, profile).differs
        yield f"{used.name} {used.version}", used.options, how, differs or "nothing known"


def _on_devices(profile: DeviceProfile) -> Iterator[Cells]:
    reason = backend(profile.runtime).on_device(profile).replace(profile.title, "device")
    for version, tools in _releases(profile.toolchain):
        yield version, tools, f"`not_run`: {reason}", "-"


def _releases(toolchain: Toolchain) -> Iterator[tuple[str, str]]:
    for release in toolchain.releases:
        yield release.name, ", ".join(f"{name} {version}" for name, version in sorted(release.tools.items()))


if __name__ == "__main__":
    print("\n".join(table(HEADER, list(rows(list_profiles())))))
