"""The program that ``ours-fp32-graph`` measures: our own ONNX graph of the whole model, nothing quantized.

``_ours_fp32.py --checkpoint FILE --frames S --resolution N --onnx FILE``
"""

from __future__ import annotations

import time

from measure import graph_arguments

from vggt_edge.exporter.graph import write_onnx
from vggt_edge.exporter.models.checkpoint import build_model, read_checkpoint
from vggt_edge.exporter.models.config import OUTPUTS, InputShape


def main() -> None:
    given = graph_arguments(__doc__)
    shape = InputShape(given.frames, given.resolution, given.resolution)
    model = build_model(read_checkpoint(given.checkpoint), shape, OUTPUTS)
    start = time.perf_counter()
    write_onnx(model, given.onnx)
    print(f"export_seconds={time.perf_counter() - start:.3f}", flush=True)


if __name__ == "__main__":
    main()
