"""Executes serialized Vulkan programs with torch kernels, so that what ships is validated without a GPU."""

from __future__ import annotations

from vggt_edge.runtimes.vulkan.interpreter.session import GraphSession, Precision

__all__ = ["GraphSession", "Precision"]
