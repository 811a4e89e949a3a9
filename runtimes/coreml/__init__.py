"""Apple devices through Core ML: an ``.mlpackage`` and the iOS kit; docs/runtimes/coreml.md."""

from __future__ import annotations

from vggt_edge.runtimes.coreml.backend import BACKEND

__all__ = ["BACKEND"]
