"""The cost of one weight scale per convolution, where TensorRT would fuse it: ``conv_scales.py [--scene-count N]``.

An int8 convolution with a scale per output channel writes FP32 for a further kernel; with one scale for the tensor its
bias and ReLU are fused, and it writes FP16 (docs/runtimes/tensorrt.md). Here the weights of the dense heads of
vggt-mini, and nothing else, are rounded to 8 bits: per channel, per tensor, and per tensor after the channels between
the two convolutions of each residual unit were equalised, which is exact through their ReLU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from rooms import Rooms
from torch import Tensor, nn

from vggt_edge.exporter.models.config import InputShape
from vggt_edge.exporter.models.vggt import ARCHITECTURE, VGGT
from vggt_edge.exporter.models.wiring import wiring_of
from vggt_edge.exporter.steps.inputs import Outputs
from vggt_edge.exporter.validation import figures

SHAPE = InputShape(2, 84, 84)
HEADS = ("depth_head", "point_head")
WATCHED = ("depth", "points")  # what these heads give


def per_channel(weight: Tensor) -> Tensor:
    return weight.abs().amax(dim=(1, 2, 3), keepdim=True)


def per_tensor(weight: Tensor) -> Tensor:
    return weight.abs().amax()


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [one for head in HEADS for one in model.get_submodule(head).modules() if isinstance(one, nn.Conv2d)]


@torch.no_grad()
def equalise(model: VGGT) -> None:
    """Nagel et al., 2019: each channel gets the geometric mean of its range before and behind the ReLU."""
    for unit in wiring_of(model.config, WATCHED).units:
        head, pairs = model.get_submodule(unit.path), unit.rectified
        for first, second in ((head.get_submodule(one.writer), head.get_submodule(one.reader)) for one in pairs):
            assert isinstance(first, nn.Conv2d)
            assert isinstance(second, nn.Conv2d)
            assert first.bias is not None
            before, behind = first.weight.abs().amax(dim=(1, 2, 3)), second.weight.abs().amax(dim=(0, 2, 3))
            factor = torch.sqrt(behind / before.clamp_min(1e-12)).clamp(1e-4, 1e4)
            first.weight.mul_(factor[:, None, None, None])
            first.bias.mul_(factor)
            second.weight.div_(factor[:, None, None])


@torch.no_grad()
def round_to_8_bits(model: nn.Module, peak: Callable[[Tensor], Tensor]) -> None:
    for convolution in convolutions(model):
        scale = peak(convolution.weight) / 127
        convolution.weight.copy_(torch.round(convolution.weight / scale) * scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene-count", type=int, default=8)
    rooms = Rooms(SHAPE, parser.parse_args().scene_count)

    def outputs(changes: tuple[Callable[[VGGT], None], ...]) -> list[Outputs]:
        model = rooms.model()
        for change in changes:
            change(model)
        return rooms.outputs(model)

    rows: dict[str, tuple[Callable[[VGGT], None], ...]] = {
        "FP32, equalised": (equalise,),
        "per channel": (lambda model: round_to_8_bits(model, per_channel),),
        "per tensor": (lambda model: round_to_8_bits(model, per_tensor),),
        "per tensor, equalised": (equalise, lambda model: round_to_8_bits(model, per_tensor)),
    }
    print("| weights of the dense heads | depth, dB | points, dB |\n| --- | --- | --- |")
    for name, changes in rows.items():
        drifts = figures.drifts(ARCHITECTURE.outputs, outputs(changes), rooms.fp32, rooms.scenes)
        found = {one.output: one.value for one in drifts if one.metric == "sqnr_db"}
        print(f"| {name} | " + " | ".join(f"{found[output]:.1f}" for output in WATCHED) + " |", flush=True)


if __name__ == "__main__":
    main()
