"""VGGT (arXiv 2503.11651) for a fixed input shape, written to be exported; loads facebook/VGGT-1B's state dict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vggt_edge.exporter.models.aggregator import Aggregator
from vggt_edge.exporter.models.camera_head import CameraHead
from vggt_edge.exporter.models.config import OUTPUTS, SPECIAL_TOKENS, InputShape, VGGTConfig, checked_outputs
from vggt_edge.exporter.models.dpt_head import DPTHead, activate_depth, activate_points

TENSORS_OF_OUTPUT = {"camera": ("pose_enc",), "depth": ("depth", "depth_conf"), "points": ("points", "points_conf")}


class VGGT(nn.Module):
    """Images (B, S, 3, H, W) in [0, 1] to the tensors of the requested heads, in the order of ``output_names``.

    ``pose_enc`` (B, S, 9): translation, quaternion xyzw, vertical and horizontal field of view in radians, world to
    camera, the world being frame 0's camera. ``depth``, ``depth_conf``, ``points_conf`` (B, S, H, W); ``points``
    (B, S, H, W, 3) in the world.
    """

    special_tokens = SPECIAL_TOKENS

    def __init__(self, config: VGGTConfig, shape: InputShape, outputs: Sequence[str] = OUTPUTS) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.outputs = checked_outputs(outputs)
        self.aggregator = Aggregator(config, shape)
        if "camera" in self.outputs:
            self.camera_head = CameraHead(config)
        if "depth" in self.outputs:
            self.depth_head = DPTHead(config, shape, outputs=2)
        if "points" in self.outputs:
            self.point_head = DPTHead(config, shape, outputs=4)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(tensor for output in self.outputs for tensor in TENSORS_OF_OUTPUT[output])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        entries = self.aggregator(images)
        results: list[Tensor] = []
        if "camera" in self.outputs:
            results.append(self.camera_head(entries[-1])[-1])
        if "depth" in self.outputs:
            results.extend(activate_depth(self.depth_head(entries)))
        if "points" in self.outputs:
            results.extend(activate_points(self.point_head(entries)))
        return tuple(results)

    def blocks(self) -> dict[str, nn.Module]:
        """The units of precision assignment, in the order in which the model runs them."""
        aggregator = self.aggregator
        named: dict[str, nn.Module] = {}
        for index, block in enumerate(aggregator.patch_embed.blocks):
            named[f"patch_embed.blocks.{index}"] = block
        for index, (frame, every) in enumerate(zip(aggregator.frame_blocks, aggregator.global_blocks, strict=True)):
            named[f"frame_blocks.{index}"] = frame
            named[f"global_blocks.{index}"] = every
        if "camera" in self.outputs:
            for index, block in enumerate(self.camera_head.trunk):
                named[f"camera_head.trunk.{index}"] = block
        for name in ("depth_head", "point_head"):
            if hasattr(self, name):
                named[name] = getattr(self, name)
        return named

    def example_input(self) -> Tensor:
        """Zeros of the input shape, for tracing only."""
        return torch.zeros(1, self.shape.frames, 3, self.shape.height, self.shape.width)

    def fix_constants(self) -> VGGT:
        """After loading: make everything that depends only on weights and the input size a constant. Returns self."""
        self.aggregator.patch_embed.fix_constants()
        return self.eval().requires_grad_(False)
