"""TensorRT: the graph is prepared here and built on the device (docs/runtimes/tensorrt.md)."""

from __future__ import annotations

from vggt_edge.runtimes.tensorrt.backend import BACKEND, write_golden

__all__ = ["BACKEND", "write_golden"]
