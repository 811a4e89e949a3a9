"""DINOv2 patch embedding and the alternating frame/global attention (VGGT, arXiv 2503.11651, section 3.2)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.exporter.models.config import PATCH, SPECIAL_TOKENS, InputShape, VGGTConfig
from vggt_edge.exporter.models.layers import Block, repeat_frames, rope_tables

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
REGISTERS = SPECIAL_TOKENS - 1


class PatchProjection(nn.Module):
    """Square patches to tokens. patch: their side in pixels."""

    def __init__(self, dim: int, patch: int = PATCH) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


def resized_positions(table: Tensor, side: int, **to: Any) -> Tensor:
    """A position table (1, 1 + side * side, C), class token first, for another grid.

    to: arguments of ``torch.nn.functional.interpolate`` that say which grid.
    """
    cls, patches = table[:, :1], table[:, 1:]
    square = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(square, mode="bicubic", **to)
    return torch.cat([cls, resized.flatten(2).transpose(1, 2)], dim=1)


class DinoSizes(Protocol):
    """What a configuration says of its DINOv2. position_grid: side of the square grid of ``pos_embed``."""

    @property
    def embed_dim(self) -> int: ...

    @property
    def heads(self) -> int: ...

    @property
    def dino_depth(self) -> int: ...

    @property
    def position_grid(self) -> int: ...


class DinoPatchEmbed(nn.Module):
    """DINOv2 ViT with registers: ``embed``, then every block, then ``patches``."""

    fixed_position: Tensor | None

    def __init__(self, config: DinoSizes, shape: InputShape) -> None:
        super().__init__()
        dim = config.embed_dim
        self.grid = shape.grid
        self.native_grid = config.position_grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.position_grid**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, REGISTERS, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # unused; kept so that checkpoints load strictly
        self.patch_embed = PatchProjection(dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, eps=1e-6, layer_scale=1.0) for _ in range(config.dino_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.register_buffer("fixed_position", None, persistent=False)

    def fix_constants(self) -> None:
        """Interpolate the position table to the export grid once, so that the graph holds a constant."""
        self.fixed_position = self._position_table().detach()

    def _position_table(self) -> Tensor:
        if self.grid == (self.native_grid, self.native_grid):
            return self.pos_embed
        return resized_positions(self.pos_embed, self.native_grid, size=self.grid, antialias=True)

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to tokens (N * tokens, C): class token, registers, patches."""
        frames = images.shape[0]
        position = self._position_table() if self.fixed_position is None else self.fixed_position
        patches = self.patch_embed(images) + position[:, 1:]
        first = torch.cat([self.cls_token + position[:, :1], self.register_tokens], dim=1)
        return torch.cat([first.expand(frames, -1, -1), patches], dim=1).flatten(0, 1)

    def patches(self, x: Tensor) -> Tensor:
        """What leaves the last block, (N * tokens, C), to normalised patch tokens (N, patches, C)."""
        rows, columns = self.grid
        x = x.view(-1, SPECIAL_TOKENS + rows * columns, x.shape[1])
        return self.norm(x[:, SPECIAL_TOKENS:])  # type: ignore[no-any-return]


class Aggregator(nn.Module):
    """DINO and the alternating attention; what runs in which order is said by ``VGGT.stages``.

    turn: a linear, C to C, in a model whose residual streams are rotated (calibration/transforms).
    """

    mean: Tensor
    std: Tensor
    frame_cos: Tensor
    frame_sin: Tensor
    global_cos: Tensor
    global_sin: Tensor
    rope_turn: Tensor

    def __init__(self, config: VGGTConfig, shape: InputShape) -> None:
        super().__init__()
        dim = config.embed_dim
        self.shape = shape
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, REGISTERS, dim))
        self.patch_embed = DinoPatchEmbed(config, shape)
        self.turn: nn.Module = nn.Identity()
        self.frame_blocks = nn.ModuleList(Block(dim, config.heads, qk_norm=True) for _ in range(config.depth))
        self.global_blocks = nn.ModuleList(Block(dim, config.heads, qk_norm=True) for _ in range(config.depth))
        frame = rope_tables(shape.grid, SPECIAL_TOKENS, dim // config.heads)
        every = repeat_frames(frame, shape.frames)
        for name, table in (
            ("mean", torch.tensor(IMAGENET_MEAN, device="cpu").view(1, 3, 1, 1)),
            ("std", torch.tensor(IMAGENET_STD, device="cpu").view(1, 3, 1, 1)),
            ("frame_cos", frame.cos),
            ("frame_sin", frame.sin),
            ("global_cos", every.cos),
            ("global_sin", every.sin),
            ("rope_turn", frame.turn),
        ):
            self.register_buffer(name, table, persistent=False)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, S, 3, H, W) to DINO's tokens (B * S * tokens, C)."""
        return self.patch_embed.embed((images.flatten(0, 1) - self.mean) / self.std)

    def special_tokens(self, batch: int, frames: int) -> Tensor:
        """Camera and register tokens, (B, S, 5, C): slot 0 for the reference frame, slot 1 for every other."""
        slots = torch.cat([self.camera_token, self.register_token], dim=2)
        others = slots[:, 1:].expand(-1, frames - 1, -1, -1)
        return torch.cat([slots[:, :1], others], dim=1).expand(batch, -1, -1, -1)

    def tokens(self, x: Tensor) -> Tensor:
        """What leaves DINO to what enters the alternating blocks: its own special tokens give way to VGGT's."""
        patches = self.turn(self.patch_embed.patches(x))
        patches = patches.view(-1, self.shape.frames, *patches.shape[1:])
        batch, frames = patches.shape[:2]
        return torch.cat([self.special_tokens(batch, frames), patches], dim=2).flatten(0, 2)

    def entry(self, local: Tensor, every: Tensor) -> Tensor:
        """Outputs of a frame block and the global block after it, joined: (B * S, tokens, 2C)."""
        joined = torch.cat([local, every], dim=1)
        return joined.view(-1, self.shape.tokens, joined.shape[1])
