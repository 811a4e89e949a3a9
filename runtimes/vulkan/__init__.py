"""ExecuTorch's Vulkan delegate for the GPUs of Android phones; ``BACKEND`` is the backend."""

from vggt_edge.runtimes.vulkan.backend import BACKEND

__all__ = ["BACKEND"]
