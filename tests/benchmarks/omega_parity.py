"""Compares our VGGT-Omega with its authors' code: the table of docs/models/vggt-omega.md.

``omega_parity.py --theirs DIR`` takes a checkout of github.com/facebookresearch/vggt-omega, which needs nothing that we
do not need. Both get equal random weights, in a width of 256 and, with ``--full-size``, in that of the 1B model. The
errors are norm(ours - theirs) / norm(theirs - mean(theirs)), in FP32: a map that varies little is held to what it
varies by.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from da3_parity import error
from measure import table
from stream_parity import draw
from torch import Tensor, nn

from vggt_edge.calibration.metrics.geometry import decode_pose
from vggt_edge.exporter.models.vggt_omega import ARCHITECTURE
from vggt_edge.exporter.models.vggt_omega_layers import VGGTOmegaConfig

FULL_SIZE = VGGTOmegaConfig(name="1B")
SMALL = VGGTOmegaConfig(name="256 wide", embed_dim=256)
SHAPES = ((1, 64, 80), (2, 112, 96), (4, 80, 64), (3, 160, 224), (2, 512, 512))  # frames, height, width
FULL_SIZE_SHAPES = ((2, 64, 80),)
OUTPUTS = ("extrinsics", "intrinsics", "depth", "depth_conf")


class Theirs(nn.Module):
    """The authors' parts in the order of their ``VGGTOmega.forward``, which computes in BF16 on a GPU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.aggregator = import_module("vggt_omega.models.aggregator").Aggregator(embed_dim=width)
        heads = import_module("vggt_omega.models.heads")
        self.camera_head, self.dense_head = heads.CameraHead(2 * width), heads.DenseHead(2 * width)
        self.decode = import_module("vggt_omega.utils.pose_enc").encoding_to_camera

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        tokens, first_patch = self.aggregator(images)
        depth, confidence = self.dense_head(tokens, images=images, patch_token_start=first_patch)
        cameras = self.decode(self.camera_head(tokens, patch_token_start=first_patch), images.shape[-2:])
        return dict(zip(OUTPUTS, (*cameras, depth[..., 0], confidence), strict=True))


def drawn(width: int, generator: torch.Generator) -> Theirs:
    """Random weights; masks and periods that matter, as in a trained file."""
    theirs: Any = Theirs(width).eval()
    draw(theirs, generator)
    for name, buffer in theirs.named_buffers():
        if name.endswith("bias_mask"):
            buffer.copy_(torch.ones(3, len(buffer) // 3).index_fill(0, torch.tensor(1), 0.0).flatten())
    theirs.aggregator.rope_embed.periods.mul_(1.1)
    theirs.camera_head.camera_branch[2].bias[7:] = 1.0  # a field of view that a ReLU does not make zero
    return theirs  # type: ignore[no-any-return]


def ours(state: dict[str, Tensor], config: VGGTOmegaConfig, images: Tensor) -> dict[str, Tensor]:
    _, frames, _, height, width = images.shape
    model = ARCHITECTURE.build(config, ARCHITECTURE.shape(frames, height, width), ARCHITECTURE.heads)
    adapted = ARCHITECTURE.adapted(state)
    model.load_state_dict({name: adapted[name] for name in model.state_dict()}, assign=True)
    values = dict(zip(model.output_names, model.fix_constants()(images), strict=True))
    cameras = (
        torch.from_numpy(np.float32(each))[None] for each in decode_pose(values["pose_enc"][0].numpy(), (height, width))
    )
    return dict(zip(OUTPUTS, (*cameras, values["depth"], values["depth_conf"]), strict=True))


def compared(config: VGGTOmegaConfig, shapes: tuple[tuple[int, int, int], ...]) -> list[tuple[str, ...]]:
    """A row per shape: the relative error of every output."""
    generator = torch.Generator().manual_seed(1)
    theirs = drawn(config.embed_dim, generator)
    rows = []
    for frames, height, width in shapes:
        images = torch.rand(1, frames, 3, height, width, generator=generator)
        found, wanted = ours(theirs.state_dict(), config, images), theirs(images)
        errors = [f"{error(found[name], wanted[name]):.1e}" for name in OUTPUTS]
        rows.append((config.name, f"{frames}, {height} x {width}", *errors))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, required=True, metavar="DIR", help="checkout of the authors' repository")
    parser.add_argument("--full-size", action="store_true", help="the 1B model too, which takes 12 GB of memory")
    asked = parser.parse_args()
    sys.path.insert(0, str(asked.theirs.resolve()))
    with torch.no_grad():
        rows = compared(SMALL, SHAPES)
        if asked.full_size:
            rows += compared(FULL_SIZE, FULL_SIZE_SHAPES)
    print("\n".join(table(("model", "frames, H x W", *OUTPUTS), rows)))


if __name__ == "__main__":
    main()
