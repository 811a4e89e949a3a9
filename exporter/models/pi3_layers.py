"""Encoder, decoders, heads and sizes of Pi3 (arXiv 2507.13347)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.exporter.models.aggregator import IMAGENET_MEAN, IMAGENET_STD, DinoPatchEmbed
from vggt_edge.exporter.models.angles import twice_arctangent
from vggt_edge.exporter.models.config import PATCH
from vggt_edge.exporter.models.layers import Block
from vggt_edge.exporter.models.rotations import REAL, Rotations
from vggt_edge.exporter.models.shape import InputShape

REGISTERS = 5


@dataclass(frozen=True)
class Pi3Config:
    """Defaults are those of the authors' model; ``name`` appears in reports.

    - dino_depth: blocks of the encoder. depth: blocks of the decoder, in turn within a frame and over all frames.
    - head_dim, head_heads, head_depth: width, attention heads and blocks of the decoder in front of each head.
    - camera_dim: width of the camera head.
    - position_grid: side of the square grid that ``pos_embed`` was trained on.
    """

    name: str = "pi3"
    embed_dim: int = 1024
    dino_depth: int = 24
    depth: int = 36
    heads: int = 16
    head_dim: int = 1024
    head_heads: int = 16
    head_depth: int = 5
    camera_dim: int = 512
    position_grid: int = 37

    def __post_init__(self) -> None:
        widths = (self.embed_dim, self.heads, self.head_dim, self.head_heads, self.camera_dim)
        depths = (self.dino_depth, self.depth, self.head_depth)
        if not all(1 <= size <= 8192 for size in widths) or not all(1 <= size <= 128 for size in depths):
            raise ValueError("a size is below 1 or implausibly large")
        if not 1 <= self.position_grid <= 512:
            raise ValueError(f"position_grid {self.position_grid} is not one of 1 to 512")
        for width, heads in ((self.embed_dim, self.heads), (self.head_dim, self.head_heads)):
            if width % (4 * heads):
                raise ValueError(f"the width {width} cannot be split into {heads} heads")
        if self.depth % 2:
            raise ValueError(f"depth {self.depth} is odd: blocks within a frame and over all frames come in pairs")

    @property
    def native_resolution(self) -> int:
        return self.position_grid * PATCH


class Encoder(DinoPatchEmbed):
    """DINOv2 and the tokens that its patches enter the decoder with.

    turn: a linear, C to C, in a model whose residual streams are rotated (calibration/transforms).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Pi3Config, shape: InputShape) -> None:
        super().__init__(config, shape)
        del self.mask_token
        self.frames = shape.frames
        self.register_token = nn.Parameter(torch.zeros(1, 1, REGISTERS, config.embed_dim))
        self.turn: nn.Module = nn.Identity()
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(1, 3, 1, 1), persistent=False)

    def enter(self, images: Tensor) -> Tensor:
        """Images (B, S, 3, H, W) to DINO's tokens (B * S * tokens, C)."""
        return self.embed((images.flatten(0, 1) - self.mean) / self.std)

    def tokens(self, x: Tensor) -> Tensor:
        """What leaves DINO to what enters the decoder: registers, the same for every frame, in front of the patches."""
        patches = self.turn(self.patches(x))
        registers = self.register_token[0].expand(len(patches), -1, -1)
        return torch.cat([registers, patches], dim=1).flatten(0, 1)


class HeadDecoder(nn.Module):
    """Transformer in front of a head: attention within each frame, no LayerScale, no norm at the end."""

    def __init__(self, config: Pi3Config, shape: InputShape, out: int) -> None:
        super().__init__()
        self.shape = shape
        self.projects = nn.Linear(2 * config.embed_dim, config.head_dim)
        self.blocks = nn.ModuleList(
            Block(config.head_dim, config.head_heads, eps=1e-6, layer_scale=None) for _ in range(config.head_depth)
        )
        self.linear_out = nn.Linear(config.head_dim, out)

    def enter(self, local: Tensor, every: Tensor) -> Tensor:
        """Outputs of the decoder's last two blocks, each (tokens, C), to (tokens, head_dim)."""
        return self.projects(torch.cat([local, every], dim=1))  # type: ignore[no-any-return]

    def leave(self, x: Tensor) -> Tensor:
        """(B * S * tokens, head_dim) to (B * S * patches, out): the registers are dropped."""
        patches = x.view(-1, self.shape.tokens, x.shape[1])[:, REGISTERS:]
        return self.linear_out(patches.reshape(-1, x.shape[1]))  # type: ignore[no-any-return]


class PixelHead(nn.Module):
    """Every patch token to the values of its pixels: (B * S * patches, dim) to (B * S, channels, H, W)."""

    def __init__(self, dim: int, channels: int, shape: InputShape) -> None:
        super().__init__()
        self.shape, self.channels = shape, channels
        self.proj = nn.Linear(dim, channels * PATCH**2)

    def forward(self, patches: Tensor) -> Tensor:
        rows, columns = self.shape.grid
        # In two steps, because Core ML has tensors of at most five axes.
        x: Tensor = self.proj(patches).view(-1, columns, self.channels * PATCH, PATCH).transpose(1, 2)
        x = x.reshape(-1, rows, self.channels, PATCH * self.shape.width).transpose(1, 2)
        return x.reshape(-1, self.channels, self.shape.height, self.shape.width)


class ResidualLinears(nn.Module):
    """Three linears, a ReLU after each, around a skip connection; named as in the authors' checkpoints."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv1, self.res_conv2, self.res_conv3 = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.res_conv2(functional.relu(self.res_conv1(x))))
        return x + functional.relu(self.res_conv3(inner))


class CameraHead(nn.Module):
    """Patch tokens (B * S * patches, dim) to nine numbers of a rotation and three of a position, camera to world."""

    share: Tensor

    def __init__(self, dim: int, shape: InputShape) -> None:
        super().__init__()
        self.res_conv = nn.ModuleList(ResidualLinears(dim) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_rot = nn.Linear(dim, 9)
        share = torch.full((shape.patches, 1), 1 / shape.patches, device="cpu")
        self.register_buffer("share", share, persistent=False)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        x = self.res_conv[1](self.res_conv[0](patches))
        mean = x.view(-1, len(self.share), x.shape[1]).transpose(1, 2) @ self.share
        x = self.more_mlps(mean.view(-1, x.shape[1]))
        return self.fc_rot(x), self.fc_t(x)


class Geometry(nn.Module):
    """Cameras and points in the world of frame 0's camera; the model chooses a world of its own.

    rows (H, 2), columns (W, 2): weights of a mean over the image, and of a mean with the pixel's distance from the
    middle as a factor, in units of half the image.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.shape = shape
        self.rotations = Rotations()
        self.register_buffer("rows", _moments(shape.height), persistent=False)
        self.register_buffer("columns", _moments(shape.width), persistent=False)

    def cameras(self, nine: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """What the camera head puts out to rotations (B, S, 3, 3) and positions (B, S, 3), camera to world."""
        rotation = self.rotations.nearest(nine).view(-1, self.shape.frames, 3, 3)
        position = position.view(-1, self.shape.frames, 3)
        first = rotation[:, :1]
        moved = (position - position[:, :1])[:, :, None]
        return first.transpose(2, 3) @ rotation, (moved @ first)[:, :, 0]

    def pose_encoding(self, rotation: Tensor, position: Tensor, slopes: Tensor) -> Tensor:
        """(B, S, 9), world to camera. slopes: (B * S, 2, H, W), x / z and y / z of every pixel."""
        translation = -(position[:, :, None] @ rotation)[:, :, 0]
        quaternion = self.rotations.quaternions(rotation.view(-1, 3, 3)).view(-1, self.shape.frames, 4)
        axis, real = quaternion[..., :REAL], quaternion[..., REAL:]
        fields = self._fields_of_view(slopes).view(-1, self.shape.frames, 2)
        return torch.cat([translation, -axis, real, fields], dim=2)

    def points(self, rotation: Tensor, position: Tensor, slopes: Tensor, depth: Tensor) -> Tensor:
        """(B, S, H, W, 3) in the world. depth: (B, S, H, W)."""
        depth = depth.view(-1, 1, *depth.shape[2:])
        local = torch.cat([slopes * depth, depth], dim=1).flatten(2)
        world = rotation.view(-1, 3, 3) @ local + position.view(-1, 3, 1)
        frames, height, width = self.shape.frames, self.shape.height, self.shape.width
        return world.transpose(1, 2).reshape(-1, frames, height, width, 3)

    def _fields_of_view(self, slopes: Tensor) -> Tensor:
        """Vertical and horizontal, (B * S, 2): of the focal lengths f for which f * slope fits the pixels best.

        By least squares half the image is f * squares / products.
        """
        products, squares = self._moments_of(slopes), self._moments_of(slopes * slopes)
        # Of eight: x / z with the distance across, and y / z with the distance down; the means alone.
        across, down = products[:, 2:3], products[:, 5:6]
        means = torch.cat([squares[:, 4:5], squares[:, :1]], dim=1)
        return twice_arctangent(means, torch.cat([down, across], dim=1))

    def _moments_of(self, maps: Tensor) -> Tensor:
        """(N, 2, H, W) to (N, 8): of each map, by weights of columns and of rows; the last axis is summed."""
        return ((maps @ self.columns).transpose(2, 3) @ self.rows).reshape(-1, 8)


def _moments(length: int) -> Tensor:
    """(length, 2): the weights of a mean, and those times the distance of pixel centres from the middle."""
    # On the CPU for the reason that tables_at gives.
    from_middle = (2 * torch.arange(length, dtype=torch.float32, device="cpu") + 1) / length - 1
    return torch.stack([torch.ones_like(from_middle), from_middle], dim=1) / length
