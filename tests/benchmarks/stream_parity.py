"""Compares our StreamVGGT with its authors' code: the table of docs/models/streamvggt.md.

``stream_parity.py --theirs SRC`` takes the ``src`` folder of a checkout of github.com/wzzheng/StreamVGGT, which needs
``einops`` besides our own dependencies. Both get equal random weights: a small DINOv2, 24 blocks of each kind, width
384. The errors are norm(ours - theirs) / norm(theirs), in FP32.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from measure import table
from torch import Tensor, nn

from vggt_edge.exporter.models.config import VGGTConfig
from vggt_edge.exporter.models.shape import InputShape
from vggt_edge.exporter.models.streamvggt import StreamVGGT
from vggt_edge.exporter.models.vggt import VGGT

SHAPES = ((1, 56, 70), (2, 98, 84), (4, 70, 56), (3, 140, 196), (2, 518, 518))  # frames, height, width
CONFIG = VGGTConfig(name="small", embed_dim=384, dino_depth=12, depth=24, heads=6)


class Theirs(nn.Module):
    """The authors' parts in the order of their ``StreamVGGT.forward``, which builds one size only."""

    def __init__(self) -> None:
        super().__init__()
        aggregator = import_module("streamvggt.models.aggregator").Aggregator
        camera = import_module("streamvggt.heads.camera_head").CameraHead
        dense = import_module("streamvggt.heads.dpt_head").DPTHead
        width = CONFIG.embed_dim
        self.aggregator = aggregator(
            img_size=518, patch_size=14, embed_dim=width, depth=CONFIG.depth, num_heads=CONFIG.heads,
            patch_embed="dinov2_vits14_reg",
        )  # fmt: skip
        self.camera_head = camera(dim_in=2 * width, num_heads=CONFIG.camera_heads)
        self.depth_head = dense(dim_in=2 * width, output_dim=2, activation="exp", conf_activation="expp1")
        self.point_head = dense(dim_in=2 * width, output_dim=4, activation="inv_log", conf_activation="expp1")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        tokens, first_patch = self.aggregator(images)
        depth, depth_conf = self.depth_head(tokens, images=images, patch_start_idx=first_patch)
        points, points_conf = self.point_head(tokens, images=images, patch_start_idx=first_patch)
        return self.camera_head(tokens)[-1], depth[..., 0], depth_conf, points, points_conf


def draw(model: nn.Module, generator: torch.Generator) -> None:
    """Random weights under which no block and no norm is without effect."""
    for name, parameter in model.named_parameters():
        if "gamma" in name:
            parameter.uniform_(0.2, 0.6, generator=generator)
        elif "norm" in name and name.endswith("weight"):
            parameter.uniform_(0.5, 1.5, generator=generator)
        elif parameter.ndim > 1:
            parameter.normal_(0, 0.6 / parameter[0].numel() ** 0.5, generator=generator)
        else:
            parameter.uniform_(-0.1, 0.1, generator=generator)


def ours(kind: type[VGGT], state: dict[str, Tensor], shape: tuple[int, int, int]) -> VGGT:
    model = kind(CONFIG, InputShape(*shape))
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model.fix_constants()


def errors(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> list[float]:
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, required=True, metavar="SRC", help="src folder of the authors' checkout")
    sys.path.insert(0, str(parser.parse_args().theirs.resolve()))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        theirs: Any = Theirs().eval()
        draw(theirs, generator)
        rows = []
        for shape in SHAPES:
            images = torch.rand(1, shape[0], 3, *shape[1:], generator=generator)
            wanted, state = theirs(images), theirs.state_dict()
            worst = max(errors(ours(StreamVGGT, state, shape)(images), wanted))
            as_vggt = errors(ours(VGGT, state, shape)(images), wanted)[0]
            rows.append((f"{shape[0]}, {shape[1]} x {shape[2]}", f"{worst:.1e}", f"{as_vggt:.2g}"))
    print("\n".join(table(("frames, H x W", "worst output", "pose, taken for VGGT"), rows)))


if __name__ == "__main__":
    main()
