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
from vggt_edge.exporter.models.architecture import Architecture
from vggt_edge.exporter.models.depth_anything_3 import ARCHITECTURE
from vggt_edge.exporter.models.depth_anything_3_layers import KNOWN, DepthAnything3Config
from vggt_edge.exporter.models.depth_anything_3_mono import ARCHITECTURE as MONO
from vggt_edge.exporter.models.depth_anything_3_mono import DepthAnything3MonoConfig
from vggt_edge.exporter.models.unwrapping import with_shared

SHAPES = ((1, 56, 70), (2, 98, 84), (4, 70, 56), (3, 140, 196), (2, 518, 518), (2, 378, 504))  # frames, height, width
LARGER = ((2, 98, 84),)
PICTURES = ((1, 56, 70), (2, 98, 84), (1, 140, 196), (1, 378, 504))
Shapes = tuple[tuple[int, int, int], ...]
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
        features, _ = self.backbone(normalised(images), ref_view_strategy="first")
        maps = self.head(features, height, width, patch_start_idx=0)
        to_world, intrinsics = self.decode(self.cam_dec(features[-1][1]), (height, width))
        rotation = to_world[..., :3].transpose(-1, -2)
        extrinsics = torch.cat([rotation, -rotation @ to_world[..., 3:]], dim=-1)
        found = {"depth": maps.depth, "depth_conf": maps.depth_conf, "rays": maps.ray, "ray_conf": maps.ray_conf}
        return {"extrinsics": extrinsics, "intrinsics": intrinsics, **found}


class TheirsMono(nn.Module):
    """Backbone and head of the monocular form, without the sky's new depths, which follow in their forward."""

    def __init__(self, config: DepthAnything3MonoConfig) -> None:
        super().__init__()
        self.backbone = import_module("depth_anything_3.model.dinov2.dinov2").DinoV2(
            "vitl", list(config.taps), -1, -1, -1, cat_token=False
        )
        self.head = import_module("depth_anything_3.model.dpt").DPT(
            config.embed_dim, output_dim=1, features=config.dpt_features, out_channels=config.dpt_channels
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        features, _ = self.backbone(normalised(images))
        maps = self.head(features, height, width, patch_start_idx=0)
        return {"depth": maps.depth, "sky": maps.sky}


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def ours(one: Architecture, state: dict[str, Tensor], config: Any, images: Tensor) -> dict[str, Tensor]:
    _, frames, _, height, width = images.shape
    model = one.build(config, one.shape(frames, height, width), one.heads)
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    values = dict(zip(model.output_names, model.fix_constants()(images), strict=True))
    if "pose_enc" not in values:
        return values
    cameras = decode_pose(values.pop("pose_enc")[0].numpy(), (height, width))
    extrinsics, intrinsics = (torch.from_numpy(np.float32(each))[None] for each in cameras)
    return {"extrinsics": extrinsics, "intrinsics": intrinsics, **values}


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / (wanted - wanted.mean()).norm())


def compared(one: Architecture, theirs: Any, config: Any, shapes: Shapes) -> list[tuple[str, ...]]:
    """A row per shape: the relative error of every output. theirs: the model, whose weights are drawn here."""
    generator = torch.Generator().manual_seed(1)
    draw(theirs.eval(), generator)
    if hasattr(theirs, "cam_dec"):
        theirs.cam_dec.fc_fov[0].bias.fill_(1.0)  # a field of view that a ReLU does not make zero
    state = with_shared(theirs.state_dict(), one)
    rows = []
    for frames, height, width in shapes:
        images = torch.rand(1, frames, 3, height, width, generator=generator)
        found, wanted = ours(one, state, config, images), theirs(images)
        errors = [f"{error(found[name], each):.1e}" for name, each in wanted.items()]
        rows.append((config.name, f"{frames}, {height} x {width}", *errors))
    return rows


def any_view() -> list[tuple[str, ...]]:
    shapes = {config: SHAPES if config == KNOWN[0] else LARGER for config in KNOWN}
    return [row for config, each in shapes.items() for row in compared(ARCHITECTURE, Theirs(config), config, each)]


def monocular() -> list[tuple[str, ...]]:
    config = DepthAnything3MonoConfig()
    return compared(MONO, TheirsMono(config), config, PICTURES)


FORMS = {
    "any-view": (any_view, ("extrinsics", "intrinsics", "depth", "depth_conf", "rays", "ray_conf")),
    "mono": (monocular, ("depth", "sky")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, required=True, metavar="SRC", help="src folder of the authors' checkout")
    parser.add_argument("--form", choices=FORMS, help="default: both")
    given = parser.parse_args()
    sys.path.insert(0, str(given.theirs.resolve()))
    for form in (given.form,) if given.form else FORMS:
        rows, outputs = FORMS[form]
        with torch.no_grad():
            print("\n".join(table(("model", "frames, H x W", *outputs), rows())))


if __name__ == "__main__":
    main()
