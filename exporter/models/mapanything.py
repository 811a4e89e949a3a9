"""MapAnything (arXiv 2509.13414) from images alone, written to be exported; loads the authors' checkpoints.

A DINOv2, a transformer that attends in turn over all views and within one, and heads for rays, depth along them, poses
and the scale of the scene. What the authors' code can be given besides images (intrinsics, depth, poses) adds nothing
to the tokens where it is absent, so that its encoders are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor, nn

from vggt_edge.calibration.metrics.output import Output, of_heads
from vggt_edge.calibration.metrics.quantities import Confidence, Depth, Points, PoseEncoding, Sky
from vggt_edge.calibration.stages.walk import IMAGES, Stage
from vggt_edge.calibration.transforms.wiring import Read, Rectified, Stream, Tokens, Turn, Unit, Values, Wiring, Write
from vggt_edge.exporter.models.architecture import Architecture, Model
from vggt_edge.exporter.models.config import PATCH
from vggt_edge.exporter.models.layers import Block
from vggt_edge.exporter.models.mapanything_layers import (
    CONVOLUTIONS,
    KNOWN,
    RESIDUALS,
    SPECIAL_TOKENS,
    DenseHead,
    Encoder,
    MapAnythingConfig,
    MultiView,
    PoseHead,
    ScaleHead,
)
from vggt_edge.exporter.models.ray_geometry import Geometry
from vggt_edge.exporter.models.shape import InputShape

ENCODER, MULTI_VIEW = "encoder", "multi_view"
_ABOUT = "MapAnything: metric cameras, depth and points from a few photographs (arXiv 2509.13414)"
_ENCODER_BLOCK = re.compile(r"encoder\.model\.blocks\.(\d+)\.")
_BLOCK = re.compile(r"info_sharing\.self_attention_blocks\.(\d+)\.")
_GEOMETRIC_INPUTS = ("ray_dirs", "depth", "depth_scale", "cam_rot", "cam_trans", "cam_trans_scale")
_NORM_READERS = ("dense_head", "pose_head", "scale_head")
_OUTPUTS = (
    Output(
        "pose_enc",
        "camera",
        PoseEncoding(),
        title="pose",
        description="per frame: translation 3 in metres, unit quaternion xyzw 4, vertical and horizontal field of view "
        "in radians; world to camera",
    ),
    Output(
        "depth",
        "depth",
        Depth(),
        title="depth",
        description="depth of every pixel along the optical axis, in metres",
        confidence="depth_conf",
    ),
    Output(
        "depth_conf", "depth", Confidence(), title="depth confidence", description="confidence of the depth, from 1"
    ),
    Output(
        "points",
        "points",
        Points(),
        title="points",
        description="x, y, z of every pixel in the world, in metres",
        confidence="depth_conf",
    ),
    Output(
        "sky",
        "sky",
        Sky(),
        title="sky",
        description="how much a pixel has no geometry, such as one of the sky; none from 0.3 on",
    ),
)


class MapAnything(Model):
    """Images (B, S, 3, H, W) in [0, 1] to the tensors of the requested heads, in the order of ``output_names``.

    turn: a linear, C to C, in a model whose residual streams are rotated (calibration/transforms).
    """

    about = _ABOUT
    fixed_reference: Tensor | None
    fixed_scale: Tensor | None

    def __init__(self, config: MapAnythingConfig, shape: InputShape, heads: Sequence[str]) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.heads = ARCHITECTURE.checked_heads(heads)
        self.outputs = of_heads(_OUTPUTS, self.heads)
        self.frame_tokens = shape.tokens if config.continued else shape.patches
        self.encoder = nn.ModuleDict({"model": Encoder(config, shape)})
        self.fusion_norm_layer = nn.LayerNorm(config.encoder_dim, eps=1e-6)
        self.turn: nn.Module = nn.Identity()
        self.scale_token = nn.Parameter(torch.zeros(config.encoder_dim))
        self.info_sharing = MultiView(config)
        self.dense_head = DenseHead(config, shape)
        if self._has_poses:
            self.pose_head = PoseHead(config, shape)
        self.scale_head = ScaleHead(config)
        self.geometry = Geometry(shape, self.heads)
        for name in ("fixed_reference", "fixed_scale"):
            self.register_buffer(name, None, persistent=False)

    @property
    def _has_poses(self) -> bool:
        return "camera" in self.heads or "points" in self.heads

    @property
    def dino(self) -> Encoder:
        found = self.encoder["model"]
        assert isinstance(found, Encoder)
        return found

    def stages(self) -> tuple[Stage, ...]:
        """The forward, step by step. Values: ``images``; ``x.i`` and ``views.i``, what enters block i of the encoder
        and of the transformer; ``scale.i``, the scale token beside ``views.i`` where a block changes it; ``fused``, the
        patches that enter the transformer; ``maps``, ``factor`` and ``poses``, what the heads say; the outputs.
        """
        last = f"x.{self.config.encoder_depth}"
        return (
            Stage("embed", "embed", (IMAGES,), ("x.0",), self.dino, _embed),
            *(self._encoder_stage(index) for index in range(self.config.encoder_depth)),
            Stage("fuse", "fuse", (last,), ("fused", "views.0", "scale.0"), self, _fuse),
            *(self._multi_view_stage(index) for index in range(self.config.depth)),
            *self._head_stages(),
        )

    def _encoder_stage(self, index: int) -> Stage:
        name, run = f"blocks.{index}", partial(_within, self.shape.tokens)
        return Stage(name, "encoder", (f"x.{index}",), (f"x.{index + 1}",), self.dino.blocks[index], run, (name,))

    def _multi_view_stage(self, index: int) -> Stage:
        name, block = f"self_attention_blocks.{index}", self.info_sharing.self_attention_blocks[index]
        before, after = f"views.{index}", f"views.{index + 1}"
        if index % 2:
            return Stage(name, "local", (before,), (after,), block, partial(_within, self.frame_tokens), (name,))
        run = partial(_over_all, self.shape.frames * self.frame_tokens)
        reads, writes = (before, f"scale.{index}"), (after, f"scale.{index + 2}")
        return Stage(name, "global", reads, writes, block, run, (name,))

    def _head_stages(self) -> Iterator[Stage]:
        depth, tokens = self.config.depth, self.frame_tokens - self.shape.patches
        run, levels = partial(_dense, self.frame_tokens, tokens), (*(tap + 1 for tap in self.config.taps), depth)
        reads = ("fused", *(f"views.{level}" for level in levels))
        yield Stage("dense_head", "dense_head", reads, ("maps",), self.dense_head, run, ("dense_head",))
        if self._has_poses:
            run = partial(_poses, self.frame_tokens, tokens)
            name = "pose_head"
            yield Stage(name, name, (f"views.{depth}",), ("poses",), self.pose_head, run, (name,))
        scale = f"scale.{depth + depth % 2}"
        yield Stage("scale_head", "scale_head", (scale,), ("factor",), self.scale_head, _factor, ("scale_head",))
        reads = ("maps", "factor", *(("poses",) if self._has_poses else ()))
        yield Stage("geometry", "geometry", reads, self.output_names, self.geometry, _geometry)

    def blocks(self) -> dict[str, nn.Module]:
        """The units of precision assignment, in the order in which the model runs them."""
        named: dict[str, nn.Module] = {f"blocks.{index}": block for index, block in enumerate(self.dino.blocks)}
        trunk = self.info_sharing.self_attention_blocks
        named |= {f"self_attention_blocks.{index}": block for index, block in enumerate(trunk)}
        return named | {name: getattr(self, name) for name in _NORM_READERS if hasattr(self, name)}

    def wiring(self) -> Wiring:
        """A transformer that is the rest of the encoder shares its stream: class tokens go on as they are."""
        streams = {ENCODER: Stream(self.config.encoder_dim, True), self._stream: Stream(self.config.embed_dim, True)}
        return Wiring(MappingProxyType(streams), tuple(self._units()))

    @property
    def _stream(self) -> str:
        return ENCODER if self.config.continued else MULTI_VIEW

    def _units(self) -> Iterator[Unit]:
        config, stream = self.config, self._stream
        yield self._between()
        mlp = ("w12", "w3") if config.continued else ("fc1", "fc2")
        for index in range(config.encoder_depth):
            path = f"blocks.{index}"
            yield _block_unit(f"encoder.model.{path}", path, ENCODER, config.encoder_heads, mlp, scaled=True)
        for index in range(config.depth):
            path = f"self_attention_blocks.{index}"
            yield _block_unit(f"info_sharing.{path}", path, stream, config.heads, mlp, scaled=config.continued)
        project = "0.input_process.{}.0.0".format
        reads = [Read(stream, tuple(project(level) for level in (1, 2, 3)), "norm")]
        if config.continued:
            reads.append(Read(stream, (project(0),)))
        yield Unit("dense_head", "dense_head", reads=tuple(reads), rectified=tuple(_rectified_in_dense()))
        if self._has_poses:
            rectified = tuple(_rectified_in_poses())
            yield Unit("pose_head", "pose_head", reads=(Read(stream, ("proj",), "norm"),), rectified=rectified)
        yield Unit("scale_head", "scale_head", reads=(Read(stream, ("proj",), "norm"),))

    def _between(self) -> Unit:
        """All that stands before the blocks of the encoder, and between them and the transformer."""
        turn = Turn("turn", self.config.encoder_dim, bias=True)
        image = Write(ENCODER, "encoder.model.patch_embed.proj")
        tokens = Tokens(ENCODER, ("encoder.model.cls_token", "encoder.model.pos_embed"))
        reference = Tokens(self._stream, ("info_sharing.view_pos_table",))
        if self.config.continued:
            into = Write(ENCODER, "turn")
            reads: tuple[Read, ...] = (Read(ENCODER, ("turn",), "fusion_norm_layer"),)
            tokens = Tokens(ENCODER, (*tokens.parameters, "scale_token"))
        else:
            # Norms of two kinds in a row: the second sees what the turn put out, which is not rotated.
            into = Write(MULTI_VIEW, "info_sharing.proj_embed")
            reads = (Read(ENCODER, ("turn",), "encoder.model.norm"),)
        return Unit("", "embed", reads, (image, into), (tokens, reference), turns=(turn,))

    def fix_constants(self) -> Self:
        self.dino.fix_constants()
        self.fixed_reference, self.fixed_scale = self.reference().detach(), self.first_scale().detach()
        return super().fix_constants()

    def reference(self) -> Tensor:
        """What is added to the tokens of each frame, (S, 1, C): nothing but in the reference view."""
        table = self.info_sharing.view_pos_table
        return torch.cat([table, table.new_zeros(self.shape.frames - 1, table.shape[1])])[:, None]

    def first_scale(self) -> Tensor:
        """The scale token as it enters the transformer, (1, 1, C)."""
        return self.info_sharing.proj_embed(self.scale_token[None, None])  # type: ignore[no-any-return]

    def fuse(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What leaves the encoder, (B * S * tokens, C), to patches, (B * S, patches, C), and what enters the
        transformer: the tokens of all views, (B * S * frame_tokens, C), and the scale token, (B, 1, C).
        """
        x = x.view(-1, self.shape.tokens, x.shape[1])
        classes, patches = x[:, :SPECIAL_TOKENS], x[:, SPECIAL_TOKENS:]
        if self.config.continued:
            patches = self.turn(self.fusion_norm_layer(patches))
            views = torch.cat([classes, patches], dim=1)
        else:
            patches = self.fusion_norm_layer(self.turn(self.dino.norm(patches)))
            views = self.info_sharing.proj_embed(patches)
        reference = self.reference() if self.fixed_reference is None else self.fixed_reference
        scale = self.first_scale() if self.fixed_scale is None else self.fixed_scale
        views = views.view(-1, self.shape.frames, *views.shape[1:]) + reference
        return patches, views.flatten(0, 2), scale.expand(len(views), -1, -1)


class MapAnythingArchitecture(Architecture):
    """MapAnything: the names of facebook/map-anything, map-anything-apache and their V1 forms."""

    about = _ABOUT
    keys = (
        "info_sharing.self_attention_blocks.0.attn.qkv.weight",
        "info_sharing.view_pos_table",
        "encoder.model.pos_embed",
        "encoder.model.blocks.0.attn.qkv.weight",
        "fusion_norm_layer.weight",
        "scale_token",
        "scale_head.output_proj.weight",
    )
    outputs = _OUTPUTS
    config_type = MapAnythingConfig
    components = MappingProxyType(
        {
            "blocks": "Encoder (DINOv2)",
            "self_attention_blocks": "Multi-view transformer",
            "dense_head": "Ray and depth head",
            "pose_head": "Pose head",
            "scale_head": "Scale head",
        }
    )
    patch = PATCH
    special_tokens = SPECIAL_TOKENS
    # Encoders of what is not given, and second names: the authors' modules share what the dense head consists of.
    optional = (
        *(f"{kind}_encoder." for kind in _GEOMETRIC_INPUTS),
        *("dpt_feature_head.", "dpt_regressor_head.", "dense_head.0.scratch.layer", "info_sharing.norm."),
        "pose_head.",
    )
    head_prefixes = MappingProxyType(
        {"camera": "pose_head.", "depth": "dense_head.", "points": "pose_head.", "sky": "dense_head."}
    )
    # One norm for what three heads read. Each has its own here, which its readers can take in.
    shared = MappingProxyType(
        {f"{head}.norm.{part}": f"info_sharing.norm.{part}" for head in _NORM_READERS for part in ("weight", "bias")}
    )

    def build(self, config: MapAnythingConfig, shape: InputShape, heads: Sequence[str]) -> MapAnything:
        return MapAnything(config, shape, heads)

    def default_config(self, tensors: Mapping[str, Tensor]) -> MapAnythingConfig:
        """Sizes of the authors' model of these widths and depths; ``ValueError`` where none has them."""
        found = self.sizes(tensors)
        for config in KNOWN:
            if found == _sizes_of(config):
                return config
        known = ", ".join(f"{config.name} with {_listed(_sizes_of(config))}" for config in KNOWN)
        raise ValueError(f"{_listed(found)}; supported: {known}")

    def notes(self, origin: str) -> tuple[str, ...]:
        """The terms of the weights that are not free for all use."""
        name = origin.lower()
        if "map-anything" in name and "apache" not in name:
            return ("the authors license facebook/map-anything under CC BY-NC 4.0: no commercial use",)
        return ()

    def sizes(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        widths = {"encoder width": "encoder.model.pos_embed", "embed dim": "info_sharing.view_pos_table"}
        found = {label: tensors[name].shape[-1] for label, name in widths.items() if name in tensors}
        for label, pattern in (("encoder blocks", _ENCODER_BLOCK), ("blocks", _BLOCK)):
            if blocks := {match[1] for name in tensors if (match := pattern.match(name))}:
                found[label] = len(blocks)
        return found


ARCHITECTURE = MapAnythingArchitecture()


def _sizes_of(config: MapAnythingConfig) -> dict[str, int]:
    return {
        "encoder width": config.encoder_dim,
        "embed dim": config.embed_dim,
        "encoder blocks": config.encoder_depth,
        "blocks": config.depth,
    }


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {size}" for label, size in sizes.items())


def _block_unit(path: str, stage: str, stream: str, heads: int, mlp: tuple[str, str], *, scaled: bool) -> Unit:
    first, last = mlp
    return Unit(
        path,
        stage,
        reads=(Read(stream, ("attn.qkv",), "norm1"), Read(stream, (f"mlp.{first}",), "norm2")),
        writes=(
            Write(stream, "attn.proj", "ls1" if scaled else None),
            Write(stream, f"mlp.{last}", "ls2" if scaled else None),
        ),
        values=Values("attn.qkv", "attn.proj", heads),
    )


def _rectified_in_dense() -> Iterator[Rectified]:
    for level in (1, 2, 3, 4):
        for unit in (1, 2) if level < 4 else (2,):
            path = f"0.scratch.refinenet{level}.resConfUnit{unit}"
            yield Rectified(f"{path}.conv1", f"{path}.conv2")
    yield Rectified("1.conv2.0", "1.conv2.2")


def _rectified_in_poses() -> Iterator[Rectified]:
    for residual in range(RESIDUALS):
        for index in range(1, CONVOLUTIONS):
            path = f"res_conv.{residual}.res_conv"
            yield Rectified(f"{path}{index}", f"{path}{index + 1}")


def _embed(encoder: Encoder, images: Tensor) -> tuple[Tensor]:
    return (encoder.embed(images),)


def _within(sequence: int, block: Block, x: Tensor) -> tuple[Tensor]:
    """Attention within each ``sequence`` of tokens."""
    return (block(x, len(x) // sequence),)


def _fuse(model: MapAnything, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return model.fuse(x)


def _over_all(sequence: int, block: Block, views: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the tokens of all views and the scale token behind them."""
    views = views.view(-1, sequence, views.shape[1])
    x = torch.cat([views, scale], dim=1).flatten(0, 1)
    x = block(x, len(views)).view(-1, sequence + 1, x.shape[1])
    return x[:, :sequence].flatten(0, 1), x[:, sequence:]


def _patches(frame_tokens: int, special: int, views: Tensor) -> Tensor:
    return views.view(-1, frame_tokens, views.shape[1])[:, special:]


def _dense(frame_tokens: int, special: int, head: DenseHead, fused: Tensor, *views: Tensor) -> tuple[Tensor]:
    return (head(fused, *(_patches(frame_tokens, special, each) for each in views)),)


def _poses(frame_tokens: int, special: int, head: PoseHead, views: Tensor) -> tuple[Tensor]:
    return (head(_patches(frame_tokens, special, views)),)


def _factor(head: ScaleHead, token: Tensor) -> tuple[Tensor]:
    return (head(token.flatten(0, 1)),)


def _geometry(geometry: Geometry, maps: Tensor, factor: Tensor, *poses: Tensor) -> tuple[Tensor, ...]:
    return geometry(maps, factor, *poses)  # type: ignore[no-any-return]
