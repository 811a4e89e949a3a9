"""Is the quantized model still a VGGT? FP32 against simulation against backend, gated by the device profile."""

from __future__ import annotations

from vggt_edge.exporter.validation.judge import SIMULATION, validate
from vggt_edge.exporter.validation.rows import Row, Status, ValidationReport

__all__ = ["SIMULATION", "Row", "Status", "ValidationReport", "validate"]
