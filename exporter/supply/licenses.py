"""Licences of weights and tools: what is known of them, and whether they allow commercial use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType

from vggt_edge.devices.errors import UsageError

UNKNOWN = "unknown"
OWN = "Apache-2.0"  # of this package, and of the device kits that bundles hold
PURPOSES = ("commercial", "research")

OWN_NAME = "LicenseRef-"  # begins what SPDX has no identifier of
FAIR = OWN_NAME + "FAIR-Noncommercial-Research"
# Of weights, by the name that --model takes or that of the file. Those of others are said with --model-license.
_OF_MODELS: Mapping[str, str] = MappingProxyType(
    {
        "vggt-mini": OWN,
        "facebook/VGGT-1B": "CC-BY-NC-4.0",
        "facebook/map-anything": "CC-BY-NC-4.0",
        "facebook/map-anything-v1": "CC-BY-NC-4.0",
        "facebook/map-anything-apache": "Apache-2.0",
        "facebook/map-anything-apache-v1": "Apache-2.0",
        "vggt_omega_1b_512.pt": FAIR,
        "vggt_omega_1b_256_text.pt": FAIR,
    }
)
# SPDX identifiers of licences of weights, and whether commercial use is allowed without asking anyone.
COMMERCIAL: Mapping[str, bool] = MappingProxyType(
    {
        "Apache-2.0": True,
        "BSD-2-Clause": True,
        "BSD-3-Clause": True,
        "CC-BY-4.0": True,
        "CC0-1.0": True,
        "MIT": True,
        "CC-BY-NC-4.0": False,
        "CC-BY-NC-ND-4.0": False,
        "CC-BY-NC-SA-4.0": False,
        FAIR: False,
    }
)
_LONGEST_NAME = 60  # some distributions put the whole text where the name belongs


def license_of_model(source: str, given: str | None) -> str:
    """The licence that the user gives, else that of a known model by its name; ``unknown`` for the rest."""
    return given or _OF_MODELS.get(source, UNKNOWN)


def license_of_tool(distribution: str) -> str:
    """The licence that an installed distribution gives, as an SPDX expression or a name; ``unknown`` for nothing."""
    about = metadata.metadata(distribution)
    expression, name = _field(about, "License-Expression"), _field(about, "License")
    classified = [
        one.rpartition(" :: ")[2] for one in about.get_all("Classifier") or () if one.startswith("License ::")
    ]
    short = name if "\n" not in name and len(name) <= _LONGEST_NAME else ""
    return expression or short or ", ".join(classified) or UNKNOWN


def _field(about: metadata.PackageMetadata, name: str) -> str:
    return about[name].strip() if name in about else ""


def check_purpose(license_: str, purpose: str, accepted: str | None) -> None:
    """``UsageError`` where weights of this licence may not serve the purpose, unless the licence is ``accepted``."""
    if accepted is not None and accepted != license_:
        raise UsageError(
            f"the licence of the weights is {license_}, and {accepted} was accepted",
            where="--accept-license",
            expected=license_,
        )
    if purpose != "commercial" or accepted is not None or COMMERCIAL.get(license_, False):
        return
    forbids = COMMERCIAL.get(license_) is False
    raise UsageError(
        f"the licence of the weights, {license_}, forbids commercial use"
        if forbids
        else f"nobody here knows whether the licence of the weights ({license_}) allows commercial use",
        where="--purpose commercial",
        expected=f"one of: {', '.join(name for name, allowed in COMMERCIAL.items() if allowed)}",
        remedy=f"--accept-license {license_} where an agreement with its owners allows it"
        + ("" if forbids else ", or say the licence at the export with --model-license"),
    )
