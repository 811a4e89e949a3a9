"""The program that ``ours-fp32-graph`` measures: our own ONNX graph of the whole model, nothing quantized.

``_ours_fp32.py --checkpoint FILE --frames S --resolution N --onnx FILE``
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from vggt_edge.exporter.graph import write_onnx
from vggt_edge.exporter.models.checkpoint import build_model, read_checkpoint
from vggt_edge.exporter.models.config import OUTPUTS, InputShape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=518)
    parser.add_argument("--onnx", type=Path, required=True)
    given = parser.parse_args()
    shape = InputShape(given.frames, given.resolution, given.resolution)
    model = build_model(read_checkpoint(given.checkpoint), shape, OUTPUTS)
    start = time.perf_counter()
    write_onnx(model, given.onnx)
    print(f"export_seconds={time.perf_counter() - start:.3f}", flush=True)


if __name__ == "__main__":
    main()
