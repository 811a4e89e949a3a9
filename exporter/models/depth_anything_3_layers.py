"""Backbone, camera decoder and sizes of Depth Anything 3 (arXiv 2511.10647)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from vggt_edge.exporter.models.dino import PlainDino
from vggt_edge.exporter.models.layers import Block
from vggt_edge.exporter.models.shape import InputShape

SPECIAL_TOKENS = 1
BACKBONE = "backbone.pretrained"
_BLOCK = re.compile(r"backbone\.pretrained\.blocks\.(\d+)\.")


class Sizes(Protocol):
    """What the configurations of all forms have."""

    @property
    def name(self) -> str: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def taps(self) -> Sequence[int]: ...
    @property
    def position_grid(self) -> int: ...
    @property
    def dpt_features(self) -> int: ...
    @property
    def dpt_channels(self) -> Sequence[int]: ...


SizesT = TypeVar("SizesT", bound=Sizes)


def check_sizes(config: Sizes) -> None:
    """``ValueError`` for sizes that are implausible or contradict each other."""
    sizes = (config.embed_dim, config.heads, config.position_grid, config.dpt_features, *config.dpt_channels)
    if not all(1 <= size <= 8192 for size in sizes) or not 1 <= config.depth <= 128 or config.position_grid > 512:
        raise ValueError("a size is below 1 or implausibly large")
    if config.embed_dim % (4 * config.heads):
        raise ValueError(f"embed_dim {config.embed_dim} cannot be split into {config.heads} heads")
    if config.dpt_features % 8 or any(width % 4 for width in config.dpt_channels):
        raise ValueError("dpt_features and dpt_channels have to be multiples of 8 and 4")
    if list(config.taps) != sorted(set(config.taps)) or config.taps[0] < 0 or config.taps[-1] != config.depth - 1:
        raise ValueError(f"taps {config.taps} do not rise to the last of {config.depth} blocks")


def sizes_in(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Width and number of blocks, as far as names and shapes give them away."""
    position = tensors.get(f"{BACKBONE}.pos_embed")
    blocks = {match[1] for name in tensors if (match := _BLOCK.match(name))}
    width = {"embed dim": position.shape[-1]} if position is not None and position.ndim else {}
    return width | ({"blocks": len(blocks)} if blocks else {})


def config_of_size(known: Sequence[SizesT], tensors: Mapping[str, Tensor]) -> SizesT:
    """The one of ``known`` that has the width of the tensors; ``ValueError`` where none has."""
    found = sizes_in(tensors)
    for config in known:
        if config.embed_dim == found.get("embed dim"):
            return config
    supported = ", ".join(f"{config.name} with {config.embed_dim}" for config in known)
    raise ValueError(f"embed dim {found.get('embed dim')}, {found.get('blocks')} blocks; supported: {supported}")


@dataclass(frozen=True)
class DepthAnything3Config:
    """Defaults are those of DA3-SMALL; ``name`` appears in reports.

    - alternating_from: the first block with rotary positions; from it on, odd blocks attend over all views.
    - taps: blocks whose outputs the heads read.
    - position_grid: side of the square grid that ``pos_embed`` was trained on.
    """

    name: str = "da3-small"
    embed_dim: int = 384
    depth: int = 12
    heads: int = 6
    alternating_from: int = 4
    taps: tuple[int, int, int, int] = (5, 7, 9, 11)
    position_grid: int = 37
    dpt_features: int = 64
    dpt_channels: tuple[int, int, int, int] = (48, 96, 192, 384)
    native_resolution: int = 504

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.alternating_from % 2 or not 0 < self.alternating_from <= self.taps[0]:
            raise ValueError(
                f"alternating_from {self.alternating_from} is odd, or behind the first tap, {self.taps[0]}"
            )


KNOWN = (
    DepthAnything3Config(),
    DepthAnything3Config("da3-base", 768, heads=12, dpt_features=128, dpt_channels=(96, 192, 384, 768)),
    DepthAnything3Config(
        "da3-large", 1024, 24, 16, 8, (11, 15, 19, 23), dpt_features=256, dpt_channels=(256, 512, 1024, 1024)
    ),
)


class Encoder(PlainDino):
    """Images to tokens, and the blocks: what all forms of Depth Anything 3 have.

    alternating_from: the first block whose queries and keys are normalised; None where none is.
    """

    def __init__(
        self, shape: InputShape, dim: int, depth: int, heads: int, position_grid: int, alternating_from: int | None
    ) -> None:
        super().__init__(dim, position_grid, shape)
        first = depth if alternating_from is None else alternating_from
        self.blocks = nn.ModuleList(
            Block(dim, heads, qk_norm=index >= first, eps=1e-6, layer_scale=1.0) for index in range(depth)
        )


class Transformer(Encoder):
    """The backbone for any number of views; what runs in which order is said by ``DepthAnything3.stages``.

    turn: a linear, C to C, in a model whose residual stream is rotated (calibration/transforms).
    """

    def __init__(self, config: DepthAnything3Config, shape: InputShape) -> None:
        dim = config.embed_dim
        super().__init__(shape, dim, config.depth, config.heads, config.position_grid, config.alternating_from)
        self.camera_token = nn.Parameter(torch.zeros(1, 2, dim))
        self.turn: nn.Module = nn.Identity()
        self.norm = nn.LayerNorm(dim)

    def with_cameras(self, x: Tensor) -> Tensor:
        """Tokens with a camera token in the place of each class token: the first frame has one of its own."""
        frames, batch = self.shape.frames, len(x) // (self.shape.frames * self.shape.tokens)
        cameras = torch.cat([self.camera_token[:, :1], self.camera_token[:, 1:].expand(-1, frames - 1, -1)], dim=1)
        cameras = cameras.expand(batch, -1, -1).reshape(batch * frames, 1, -1)
        return torch.cat([cameras, self._by_frame(x)[:, 1:]], dim=1).flatten(0, 1)

    def camera(self, local: Tensor, x: Tensor) -> Tensor:
        """Camera tokens as the last block within views and the last block put them out, joined: (B * S, 2C)."""
        return torch.cat([self._by_frame(local)[:, 0], self._by_frame(x)[:, 0]], dim=1)

    def entry(self, local: Tensor, x: Tensor) -> Tensor:
        """Patch tokens of both blocks, joined: (B * S, patches, 2C), the second half normalised."""
        local, x = (self.turn(self._by_frame(each)[:, SPECIAL_TOKENS:]) for each in (local, x))
        return torch.cat([local, self.norm(x)], dim=2)

    def _by_frame(self, x: Tensor) -> Tensor:
        return x.view(-1, self.shape.tokens, x.shape[1])


class CameraDecoder(nn.Module):
    """Camera tokens (B * S, dim) to pose encodings (B, S, 9), world to camera; the layers put out camera to world."""

    def __init__(self, dim: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.backbone = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_qvec = nn.Linear(dim, 4)
        self.fc_fov = nn.Sequential(nn.Linear(dim, 2), nn.ReLU())

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.backbone(tokens)
        position, quaternion = self.fc_t(x), self.fc_qvec(x)
        i, j, k, r = (quaternion * quaternion).chunk(4, dim=1)
        quaternion = quaternion / (i + j + k + r).sqrt()
        axis, real = quaternion[:, :3], quaternion[:, 3:]
        # The inverse of x -> R x + t is x -> R^T x - R^T t, and the conjugate of a unit quaternion means R^T.
        across = cross(axis, position)
        moved = position + 2 * (cross(axis, across) - real * across)
        pose = torch.cat([-moved, -axis, real, self.fc_fov(x)], dim=1)
        return pose.view(-1, self.frames, pose.shape[1])


def cross(first: Tensor, second: Tensor) -> Tensor:
    """The cross product of vectors (N, 3, ...), in operators that every backend has."""
    return _shifted(first * _shifted(second) - _shifted(first) * second)


def _shifted(x: Tensor) -> Tensor:
    return torch.cat([x[:, 1:], x[:, :1]], dim=1)
