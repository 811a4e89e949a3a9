"""Executes saved Core ML packages with torch kernels, so that what ships is validated without a Mac."""

from __future__ import annotations

from vggt_edge.runtimes.coreml.interpreter.session import MilSession, Precision

__all__ = ["MilSession", "Precision"]
