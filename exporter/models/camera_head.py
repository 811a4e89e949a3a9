"""Iterative camera regression from the camera token (VGGT section 3.3; adaptive norm as in DiT, arXiv 2212.09748)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.exporter.models.config import VGGTConfig
from vggt_edge.exporter.models.layers import Block, Mlp

POSE_DIM = 9


class CameraHead(nn.Module):
    """Camera tokens (B * S, 2C) to one pose encoding (B, S, 9) per refinement; the last one counts.

    turn: a linear, C to C, in a model whose residual streams are rotated (calibration/transforms).
    """

    def __init__(self, config: VGGTConfig, frames: int) -> None:
        super().__init__()
        self.frames = frames
        dim = 2 * config.embed_dim
        self.iterations = config.camera_iterations
        self.turn: nn.Module = nn.Identity()
        self.token_norm = nn.LayerNorm(dim)
        self.trunk = nn.ModuleList(Block(dim, config.camera_heads) for _ in range(config.camera_trunk_depth))
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_DIM))
        self.embed_pose = nn.Linear(POSE_DIM, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.pose_branch = Mlp(dim, dim // 2, POSE_DIM)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        camera = self.token_norm(self._turned(tokens))
        normalised = self.adaln_norm(camera)
        pose = seen = self.empty_pose_tokens[0].expand(len(camera), -1)
        predictions: list[Tensor] = []
        for _ in range(self.iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(seen)).chunk(3, dim=-1)
            x = gate * (normalised * (1 + scale) + shift) + camera
            for block in self.trunk:
                x = block(x, len(x) // self.frames)
            delta = self.pose_branch(self.trunk_norm(x))
            pose = pose + delta if predictions else delta
            seen = pose.detach()  # a refinement learns from its own error, not through those before it
            predictions.append(pose)
        return [activate_pose(prediction).view(-1, self.frames, POSE_DIM) for prediction in predictions]

    def _turned(self, tokens: Tensor) -> Tensor:
        if isinstance(self.turn, nn.Identity):  # no node in the graph of a model that was not rotated
            return tokens
        # What a frame block and the global block after it wrote lie side by side; each is turned by itself.
        return self.turn(tokens.reshape(-1, tokens.shape[1] // 2)).view(tokens.shape)  # type: ignore[no-any-return]


def activate_pose(raw: Tensor) -> Tensor:
    """Translation and quaternion stay linear, the two fields of view are made non-negative."""
    return torch.cat([raw[..., :7], functional.relu(raw[..., 7:])], dim=-1)
