"""The monocular form of Depth Anything 3 (arXiv 2511.10647): depth and sky of single pictures; written to be exported.

A plain DINOv2 and a DPT head without positions. Frames are pictures on their own: nothing attends from one to another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Self

from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.metrics.output import Output, of_heads
from vggt_edge.calibration.metrics.quantities import Depth, Sky
from vggt_edge.calibration.stages.walk import IMAGES, Stage
from vggt_edge.calibration.transforms.wiring import Read, Rectified, Stream, Tokens, Unit, Values, Wiring, Write
from vggt_edge.exporter.models.architecture import Architecture, Model
from vggt_edge.exporter.models.config import PATCH
from vggt_edge.exporter.models.depth_anything_3_layers import (
    BACKBONE,
    SPECIAL_TOKENS,
    Encoder,
    check_sizes,
    config_of_size,
    sizes_in,
)
from vggt_edge.exporter.models.dpt_head import Pyramid
from vggt_edge.exporter.models.dual_dpt import DEPTH, Fusion, output_layers
from vggt_edge.exporter.models.layers import Block
from vggt_edge.exporter.models.shape import InputShape

TOKENS = "tokens"
_ABOUT = "Depth Anything 3, monocular: depth and sky of single pictures (arXiv 2511.10647)"
_LEVELS = (1, 2, 3, 4)
_OUTPUT_LAYERS = MappingProxyType({"depth": "output_conv2", "sky": "sky_output_conv2"})
_OUTPUTS = (
    Output(
        "depth",
        "depth",
        Depth(),
        title="depth",
        description="depth of every pixel; of DA3METRIC, times focal length in pixels / 300 it is in metres",
    ),
    Output("sky", "sky", Sky(), title="sky", description="how much a pixel is of the sky; sky from 0.3 on"),
)


@dataclass(frozen=True)
class DepthAnything3MonoConfig:
    """Defaults are those of DA3MONO-LARGE and of DA3METRIC-LARGE; ``name`` appears in reports.

    - taps: blocks whose outputs the head reads.
    - position_grid: side of the square grid that ``pos_embed`` was trained on.
    """

    name: str = "da3-mono-large"
    embed_dim: int = 1024
    depth: int = 24
    heads: int = 16
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)
    position_grid: int = 37
    dpt_features: int = 256
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    native_resolution: int = 504

    def __post_init__(self) -> None:
        check_sizes(self)


class MonoScratch(Fusion):
    """Layers between the pyramid and the outputs; named as in the authors' checkpoints."""

    def __init__(self, features: int, channels: Sequence[int], heads: Sequence[str]) -> None:
        super().__init__(features, channels, (DEPTH,))
        half = features // 2
        self.output_conv1 = nn.Conv2d(features, half, 3, padding=1)
        for head in heads:
            self.add_module(_OUTPUT_LAYERS[head], output_layers(half, 1))


class MonoHead(Pyramid):
    """Tokens of four depths, each (B * S * tokens, C), to a map (B, S, H, W) of each head.

    ``norm`` is the last norm of the backbone, which only this head reads.
    """

    def __init__(self, config: DepthAnything3MonoConfig, shape: InputShape, heads: Sequence[str]) -> None:
        super().__init__(config.embed_dim, config.dpt_channels, shape, positions=False)
        self.heads = tuple(heads)
        self.scratch = MonoScratch(config.dpt_features, config.dpt_channels, heads)

    def forward(self, tokens: Sequence[Tensor]) -> tuple[Tensor, ...]:
        shape, scratch = self.shape, self.scratch
        patches = (each.view(-1, shape.tokens, each.shape[1])[:, SPECIAL_TOKENS:] for each in tokens)
        levels = scratch.narrowed([self.level(index, each) for index, each in enumerate(patches)])
        x = scratch.output_conv1(scratch.fused(levels, DEPTH))
        x = functional.interpolate(x, size=[shape.height, shape.width], mode="bilinear", align_corners=True)
        maps = {head: scratch.get_submodule(_OUTPUT_LAYERS[head])(x) for head in self.heads}
        activated = (each.exp() if head == "depth" else functional.relu(each) for head, each in maps.items())
        return tuple(each.view(-1, shape.frames, shape.height, shape.width) for each in activated)


class DepthAnything3Mono(Model):
    """Images (B, S, 3, H, W) in [0, 1] to the maps of the requested heads, in the order of ``output_names``."""

    about = _ABOUT

    def __init__(self, config: DepthAnything3MonoConfig, shape: InputShape, heads: Sequence[str]) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.heads = ARCHITECTURE.checked_heads(heads)
        self.outputs = of_heads(_OUTPUTS, self.heads)
        encoder = Encoder(shape, config.embed_dim, config.depth, config.heads, config.position_grid, None)
        self.backbone = nn.ModuleDict({"pretrained": encoder})
        self.head = MonoHead(config, shape, self.heads)

    @property
    def encoder(self) -> Encoder:
        found = self.backbone["pretrained"]
        assert isinstance(found, Encoder)
        return found

    def stages(self) -> tuple[Stage, ...]:
        """The forward, step by step. Values: ``images``; ``x.i``, what enters block i or leaves the one before; the
        outputs.
        """
        run = partial(_run_block, self.shape.tokens)
        blocks = (
            Stage(f"blocks.{i}", "encoder", (f"x.{i}",), (f"x.{i + 1}",), block, run, (f"blocks.{i}",))
            for i, block in enumerate(self.encoder.blocks)
        )
        reads = tuple(f"x.{tap + 1}" for tap in self.config.taps)
        return (
            Stage("embed", "embed", (IMAGES,), ("x.0",), self.encoder, _embed),
            *blocks,
            Stage("head", "head", reads, self.output_names, self.head, _dense, ("head",)),
        )

    def blocks(self) -> dict[str, nn.Module]:
        """The units of precision assignment, in the order in which the model runs them."""
        return {f"blocks.{index}": block for index, block in enumerate(self.encoder.blocks)} | {"head": self.head}

    def wiring(self) -> Wiring:
        """A single stream, which the head reads through the last norm."""
        return Wiring(MappingProxyType({TOKENS: Stream(self.config.embed_dim, True)}), tuple(self._units()))

    def _units(self) -> Iterator[Unit]:
        yield Unit(
            BACKBONE,
            "embed",
            writes=(Write(TOKENS, "patch_embed.proj"),),
            tokens=(Tokens(TOKENS, ("cls_token", "pos_embed")),),
        )
        for index in range(self.config.depth):
            yield Unit(
                f"{BACKBONE}.blocks.{index}",
                f"blocks.{index}",
                reads=(Read(TOKENS, ("attn.qkv",), "norm1"), Read(TOKENS, ("mlp.fc1",), "norm2")),
                writes=(Write(TOKENS, "attn.proj", "ls1"), Write(TOKENS, "mlp.fc2", "ls2")),
                values=Values("attn.qkv", "attn.proj", self.config.heads),
            )
        projects = tuple(f"projects.{index}" for index in range(len(_LEVELS)))
        yield Unit("head", "head", reads=(Read(TOKENS, projects, "norm"),), rectified=tuple(_rectified(self.heads)))

    def fix_constants(self) -> Self:
        self.encoder.fix_constants()
        return super().fix_constants()


class DepthAnything3MonoArchitecture(Architecture):
    """The monocular form of Depth Anything 3: the names of depth-anything/DA3MONO-LARGE and of DA3METRIC-LARGE."""

    about = _ABOUT
    keys = (
        f"{BACKBONE}.pos_embed",
        f"{BACKBONE}.blocks.0.attn.qkv.weight",
        "head.projects.0.weight",
        "head.scratch.layer1_rn.weight",
        "head.scratch.sky_output_conv2.0.weight",
    )
    outputs = _OUTPUTS
    config_type = DepthAnything3MonoConfig
    components = MappingProxyType({"blocks": "Backbone (DINOv2)", "head": "Depth and sky head"})
    patch = PATCH
    special_tokens = SPECIAL_TOKENS
    default_frames = 1
    # What was left out of the heads, and the last norm, which is the head's here.
    optional = (*(f"head.scratch.{layers}." for layers in _OUTPUT_LAYERS.values()), f"{BACKBONE}.norm.")
    head_prefixes = MappingProxyType({head: f"head.scratch.{layers}." for head, layers in _OUTPUT_LAYERS.items()})
    shared = MappingProxyType({f"head.norm.{part}": f"{BACKBONE}.norm.{part}" for part in ("weight", "bias")})

    def build(self, config: DepthAnything3MonoConfig, shape: InputShape, heads: Sequence[str]) -> DepthAnything3Mono:
        return DepthAnything3Mono(config, shape, heads)

    def default_config(self, tensors: Mapping[str, Tensor]) -> DepthAnything3MonoConfig:
        """Sizes of DA3MONO-LARGE, which DA3METRIC-LARGE has as well; ``ValueError`` for another width."""
        return config_of_size((DepthAnything3MonoConfig(),), tensors)

    def notes(self, origin: str) -> tuple[str, ...]:
        """The unit of the depth: the weights of both models have the same names and shapes."""
        if "mono" in origin.lower():
            return ()
        return ("DA3METRIC-LARGE: depth * focal length in pixels / 300 is in metres; DA3MONO-LARGE: without a unit",)

    def sizes(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        return sizes_in(tensors)


ARCHITECTURE = DepthAnything3MonoArchitecture()


def _rectified(heads: Sequence[str]) -> Iterator[Rectified]:
    for level in _LEVELS:
        for unit in (1, 2) if level < _LEVELS[-1] else (2,):
            path = f"scratch.refinenet{level}.resConfUnit{unit}"
            yield Rectified(f"{path}.conv1", f"{path}.conv2")
    for head in heads:
        layers = f"scratch.{_OUTPUT_LAYERS[head]}"
        yield Rectified(f"{layers}.0", f"{layers}.2")


def _embed(encoder: Encoder, images: Tensor) -> tuple[Tensor]:
    return (encoder.embed(images),)


def _run_block(tokens: int, block: Block, x: Tensor) -> tuple[Tensor]:
    return (block(x, x.shape[0] // tokens),)


def _dense(head: MonoHead, *tokens: Tensor) -> tuple[Tensor, ...]:
    return head(tokens)  # type: ignore[no-any-return]
