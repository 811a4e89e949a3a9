"""Compares our Pi3 with its authors' code: the table of docs/models/pi3.md.

``pi3_parity.py --theirs CHECKOUT`` takes a checkout of github.com/yyfz/Pi3, which needs nothing besides our own
dependencies. Both get equal random weights. The errors are norm(ours - theirs) / norm(theirs - mean(theirs)), in FP32,
and of focal lengths norm(ours - theirs) / norm(theirs), after their cameras and points have been turned into the world
of frame 0's camera. The full size takes 5 GB.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from measure import table
from stream_parity import draw
from torch import Tensor, nn

from vggt_edge.calibration.metrics.geometry import decode_pose
from vggt_edge.exporter.models.aggregator import IMAGENET_MEAN, IMAGENET_STD
from vggt_edge.exporter.models.config import PATCH
from vggt_edge.exporter.models.pi3 import ARCHITECTURE
from vggt_edge.exporter.models.pi3_layers import REGISTERS, Pi3Config
from vggt_edge.exporter.models.unwrapping import without_buffers

SMALL = Pi3Config("small", 192, 4, 6, 3, 192, 3, 2, 96)
SHAPES = ((1, 56, 70), (2, 98, 84), (4, 70, 56), (3, 140, 196))  # frames, height, width
LARGER = ((1, 56, 70), (3, 98, 84))


def build_theirs(config: Pi3Config) -> Any:
    """The authors' model, whose constructor knows one size only, from their parts in the sizes of ``config``."""
    layers = "pi3.models.layers"
    rope_module, heads = import_module(f"{layers}.pos_embed"), import_module(f"{layers}.transformer_head")
    vit = import_module("pi3.models.dinov2.models.vision_transformer")
    kind = import_module("pi3.models.pi3").Pi3
    model = kind.__new__(kind)
    nn.Module.__init__(model)
    model.patch_size, model.pos_type, model.patch_start_idx = PATCH, "rope100", REGISTERS
    model.rope, model.position_getter = rope_module.RoPE2D(freq=100.0), rope_module.PositionGetter()
    model.encoder = vit.DinoVisionTransformer(
        img_size=config.native_resolution, patch_size=PATCH, embed_dim=config.embed_dim, depth=config.dino_depth,
        num_heads=config.heads, block_fn=import_module("pi3.models.dinov2.layers").NestedTensorBlock,
        init_values=1.0, block_chunks=0, num_register_tokens=4, interpolate_antialias=True, interpolate_offset=0.0,
    )  # fmt: skip
    del model.encoder.mask_token
    block = partial(
        import_module(f"{layers}.block").BlockRope, config.embed_dim, config.heads, qkv_bias=True, init_values=0.01,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), qk_norm=True, rope=model.rope,
        attn_class=import_module(f"{layers}.attention").FlashAttentionRope,
    )  # fmt: skip
    model.decoder = nn.ModuleList(block() for _ in range(config.depth))
    model.register_token = nn.Parameter(torch.empty(1, 1, REGISTERS, config.embed_dim))
    for name, out in (("point", config.head_dim), ("conf", config.head_dim), ("camera", config.camera_dim)):
        decoder = heads.TransformerDecoder(
            2 * config.embed_dim, out, config.head_dim, config.head_depth, config.head_heads, rope=model.rope
        )
        setattr(model, f"{name}_decoder", decoder)
    model.point_head = heads.LinearPts3d(PATCH, config.head_dim, output_dim=3)
    model.conf_head = heads.LinearPts3d(PATCH, config.head_dim, output_dim=1)
    model.camera_head = import_module(f"{layers}.camera_head").CameraHead(dim=config.camera_dim)
    for name, values in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD)):
        model.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
    return model.eval()


def theirs_turned(model: Any, images: Tensor) -> dict[str, Tensor]:
    """Their outputs in the world of frame 0's camera; focal lengths as their code recovers them from local points."""
    found = model(images)
    to_world = found["camera_poses"].double()
    first, local = to_world[:, :1].inverse(), found["local_points"]
    points = torch.einsum("bij,bshwj->bshwi", first[:, 0, :3, :3], found["points"].double())
    recover = import_module("pi3.utils.geometry").recover_intrinsic_from_rays_d
    intrinsics = recover(local, force_center_principal_point=True)
    return {
        "extrinsics": (first @ to_world).inverse()[:, :, :3],
        "focal": intrinsics[..., [0, 1], [0, 1]],
        "depth": local[..., 2],
        "depth_conf": found["conf"][..., 0].sigmoid(),
        "points": points + first[:, 0, :3, 3].view(-1, 1, 1, 1, 3),
    }


def ours(state: Mapping[str, Tensor], config: Pi3Config, images: Tensor) -> dict[str, Tensor]:
    _, frames, _, height, width = images.shape
    with torch.device("meta"):
        model = ARCHITECTURE.build(config, ARCHITECTURE.shape(frames, height, width), ARCHITECTURE.heads)
    # Strictly: what only one of the two has is an error.
    model.load_state_dict(state, assign=True)
    values = dict(zip(model.output_names, model.fix_constants()(images), strict=True))
    extrinsics, intrinsics = decode_pose(values.pop("pose_enc")[0].numpy(), (height, width))
    focal = intrinsics[:, [0, 1], [0, 1]]
    return {"extrinsics": torch.from_numpy(extrinsics)[None], "focal": torch.from_numpy(focal)[None], **values}


def draw_pi3(model: Any, generator: torch.Generator) -> None:
    """Random weights under which slopes grow from the left to the right and down: focal lengths are positive."""
    draw(model, generator)
    across = torch.linspace(-2, 2, PATCH).expand(PATCH, PATCH)
    model.point_head.proj.weight.mul_(0.5)
    model.point_head.proj.bias.copy_(torch.stack([across, across.T, torch.zeros(PATCH, PATCH)]).flatten())
    for layer in (model.camera_head.fc_rot, model.camera_head.fc_t):
        layer.weight.mul_(10)  # the mean over many patches differs little between frames


def compared(config: Pi3Config, shapes: tuple[tuple[int, int, int], ...]) -> list[tuple[str, ...]]:
    """A row per shape: the relative error of every output."""
    generator = torch.Generator().manual_seed(1)
    theirs = build_theirs(config)
    draw_pi3(theirs, generator)
    state = ARCHITECTURE.adapted(without_buffers(theirs.state_dict(), ARCHITECTURE, "theirs"))
    rows = []
    for frames, height, width in shapes:
        images = torch.rand(1, frames, 3, height, width, generator=generator)
        images = images * torch.rand(1, frames, 3, 1, 1, generator=generator)
        wanted, found = theirs_turned(theirs, images), ours(state, config, images)
        # Focal lengths hardly vary; their error is a share of the length itself.
        held_to = {name: each - (each.mean() if name != "focal" else 0) for name, each in wanted.items()}
        errors = [f"{float((found[name] - each).norm() / held_to[name].norm()):.1e}" for name, each in wanted.items()]
        rows.append((config.name, f"{frames}, {height} x {width}", *errors))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, required=True, metavar="CHECKOUT", help="the authors' checkout")
    parser.add_argument("--small", action="store_true", help="leave out the full size")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.theirs.resolve()))
    with torch.no_grad():
        rows = compared(SMALL, SHAPES)
        rows += [] if arguments.small else compared(Pi3Config(), LARGER)
    print("\n".join(table(("model", "frames, H x W", "extrinsics", "focal", "depth", "depth_conf", "points"), rows)))


if __name__ == "__main__":
    main()
