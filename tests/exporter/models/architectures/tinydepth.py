"""A small architecture that the package does not know: a plain encoder and a depth head, no special tokens.

Found by its file name where a test puts this folder beside ``exporter/models``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from vggt_edge.calibration.metrics.output import Output
from vggt_edge.calibration.metrics.quantities import Depth
from vggt_edge.calibration.stages.walk import IMAGES, Stage
from vggt_edge.calibration.transforms.wiring import Read, Stream, Tokens, Unit, Values, Wiring, Write
from vggt_edge.exporter.models.architecture import Architecture, Model
from vggt_edge.exporter.models.layers import Block
from vggt_edge.exporter.models.shape import InputShape

_DEPTH = Output("depth", "depth", Depth(), title="depth", description="depth of every pixel")
TOKENS = "tokens"


@dataclass(frozen=True)
class TinyDepthConfig:
    """Sizes; ``side`` is that of a patch and fixed."""

    name: str = "tinydepth"
    embed_dim: int = 32
    depth: int = 2
    heads: int = 2
    native_resolution: int = 32


class Encoder(nn.Module):
    def __init__(self, config: TinyDepthConfig, shape: InputShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.embed_dim, shape.patch, stride=shape.patch)
        self.frame_token = nn.Parameter(torch.zeros(1, config.embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, S, 3, H, W) to tokens (B * S * patches, C)."""
        patches = self.proj(images.flatten(0, 1)).flatten(2).transpose(1, 2)
        return (patches + self.frame_token).flatten(0, 1)


class DepthHead(nn.Module):
    def __init__(self, config: TinyDepthConfig, shape: InputShape) -> None:
        super().__init__()
        self.shape = shape
        self.norm = nn.LayerNorm(config.embed_dim)
        self.project = nn.Linear(config.embed_dim, shape.patch**2)

    def forward(self, x: Tensor) -> Tensor:
        shape, (rows, columns) = self.shape, self.shape.grid
        tiles = self.project(self.norm(x)).exp().view(-1, rows, columns, shape.patch, shape.patch)
        return tiles.permute(0, 1, 3, 2, 4).reshape(-1, shape.frames, shape.height, shape.width)


class TinyDepth(Model):
    about = "a plain encoder with a depth head"
    outputs = (_DEPTH,)

    def __init__(self, config: TinyDepthConfig, shape: InputShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.encoder = Encoder(config, shape)
        self.layers = nn.ModuleList(Block(config.embed_dim, config.heads, layer_scale=0.5) for _ in range(config.depth))
        self.depth_head = DepthHead(config, shape)

    def stages(self) -> tuple[Stage, ...]:
        run = partial(_run_block, self.shape.patches)
        blocks = [
            Stage(f"layers.{i}", "layer", (f"x.{i}",), (f"x.{i + 1}",), block, run, (f"layers.{i}",))
            for i, block in enumerate(self.layers)
        ]
        return (
            Stage("embed", "embed", (IMAGES,), ("x.0",), self.encoder, _run),
            *blocks,
            Stage(
                "depth_head", "depth_head", (f"x.{len(blocks)}",), ("depth",), self.depth_head, _run, ("depth_head",)
            ),
        )

    def blocks(self) -> dict[str, nn.Module]:
        return {f"layers.{i}": block for i, block in enumerate(self.layers)} | {"depth_head": self.depth_head}

    def wiring(self) -> Wiring:
        layers = (_unit(f"layers.{i}", self.config.heads) for i in range(self.config.depth))
        return Wiring(
            MappingProxyType({TOKENS: Stream(self.config.embed_dim, True)}),
            (
                Unit("encoder", "embed", writes=(Write(TOKENS, "proj"),), tokens=(Tokens(TOKENS, ("frame_token",)),)),
                *layers,
                Unit("depth_head", "depth_head", reads=(Read(TOKENS, ("project",), "norm"),)),
            ),
        )


def _unit(path: str, heads: int) -> Unit:
    return Unit(
        path,
        path,
        reads=(Read(TOKENS, ("attn.qkv",), "norm1"), Read(TOKENS, ("mlp.fc1",), "norm2")),
        writes=(Write(TOKENS, "attn.proj", "ls1"), Write(TOKENS, "mlp.fc2", "ls2")),
        values=Values("attn.qkv", "attn.proj", heads),
    )


def _run(module: nn.Module, x: Tensor) -> tuple[Tensor]:
    return (module(x),)


def _run_block(tokens: int, block: Block, x: Tensor) -> tuple[Tensor]:
    return (block(x, x.shape[0] // tokens),)


class TinyDepthArchitecture(Architecture):
    about = TinyDepth.about
    keys = ("encoder.proj.weight", "encoder.frame_token", "depth_head.project.weight")
    outputs = (_DEPTH,)
    config_type = TinyDepthConfig
    patch = 8

    def build(self, config: TinyDepthConfig, shape: InputShape, heads: Sequence[str]) -> TinyDepth:
        return TinyDepth(config, shape)


ARCHITECTURE = TinyDepthArchitecture()
