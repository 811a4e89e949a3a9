"""Backends that lower the annotated graph, run it and say what precision it really got."""

from __future__ import annotations

from vggt_edge.runtimes.registry import all_backends, backend, backends

__all__ = ["all_backends", "backend", "backends"]
