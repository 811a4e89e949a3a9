"""The program that ``naive-onnx`` measures: ``torch.onnx.export`` of the naive VGGT, with everything at its default.

``_naive_export.py --checkpoint FILE --frames S --resolution N --onnx FILE``
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from measure import graph_arguments
from naive_vggt import OUTPUTS, NaiveVGGT
from torch import nn

from vggt_edge.exporter.models.checkpoint import read_checkpoint
from vggt_edge.exporter.models.config import InputShape


def load(checkpoint: Path, shape: InputShape) -> nn.Module:
    """The model in FP32 with its weights mapped from the file: the least memory that its author could get by with."""
    found = read_checkpoint(checkpoint)
    with torch.device("meta"):
        model = NaiveVGGT(found.config, shape)
    wanted = model.state_dict()
    weights = {name: tensor.float() for name, tensor in found.tensors.items() if name in wanted}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def main() -> None:
    given = graph_arguments(__doc__)
    shape = InputShape(given.frames, given.resolution, given.resolution)
    model = load(given.checkpoint, shape)
    images = torch.zeros(1, shape.frames, 3, shape.height, shape.width)
    start = time.perf_counter()
    torch.onnx.export(
        model,
        (images,),
        given.onnx,
        dynamo=True,
        external_data=True,
        input_names=["images"],
        output_names=list(OUTPUTS),
    )
    print(f"export_seconds={time.perf_counter() - start:.3f}", flush=True)


if __name__ == "__main__":
    main()
