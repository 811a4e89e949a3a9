"""Aggregator, heads and sizes of VGGT-Omega (arXiv 2605.15195)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.exporter.models.aggregator import IMAGENET_MEAN, IMAGENET_STD, PatchProjection
from vggt_edge.exporter.models.dpt_head import FeatureFusion, Pyramid, UVEmbedding
from vggt_edge.exporter.models.layers import Block, RopeTables
from vggt_edge.exporter.models.shape import InputShape

PATCH = 16
REGISTERS = 16
SPECIAL_TOKENS = 1 + REGISTERS  # the camera token, and registers
STORAGE_TOKENS = 4
DINO_SPECIAL_TOKENS = 1 + STORAGE_TOKENS  # the class token, and registers of its own
POSE_DIM = 9
LEAST_FIELD_OF_VIEW = 0.01
_ROPE_BASE = 100.0
_MAPS = ("proj", "proj_conf")
# The fused map has a cell for so many pixels along each side; a head puts out all pixels of a cell as channels.
_CELL = PATCH // 4


@dataclass(frozen=True)
class VGGTOmegaConfig:
    """Defaults are those of VGGT-Omega-1B-512; ``name`` appears in reports.

    - register_blocks: the inter-frame blocks that see the camera and register tokens only.
    - taps: pairs of blocks whose outputs the dense head reads; the camera head reads the last.
    """

    name: str = "vggt-omega-1b-512"
    embed_dim: int = 1024
    dino_depth: int = 24
    depth: int = 24
    heads: int = 16
    register_blocks: tuple[int, ...] = (2, 6, 9, 14, 20)
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)
    camera_trunk_depth: int = 4
    camera_heads: int = 16
    dpt_features: int = 256
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    native_resolution: int = 512

    def __post_init__(self) -> None:
        sizes = (self.embed_dim, self.heads, self.camera_heads, self.dpt_features, *self.dpt_channels)
        depths = (self.dino_depth, self.depth, self.camera_trunk_depth)
        if not all(1 <= size <= 8192 for size in sizes) or not all(1 <= depth <= 128 for depth in depths):
            raise ValueError("a size is below 1 or implausibly large")
        if self.embed_dim % (4 * self.heads) or 2 * self.embed_dim % self.camera_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} cannot be split into {self.heads} and {self.camera_heads} heads"
            )
        if any(width % 4 for width in (self.dpt_features, *self.dpt_channels)):
            raise ValueError("dpt_features and dpt_channels have to be multiples of 4")
        if list(self.taps) != sorted(set(self.taps)) or self.taps[-1] != self.depth - 1:
            raise ValueError(f"taps {self.taps} do not rise to the last of {self.depth} pairs of blocks")
        if not set(self.register_blocks) <= set(range(self.depth)):
            raise ValueError(f"register_blocks {self.register_blocks} are not all among {self.depth} blocks")
        if self.native_resolution < PATCH or self.native_resolution % PATCH:
            raise ValueError(f"native_resolution {self.native_resolution} is no multiple of {PATCH}")


class RopePeriods(nn.Module):
    """Rotary positions of patches that lie evenly in a square from -1 to 1, which the longer side of the image fills.

    periods: (head_dim / 4,), saved with the weights.
    """

    periods: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        steps = torch.arange(head_dim // 4, dtype=torch.float32, device="cpu")
        self.register_buffer("periods", _ROPE_BASE ** (4 * steps / head_dim))

    def tables(self, grid: tuple[int, int], special_tokens: int) -> RopeTables:
        """Tables of one frame; the special tokens in front are not turned.

        Channel i turns with channel i + head_dim / 2: the first half of such pairs by the row, the second by the
        column.
        """
        places = patch_centres(grid).to(self.periods.dtype)
        angles = (2 * math.pi * places[:, :, None] / self.periods).flatten(1).repeat(1, 2)
        still = angles.new_zeros(special_tokens, angles.shape[1])
        cos, sin = torch.cat([still + 1, angles.cos()]), torch.cat([still, angles.sin()])
        return RopeTables(cos, sin, _swap_halves(angles.shape[1]).to(angles.dtype))


def patch_centres(grid: tuple[int, int]) -> Tensor:
    """(patches, 2): row and column of the centre of every patch, in units of half the longer side."""
    rows, columns = ((2 * torch.arange(side, dtype=torch.float64, device="cpu") + 1) / max(grid) - 1 for side in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def _swap_halves(head_dim: int) -> Tensor:
    """x @ this: (a, b) to (-b, a), with a and b the halves of the channels."""
    turn = torch.zeros(2, head_dim // 2, 2, head_dim // 2, device="cpu")
    turn[0, :, 1] = torch.eye(head_dim // 2, device="cpu")
    turn[1, :, 0] = -torch.eye(head_dim // 2, device="cpu")
    return turn.view(head_dim, head_dim)


class DinoV3(nn.Module):
    """A ViT with rotary positions: ``embed``, then every block, then ``patches``."""

    def __init__(self, config: VGGTOmegaConfig, shape: InputShape) -> None:
        super().__init__()
        dim = config.embed_dim
        self.tokens = DINO_SPECIAL_TOKENS + shape.patches
        self.patch_embed = PatchProjection(dim, PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.storage_tokens = nn.Parameter(torch.zeros(1, STORAGE_TOKENS, dim))
        self.rope_embed = RopePeriods(dim // config.heads)
        self.blocks = nn.ModuleList(Block(dim, config.heads) for _ in range(config.dino_depth))
        self.norm = nn.LayerNorm(dim)

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to tokens (N * tokens, C): class token, registers, patches."""
        first = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(len(images), -1, -1)
        return torch.cat([first, self.patch_embed(images)], dim=1).flatten(0, 1)

    def patches(self, x: Tensor) -> Tensor:
        """What leaves the last block, (N * tokens, C), to normalised patch tokens (N, patches, C)."""
        return self.norm(x.view(-1, self.tokens, x.shape[1])[:, DINO_SPECIAL_TOKENS:])  # type: ignore[no-any-return]


class Aggregator(nn.Module):
    """DINOv3 and the alternating blocks; what runs in which order is said by ``VGGTOmega.stages``.

    turn: a linear, C to C, in a model whose residual streams are rotated (calibration/transforms).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: VGGTOmegaConfig, shape: InputShape) -> None:
        super().__init__()
        dim = config.embed_dim
        self.shape = shape
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, REGISTERS, dim))
        self.patch_embed = DinoV3(config, shape)
        self.turn: nn.Module = nn.Identity()
        self.rope_embed = RopePeriods(dim // config.heads)
        self.frame_blocks = nn.ModuleList(Block(dim, config.heads, qk_norm=True) for _ in range(config.depth))
        self.inter_frame_blocks = nn.ModuleList(Block(dim, config.heads, qk_norm=True) for _ in range(config.depth))
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(1, 3, 1, 1), persistent=False)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, S, 3, H, W) to DINOv3's tokens (B * S * tokens, C)."""
        return self.patch_embed.embed((images.flatten(0, 1) - self.mean) / self.std)

    def tokens(self, x: Tensor) -> Tensor:
        """What leaves DINOv3 to what enters the alternating blocks: its special tokens give way to others."""
        patches, frames = self.turn(self.patch_embed.patches(x)), self.shape.frames
        slots = torch.cat([self.camera_token, self.register_token], dim=2)[0]
        # Slot 0 is for the reference frame, slot 1 for every other.
        special = torch.cat([slots[:1], slots[1:].expand(frames - 1, -1, -1)])
        special = special.repeat(len(patches) // frames, 1, 1)
        return torch.cat([special, patches], dim=1).flatten(0, 1)

    def framed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B * S * tokens, C) as special tokens and patches, (B * S, ..., C) each."""
        x = x.view(-1, self.shape.tokens, x.shape[1])
        return x[:, :SPECIAL_TOKENS], x[:, SPECIAL_TOKENS:]


class CameraHead(nn.Module):
    """Special tokens (B * S * 17, 2C) to pose encodings (B, S, 9): ``enter``, then every block of the trunk, ``leave``.

    turn: a linear, 2C to 2C, in a model whose residual streams are rotated (calibration/transforms).
    """

    def __init__(self, config: VGGTOmegaConfig, shape: InputShape) -> None:
        super().__init__()
        dim = 2 * config.embed_dim
        self.frames = shape.frames
        self.token_norm = nn.LayerNorm(dim)
        self.turn: nn.Module = nn.Identity()
        self.trunk = nn.ModuleList(Block(dim, config.camera_heads) for _ in range(config.camera_trunk_depth))
        self.trunk_norm = nn.LayerNorm(dim)
        self.camera_branch = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, POSE_DIM))

    def enter(self, tokens: Tensor) -> Tensor:
        """The stream of the trunk."""
        return self.turn(self.token_norm(tokens))  # type: ignore[no-any-return]

    def leave(self, x: Tensor) -> Tensor:
        """Poses from the camera tokens of what leaves the trunk."""
        cameras = x.view(-1, SPECIAL_TOKENS, x.shape[1])[:, 0]
        raw = self.camera_branch(self.trunk_norm(cameras))
        fields_of_view = functional.relu(raw[:, 7:]) + LEAST_FIELD_OF_VIEW
        return torch.cat([raw[:, :7], fields_of_view], dim=1).view(-1, self.frames, POSE_DIM)


class DenseScratch(nn.Module):
    """Layers between the pyramid and the two maps; named as in the authors' checkpoints."""

    def __init__(self, features: int, channels: Sequence[int]) -> None:
        super().__init__()
        for level, width in enumerate(channels, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(width, features, 3, padding=1, bias=False))
            fusion = FeatureFusion(features, residual=level < len(channels), adds_rectified=False)
            self.add_module(f"refinenet{level}", fusion)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of four resolutions, finest first, to one of the finest resolution."""
        levels = [self.get_submodule(f"layer{index}_rn")(each) for index, each in enumerate(maps, start=1)]
        sizes = [level.shape[2:] for level in (levels[0], *levels[:3])]
        x = self.get_submodule("refinenet4")(levels[3], None, sizes[3])
        for index in (2, 1, 0):
            x = self.get_submodule(f"refinenet{index + 1}")(x, levels[index], sizes[index])
        return x  # type: ignore[no-any-return]


class DenseHead(Pyramid):
    """Four levels of patch tokens (B * S, patches, 2C) to raw depth and raw confidence, (B, S, H, W) each."""

    def __init__(self, config: VGGTOmegaConfig, shape: InputShape) -> None:
        super().__init__(2 * config.embed_dim, config.dpt_channels, shape)
        features = config.dpt_features
        self.scratch = DenseScratch(features, config.dpt_channels)
        self.uv_out = UVEmbedding(features, shape.height // _CELL, shape.width // _CELL, self.aspect)
        for name in _MAPS:
            self.add_module(name, nn.Conv2d(features, _CELL**2, 1))

    def forward(self, entries: Sequence[Tensor]) -> tuple[Tensor, ...]:
        fused = self.uv_out(self.scratch([self.level(index, entry) for index, entry in enumerate(entries)]))
        return tuple(self._pixels(self.get_submodule(name)(fused)) for name in _MAPS)

    def _pixels(self, cells: Tensor) -> Tensor:
        """Channels (N, cell * cell, rows, columns) to the pixels that they stand for."""
        rows, columns = cells.shape[2:]
        pixels = cells.view(-1, _CELL, _CELL, rows, columns).permute(0, 3, 1, 4, 2)
        return pixels.reshape(-1, self.shape.frames, self.shape.height, self.shape.width)
