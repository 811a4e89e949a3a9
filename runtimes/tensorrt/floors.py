"""The oldest TensorRT that builds a scheme, and whether the software of a device reaches it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from packaging.specifiers import Specifier, SpecifierSet
from packaging.version import Version

from vggt_edge.calibration.scheme import scheme_of_layers
from vggt_edge.devices.profile import DeviceProfile

TOOL = "tensorrt"
#: The sources are in docs/runtimes/tensorrt.md. The other schemes need no more than the profiles do.
NEEDED: Mapping[str, str] = MappingProxyType({"fp8": "10.6", "nvfp4a16": "10.8", "nvfp4": "11.0"})


def too_old(scheme: str, profile: DeviceProfile) -> str:
    """Why no TensorRT of the device builds the scheme; empty where one does, and for another runtime.

    Judged by the releases that the profile lists, and without any by its range of versions.
    """
    needed, wanted = NEEDED.get(scheme_of_layers(scheme)), profile.toolchain.requires.get(TOOL)
    if needed is None or wanted is None:
        return ""
    shipped = {Version(one.tools[TOOL]): one.name for one in profile.toolchain.releases if TOOL in one.tools}
    if shipped:
        newest = max(shipped)
        has = f"the newest of this device is {newest}, in {shipped[newest]}"
        return "" if newest >= Version(needed) else f"it takes TensorRT {needed} or later, and {has}"
    if all(_reaches(clause, Version(needed)) for clause in SpecifierSet(wanted)):
        return ""
    return f"it takes TensorRT {needed} or later, and this device has {wanted}"


def required(schemes: Iterable[str], requires: Mapping[str, str]) -> dict[str, str]:
    """The version ranges of a profile, raised to what a bundle with these schemes needs."""
    floors = [Version(NEEDED[one]) for one in map(scheme_of_layers, schemes) if one in NEEDED]
    found = dict(requires)
    if TOOL in found and floors:
        found[TOOL] = _raised(found[TOOL], max(floors))
    return found


def _raised(wanted: str, floor: Version) -> str:
    clauses = wanted.split(",")
    lowest = [clause for clause in clauses if clause.strip().startswith(">=")]
    if any(Version(clause.strip()[2:].strip()) >= floor for clause in lowest):
        return wanted
    return ",".join([f">={floor}", *(clause for clause in clauses if clause not in lowest)])


def _reaches(clause: Specifier, needed: Version) -> bool:
    """Whether a version from ``needed`` on can satisfy the clause."""
    limit = {"<": Version(clause.version) > needed, "<=": Version(clause.version) >= needed}
    return limit.get(clause.operator, clause.operator != "==" or Version(clause.version) >= needed)
