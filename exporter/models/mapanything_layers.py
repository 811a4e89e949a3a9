"""Sizes, encoder, multi-view transformer and heads of MapAnything (arXiv 2509.13414); names as in its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.exporter.models.config import PATCH
from vggt_edge.exporter.models.dino import PlainDino
from vggt_edge.exporter.models.dpt_head import FeatureFusion
from vggt_edge.exporter.models.layers import Block
from vggt_edge.exporter.models.shape import InputShape

SPECIAL_TOKENS = 1
EPS = 1e-6
DENSE_CHANNELS = 6  # direction of the ray 3, depth along it, confidence, mask
CONVOLUTIONS = 3  # in a residual block of the pose head
RESIDUALS = 2


@dataclass(frozen=True)
class MapAnythingConfig:
    """Defaults are those of facebook/map-anything and map-anything-apache; ``name`` appears in reports.

    - embed_dim, depth, heads: of the multi-view transformer.
    - encoder_dim, encoder_depth, encoder_heads: of the DINOv2.
    - continued: whether the transformer is the rest of the DINOv2 (V1.1): gated MLPs, no norm between the two, and each
      frame's class token goes on. Without it (V1) there are plain MLPs, a norm, and patches alone go on.
    - taps: blocks of the transformer that the dense head reads, besides what enters it and what leaves it.
    - position_grid: side of the square grid that ``pos_embed`` was trained on.
    """

    name: str = "mapanything"
    embed_dim: int = 1536
    depth: int = 16
    heads: int = 24
    encoder_dim: int = 1536
    encoder_depth: int = 24
    encoder_heads: int = 24
    continued: bool = True
    taps: tuple[int, int] = (7, 11)
    position_grid: int = 37
    dpt_features: int = 256
    dpt_channels: tuple[int, int, int, int] = (96, 192, 384, 768)
    pose_width: int = 4 * PATCH**2
    scale_width: int = 196
    native_resolution: int = 518

    def __post_init__(self) -> None:
        sizes = (self.embed_dim, self.encoder_dim, self.heads, self.encoder_heads, self.pose_width, self.scale_width)
        depths = (self.depth, self.encoder_depth)
        if not all(1 <= size <= 8192 for size in (*sizes, self.dpt_features, *self.dpt_channels)):
            raise ValueError("a width is below 1 or implausibly large")
        if not all(1 <= depth <= 128 for depth in depths) or not 1 <= self.position_grid <= 512:
            raise ValueError("a depth or a grid is below 1 or implausibly large")
        for dim, heads in ((self.embed_dim, self.heads), (self.encoder_dim, self.encoder_heads)):
            if dim % heads:
                raise ValueError(f"a width of {dim} cannot be split into {heads} heads")
        if self.dpt_features % 2:
            raise ValueError(f"dpt_features {self.dpt_features} is odd")
        if self.continued and self.embed_dim != self.encoder_dim:
            raise ValueError(f"a DINOv2 of width {self.encoder_dim} cannot go on with {self.embed_dim}")
        if not 0 <= self.taps[0] < self.taps[1] < self.depth:
            raise ValueError(f"taps {self.taps} do not rise below {self.depth} blocks")


KNOWN = (
    MapAnythingConfig(),
    MapAnythingConfig("mapanything-v1", 768, 24, 12, 1024, 24, 16, continued=False, taps=(11, 17)),
)


class Encoder(PlainDino):
    """DINOv2: the embedding, the blocks, and for V1 the last norm."""

    def __init__(self, config: MapAnythingConfig, shape: InputShape) -> None:
        dim = config.encoder_dim
        super().__init__(dim, config.position_grid, shape)
        self.blocks = nn.ModuleList(
            Block(dim, config.encoder_heads, eps=EPS, layer_scale=1.0, gated=config.continued)
            for _ in range(config.encoder_depth)
        )
        self.norm: nn.Module = nn.Identity() if config.continued else nn.LayerNorm(dim, eps=EPS)


class MultiView(nn.Module):
    """The multi-view transformer: even blocks attend over all views and the scale token, odd ones within a view.

    view_pos_table: added to all tokens of the reference view, frame 0.
    """

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        scale = 1.0 if config.continued else None
        self.view_pos_table = nn.Parameter(torch.zeros(1, dim))
        same = dim == config.encoder_dim
        self.proj_embed: nn.Module = nn.Identity() if same else nn.Linear(config.encoder_dim, dim)
        self.self_attention_blocks = nn.ModuleList(
            Block(dim, config.heads, eps=EPS, layer_scale=scale, gated=config.continued) for _ in range(config.depth)
        )


class Features(nn.Module):
    """Four token maps (N, C, rows, columns) to one map of eight times their resolution."""

    def __init__(self, dims: Sequence[int], features: int, channels: Sequence[int], shape: InputShape) -> None:
        super().__init__()
        self.grid = shape.grid
        resized: tuple[tuple[nn.Module, ...], ...] = (
            (nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),),
            (nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),),
            (),
            (nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),),
        )
        self.input_process = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.Conv2d(dim, width, 1), *after), nn.Conv2d(width, features, 3, padding=1, bias=False)
            )
            for dim, width, after in zip(dims, channels, resized, strict=True)
        )
        self.scratch = nn.ModuleDict(
            {
                f"refinenet{level}": FeatureFusion(features, residual=level < len(channels), adds_rectified=False)
                for level in range(1, len(channels) + 1)
            }
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = [process(each) for process, each in zip(self.input_process, maps, strict=True)]
        x: Tensor | None = None
        for index, level in reversed(tuple(enumerate(levels))):
            finer = None if x is None else level
            fuse, coarse = self.scratch[f"refinenet{index + 1}"], level if x is None else x
            x = fuse(coarse, finer, [2 * side for side in coarse.shape[2:]])
            if index == len(levels) - 1:  # rounded up where the grid is odd
                x = x[:, :, : self.grid[0], : self.grid[1]]
        assert x is not None
        return x


class Regressor(nn.Module):
    """The last convolutions: to a map (N, 6, H, W) of the size of the images."""

    def __init__(self, features: int, shape: InputShape) -> None:
        super().__init__()
        half = features // 2
        self.size = [shape.height, shape.width]
        self.conv1 = nn.Conv2d(features, half, 3, padding=1)
        self.conv2 = nn.Sequential(nn.Conv2d(half, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, DENSE_CHANNELS, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(self.conv1(x), size=self.size, mode="bilinear", align_corners=True)
        return self.conv2(x)  # type: ignore[no-any-return]


class DenseHead(nn.Module):
    """Patch tokens of four depths (N, patches, C) to raw maps (N, 6, H, W). The first of the four is no more normed."""

    def __init__(self, config: MapAnythingConfig, shape: InputShape) -> None:
        super().__init__()
        self.grid = shape.grid
        self.norm = nn.LayerNorm(config.embed_dim, eps=EPS)
        dims = (config.encoder_dim, *3 * (config.embed_dim,))
        self.add_module("0", Features(dims, config.dpt_features, config.dpt_channels, shape))
        self.add_module("1", Regressor(config.dpt_features, shape))

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        tokens = (first, *map(self.norm, others))
        maps = [each.transpose(1, 2).unflatten(2, self.grid) for each in tokens]
        return self.get_submodule("1")(self.get_submodule("0")(maps))  # type: ignore[no-any-return]


class ResidualConvs(nn.Module):
    """Three 1x1 convolutions, each with a ReLU, around a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for index in range(1, CONVOLUTIONS + 1):
            self.add_module(f"res_conv{index}", nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        refined = x
        for conv in self.children():
            refined = functional.relu(conv(refined))
        return x + refined


class PoseHead(nn.Module):
    """The patch tokens of each frame, (N, patches, C), to a raw pose, (N, 7), camera to world."""

    def __init__(self, config: MapAnythingConfig, shape: InputShape) -> None:
        super().__init__()
        self.grid = shape.grid
        self.norm = nn.LayerNorm(config.embed_dim, eps=EPS)
        width = config.pose_width
        self.proj = nn.Conv2d(config.embed_dim, width, 1)
        self.res_conv = nn.ModuleList(ResidualConvs(width) for _ in range(RESIDUALS))
        self.more_mlps = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc_t, self.fc_rot = nn.Linear(width, 3), nn.Linear(width, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.proj(self.norm(tokens).transpose(1, 2).unflatten(2, self.grid))
        for residual in self.res_conv:
            x = residual(x)
        x = self.more_mlps(x.mean((2, 3)))
        return torch.cat([self.fc_t(x), self.fc_rot(x)], dim=1)


class ScaleHead(nn.Module):
    """The scale token (B, C) to the factor that makes the scene metric, (B, 1)."""

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.embed_dim, eps=EPS)
        width = config.scale_width
        self.proj = nn.Linear(config.embed_dim, width)
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2))
        self.output_proj = nn.Linear(width, 1)

    def forward(self, token: Tensor) -> Tensor:
        x = self.proj(self.norm(token))
        for layer in self.mlp:
            x = layer(x)
        return self.output_proj(x).exp()  # type: ignore[no-any-return]
