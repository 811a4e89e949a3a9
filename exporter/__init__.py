"""The exporter, and the entry for programs: ``from vggt_edge.exporter import ExportRequest, export``.

The public names are listed in ``__all__`` and described in docs/library.md. They are imported when they are first asked
for, so that ``vggt-edge --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vggt_edge.calibration.plan import Assignment, PrecisionPlan
    from vggt_edge.devices.errors import (
        AccuracyGateError,
        BudgetError,
        InputError,
        LoweringError,
        ResourceError,
        ToolchainError,
        UsageError,
        VggtEdgeError,
    )
    from vggt_edge.devices.profile import DeviceProfile, list_profiles, load_profile
    from vggt_edge.exporter.bundle import Manifest, verify_bundle
    from vggt_edge.exporter.job import ExportResult, StepResult, calibrate, export, plan
    from vggt_edge.exporter.request import ExportRequest
    from vggt_edge.exporter.rerun import validate
    from vggt_edge.exporter.validation import ValidationReport

__all__ = [
    "AccuracyGateError",
    "Assignment",
    "BudgetError",
    "DeviceProfile",
    "ExportRequest",
    "ExportResult",
    "InputError",
    "LoweringError",
    "Manifest",
    "PrecisionPlan",
    "ResourceError",
    "StepResult",
    "ToolchainError",
    "UsageError",
    "ValidationReport",
    "VggtEdgeError",
    "calibrate",
    "export",
    "list_profiles",
    "load_profile",
    "plan",
    "validate",
    "verify_bundle",
]

_HOMES = {
    "vggt_edge.calibration.plan": ("Assignment", "PrecisionPlan"),
    "vggt_edge.devices.errors": (
        "AccuracyGateError",
        "BudgetError",
        "InputError",
        "LoweringError",
        "ResourceError",
        "ToolchainError",
        "UsageError",
        "VggtEdgeError",
    ),
    "vggt_edge.devices.profile": ("DeviceProfile", "list_profiles", "load_profile"),
    "vggt_edge.exporter.bundle": ("Manifest", "verify_bundle"),
    "vggt_edge.exporter.job": ("ExportResult", "StepResult", "calibrate", "export", "plan"),
    "vggt_edge.exporter.request": ("ExportRequest",),
    "vggt_edge.exporter.rerun": ("validate",),
    "vggt_edge.exporter.validation": ("ValidationReport",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
