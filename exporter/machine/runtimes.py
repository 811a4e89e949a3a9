"""Which runtime computed the figures of a report, which one the device has, and in what the two differ."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.specifiers import SpecifierSet

from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.runtimes.base import Executor


@dataclass(frozen=True)
class JudgedWith:
    """One subject of a report and the runtime that computed its figures.

    - subject: as in ``validation.json``.
    - how: what computed, for readers.
    - runtime, version, options: the runtime, its version, and the build or session options that change figures.
    - device: the versions that the device profile names.
    - differs: what is different on the device; empty where nothing is known to be.
    """

    subject: str
    how: str
    runtime: str
    version: str
    options: str
    device: str
    differs: str

    @classmethod
    def of(cls, executor: Executor, profile: DeviceProfile) -> JudgedWith:
        """What ``executor`` computes with, beside what ``profile`` says of the device."""
        used = executor.runtime
        wanted = profile.toolchain.requires.get(used.name)
        differs = [used.differs] if used.differs else []
        if wanted is not None and not SpecifierSet(wanted).contains(used.version, prereleases=True):
            differs.append(f"version {used.version} is outside {wanted}")
        return cls(
            executor.subject,
            executor.how,
            used.name,
            used.version,
            used.options,
            device_software(profile),
            "; ".join(differs),
        )

    @property
    def text(self) -> str:
        """One line for readers."""
        options = f" ({self.options})" if self.options else ""
        differs = f"which differs: {self.differs}" if self.differs else "no difference is known"
        return f"{self.how}; {self.runtime} {self.version}{options}. The device has {self.device}; {differs}."


def device_software(profile: DeviceProfile) -> str:
    """``tensorrt >=10.3, python >=3.8; releases: JetPack 6.1 (Ubuntu 22.04, python 3.10, tensorrt 10.3)``."""
    toolchain = profile.toolchain
    ranges = ", ".join(f"{tool} {versions}" for tool, versions in toolchain.requires.items())
    releases = [
        f"{release.name} ({', '.join((release.os, *(f'{tool} {version}' for tool, version in release.tools.items())))})"
        for release in toolchain.releases
    ]
    return ranges + (f"; releases: {', '.join(releases)}" if releases else "")
