"""Core AI: the runtime that Apple ships from iOS and macOS 27 on (docs/runtimes/coreai.md)."""

from __future__ import annotations

from vggt_edge.runtimes.coreai.backend import BACKEND, size_check

__all__ = ["BACKEND", "size_check"]
