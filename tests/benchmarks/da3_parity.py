"""Compares our Depth Anything 3 with its authors' code: the tables of docs/models/depth-anything-3.md.

``da3_parity.py --theirs SRC`` takes the ``src`` folder of a checkout of github.com/ByteDance-Seed/Depth-Anything-3,
which needs ``addict``, ``einops`` and ``omegaconf`` besides our own dependencies. Both get equal random weights. The
errors are norm(ours - theirs) / norm(theirs - mean(theirs)), in FP32, with frame 0 as the reference view: a map that
varies little is held to what it varies by.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import table
from stream_parity import draw
from torch import Tensor, nn

from vggt_edge.calibration.metrics.geometry import decode_pose
from vggt_edge.exporter.models.aggregator import IMAGENET_MEAN, IMAGENET_STD
from vggt_edge.exporter.models.depth_anything_3 import ARCHITECTURE
from vggt_edge.exporter.models.depth_anything_3_layers import KNOWN, DepthAnything3Config
from vggt_edge.exporter.models.unwrapping import with_shared

SHAPES = ((1, 56, 70), (2, 98, 84), (4, 70, 56), (3, 140, 196), (2, 518, 518), (2, 378, 504))  # frames, height, width
LARGER = ((2, 98, 84),)
SIZES = {"da3-small": "vits", "da3-base": "vitb", "da3-large": "vitl"}


class Theirs(nn.Module):
    """The authors' parts in the order of their ``DepthAnything3Net.forward``, which drops the rays."""

    def __init__(self, config: DepthAnything3Config) -> None:
        super().__init__()
        start = config.alternating_from
        self.backbone = import_module("depth_anything_3.model.dinov2.dinov2").DinoV2(
            SIZES[config.name], list(config.taps), start, start, start, cat_token=True
        )
        self.head = import_module("depth_anything_3.model.dualdpt").DualDPT(
            2 * config.embed_dim, output_dim=2, features=config.dpt_features, out_channels=config.dpt_channels
        )
        self.cam_dec = import_module("depth_anything_3.model.cam_dec").CameraDec(2 * config.embed_dim)
        self.decode = import_module("depth_anything_3.model.utils.transform").pose_encoding_to_extri_intri

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
        features, _ = self.backbone((images - mean) / std, ref_view_strategy="first")
        maps = self.head(features, height, width, patch_start_idx=0)
        to_world, intrinsics = self.decode(self.cam_dec(features[-1][1]), (height, width))
        rotation = to_world[..., :3].transpose(-1, -2)
        extrinsics = torch.cat([rotation, -rotation @ to_world[..., 3:]], dim=-1)
        found = {"depth": maps.depth, "depth_conf": maps.depth_conf, "rays": maps.ray, "ray_conf": maps.ray_conf}
        return {"extrinsics": extrinsics, "intrinsics": intrinsics, **found}


def ours(state: dict[str, Tensor], config: DepthAnything3Config, images: Tensor) -> dict[str, Tensor]:
    _, frames, _, height, width = images.shape
    model = ARCHITECTURE.build(config, ARCHITECTURE.shape(frames, height, width), ARCHITECTURE.heads)
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    values = dict(zip(model.output_names, model.fix_constants()(images), strict=True))
    cameras = decode_pose(values.pop("pose_enc")[0].numpy(), (height, width))
    extrinsics, intrinsics = (torch.from_numpy(np.float32(each))[None] for each in cameras)
    return {"extrinsics": extrinsics, "intrinsics": intrinsics, **values}


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / (wanted - wanted.mean()).norm())


def compared(config: DepthAnything3Config, shapes: tuple[tuple[int, int, int], ...]) -> list[tuple[str, ...]]:
    """A row per shape: the relative error of every output."""
    generator = torch.Generator().manual_seed(1)
    theirs: Any = Theirs(config).eval()
    draw(theirs, generator)
    theirs.cam_dec.fc_fov[0].bias.fill_(1.0)  # a field of view that a ReLU does not make zero
    state = with_shared(theirs.state_dict(), ARCHITECTURE)
    rows = []
    for frames, height, width in shapes:
        images = torch.rand(1, frames, 3, height, width, generator=generator)
        found, wanted = ours(state, config, images), theirs(images)
        errors = [f"{error(found[name], each):.1e}" for name, each in wanted.items()]
        rows.append((config.name, f"{frames}, {height} x {width}", *errors))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, required=True, metavar="SRC", help="src folder of the authors' checkout")
    sys.path.insert(0, str(parser.parse_args().theirs.resolve()))
    with torch.no_grad():
        rows = [row for config in KNOWN for row in compared(config, SHAPES if config == KNOWN[0] else LARGER)]
    header = ("model", "frames, H x W", "extrinsics", "intrinsics", "depth", "depth_conf", "rays", "ray_conf")
    print("\n".join(table(header, rows)))


if __name__ == "__main__":
    main()
