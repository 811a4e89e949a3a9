"""ExecuTorch for Android: the annotated program through the XNNPACK delegate, run here by the same runtime."""

from vggt_edge.runtimes.executorch.backend import BACKEND

__all__ = ["BACKEND"]
