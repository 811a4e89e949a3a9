"""Compares our MapAnything with its authors' code: the table of docs/models/mapanything.md.

``mapanything_parity.py --theirs A --uniception B --dinov2 C`` takes checkouts of facebookresearch/map-anything,
castacks/UniCeption and facebookresearch/dinov2, and needs ``einops`` besides our own dependencies. Both get equal
random weights; theirs gets images alone. The errors are norm(ours - theirs) / norm(theirs - mean(theirs)), in FP32: a
map that varies little is held to what it varies by.

``--sizes`` says which models; a whole one of 1.2 billion weights takes 7 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from measure import table
from stream_parity import draw
from torch import Tensor, nn

from vggt_edge.calibration.metrics.geometry import decode_pose
from vggt_edge.exporter.models.aggregator import IMAGENET_MEAN, IMAGENET_STD
from vggt_edge.exporter.models.mapanything import ARCHITECTURE
from vggt_edge.exporter.models.mapanything_layers import KNOWN, MapAnythingConfig
from vggt_edge.exporter.models.unwrapping import with_shared

# Frames, height, width; the first are small, so that a whole model fits beside other work.
SHAPES = ((1, 56, 70), (2, 56, 70), (3, 98, 84))
# The authors' configurations of the sizes that we know.
CONFIGS = {"mapanything": "mapanything", "mapanything-v1": "mapanything_v1"}
# Imported by the authors' code for what is not run here.
_UNUSED = ("cv2", "jaxtyping", "timm", "torchvision")
_INITIAL = ("constant_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "xavier_uniform_", "zeros_")


class Placeholders:
    """Finds an empty module for everything in packages that are not installed and not needed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in _UNUSED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return MagicMock(name=spec.name, __path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def theirs(config: MapAnythingConfig, folder: Path) -> Any:
    """The authors' model with memory for its weights, but nothing in it: drawing a billion twice takes minutes."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    infinities = {"inf": np.inf, "-inf": -np.inf}
    OmegaConf.register_new_resolver("special_float", infinities.__getitem__, replace=True)
    with ExitStack() as stack:
        for name in _INITIAL:
            stack.enter_context(patch.object(nn.init, name, lambda tensor, *_, **__: tensor))
        backbones = import_module("dinov2.hub.backbones")
        load = lambda _, name, **__: getattr(backbones, name)(pretrained=False)  # noqa: E731
        stack.enter_context(patch.object(torch.hub, "load", load))
        stack.enter_context(initialize_config_dir(str((folder / "configs").resolve()), version_base=None))
        told = compose(overrides=[f"+model={CONFIGS[config.name]}"])
        arguments = OmegaConf.to_container(told.model.model_config, resolve=True)
        model = import_module("mapanything.models.mapanything.model").MapAnything(**arguments)
    return model.eval()


def values_of(model: Any, images: Tensor) -> dict[str, Tensor]:
    """What the authors' model says, in our conventions; fields of view are fitted to its rays in float64."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    views = [{"img": each, "data_norm_type": ["dinov2"]} for each in ((images - mean) / std).unbind(1)]
    found = model(views)
    joined = {name: torch.stack([view[name] for view in found], dim=1)[0] for name in found[0]}
    rotation = import_module("mapanything.utils.geometry").quaternion_to_rotation_matrix(joined["cam_quats"])
    turned = rotation.transpose(1, 2)
    rays = joined["ray_directions"]
    return {
        "extrinsics": torch.cat([turned, -turned @ joined["cam_trans"][..., None]], dim=-1),
        "field of view": torch.stack(list(fields_of_view(rays.double())), dim=1),
        "depth": (rays * joined["depth_along_ray"])[..., 2],
        "depth_conf": joined["conf"],
        "points": joined["pts3d"],
        "sky": 0.6 * (-joined["non_ambiguous_mask_logits"]).sigmoid(),
    }


def fields_of_view(rays: Tensor) -> Iterator[Tensor]:
    """Vertical and horizontal field of view of cameras that see pixels at rays (S, H, W, 3), by least squares."""
    x, y, z = rays.unbind(-1)
    rows, columns = ((2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1 for side in rays.shape[1:3])
    for seen, offset in ((y, rows[:, None]), (x, columns)):
        yield 2 * ((offset * z * seen).sum((1, 2)) / (offset * z).square().sum((1, 2))).atan()


def ours(state: dict[str, Tensor], config: MapAnythingConfig, images: Tensor) -> dict[str, Tensor]:
    _, frames, _, height, width = images.shape
    with torch.device("meta"):
        model = ARCHITECTURE.build(config, ARCHITECTURE.shape(frames, height, width), ARCHITECTURE.heads)
    model.load_state_dict({name: state[name] for name in model.state_dict()}, assign=True)
    values = {name: each[0] for name, each in zip(model.output_names, model.fix_constants()(images), strict=True)}
    poses = values.pop("pose_enc")
    extrinsics = torch.from_numpy(decode_pose(poses.numpy(), (height, width))[0])
    return {"extrinsics": extrinsics, "field of view": poses[:, 7:], **values}


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / (wanted - wanted.mean()).norm())


def compared(config: MapAnythingConfig, folder: Path) -> Iterator[tuple[str, ...]]:
    """A row per shape: the relative error of every output."""
    generator = torch.Generator().manual_seed(1)
    model = theirs(config, folder)
    draw(model, generator)
    model.dpt_regressor_head.conv2[2].bias[2] = 1.0  # most rays point forward
    state = with_shared(model.state_dict(), ARCHITECTURE)
    for frames, height, width in SHAPES:
        images = torch.rand(1, frames, 3, height, width, generator=generator)
        found, wanted = ours(state, config, images), values_of(model, images)
        errors = [f"{error(found[name], each):.1e}" for name, each in wanted.items()]
        yield (config.name, f"{frames}, {height} x {width}", *errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, required=True, help="checkout of map-anything")
    parser.add_argument("--uniception", type=Path, required=True, help="checkout of UniCeption")
    parser.add_argument("--dinov2", type=Path, required=True, help="checkout of dinov2")
    parser.add_argument("--sizes", nargs="+", choices=CONFIGS, default=list(CONFIGS), help="models; all by default")
    given = parser.parse_args()
    sys.path[:0] = [str(each.resolve()) for each in (given.theirs, given.uniception, given.dinov2)]
    sys.meta_path.append(Placeholders())  # type: ignore[arg-type]
    os.environ["XFORMERS_DISABLED"] = "1"
    with torch.no_grad():
        rows = [row for each in KNOWN if each.name in given.sizes for row in compared(each, given.theirs)]
    header = ("model", "frames, H x W", "extrinsics", "field of view", "depth", "depth_conf", "points", "sky")
    print("\n".join(table(header, rows)))


if __name__ == "__main__":
    main()
