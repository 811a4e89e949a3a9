"""Names of the files, and of the graphs in reports; apart, so that listing the backends loads no geometry."""

from __future__ import annotations

PROGRAM, PROGRAM_GOLDEN = "fused.onnx", "golden-fused.safetensors"
#: The graph for tensors, and the one for frames.
PLAIN, FUSED = "tensorrt-fp16", "tensorrt-fused"
