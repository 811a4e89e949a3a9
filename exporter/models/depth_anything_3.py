"""Depth Anything 3 for any number of views (arXiv 2511.10647), written to be exported; loads the authors' checkpoints.

A plain DINOv2 whose later blocks attend in turn within a view and over all views. The first frame is the reference
view; the authors' code chooses one by the features of the views where there are three or more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Self

from torch import Tensor, nn

from vggt_edge.calibration.metrics.output import Output, of_heads
from vggt_edge.calibration.metrics.quantities import PoseEncoding, RayConfidence, Rays
from vggt_edge.calibration.stages.walk import IMAGES, Stage
from vggt_edge.calibration.transforms.wiring import Read, Rectified, Stream, Tokens, Turn, Unit, Values, Wiring, Write
from vggt_edge.exporter.models.architecture import Architecture, Model
from vggt_edge.exporter.models.config import PATCH
from vggt_edge.exporter.models.depth_anything_3_layers import (
    BACKBONE,
    KNOWN,
    SPECIAL_TOKENS,
    CameraDecoder,
    DepthAnything3Config,
    Transformer,
    config_of_size,
    sizes_in,
)
from vggt_edge.exporter.models.dpt_head import DEPTH_OUTPUTS, activate_depth
from vggt_edge.exporter.models.dual_dpt import DEPTH, RAY_CELLS, RAYS, DualDPT, activate_rays
from vggt_edge.exporter.models.layers import Block, RopeTables, patch_positions, tables_at
from vggt_edge.exporter.models.shape import InputShape

TOKENS, ENTRIES = "tokens", "entries"
_ABOUT = "Depth Anything 3: cameras, depth and rays from any views (arXiv 2511.10647)"
_DECODERS = MappingProxyType({"depth": DEPTH, "rays": RAYS})
_ACTIVATIONS = MappingProxyType({DEPTH: activate_depth, RAYS: activate_rays})
_ROPE = MappingProxyType({kind: (f"{kind}_cos", f"{kind}_sin", "rope_turn") for kind in ("local", "global")})
_RAY_NORM, _SAVED_NORM = "head.scratch.output_conv2_aux.3.2", "head.scratch.output_conv2_aux.0.2"
_LEVELS = (1, 2, 3, 4)
_OUTPUTS = (
    Output(
        "pose_enc",
        "camera",
        PoseEncoding(),
        title="pose",
        description="per frame: translation 3, unit quaternion xyzw 4, vertical and horizontal field of view in "
        "radians; world to camera",
    ),
    *DEPTH_OUTPUTS,
    Output(
        "rays",
        "rays",
        Rays(RAY_CELLS, PATCH),
        title="rays",
        description="per cell: direction 3 and origin 3 in the world; the point at depth d is origin + d * direction",
        confidence="ray_conf",
    ),
    Output(
        "ray_conf",
        "rays",
        RayConfidence(RAY_CELLS, PATCH),
        title="ray confidence",
        description="confidence of the rays, from 1",
    ),
)


class DepthAnything3(Model):
    """Images (B, S, 3, H, W) in [0, 1] to the tensors of the requested heads, in the order of ``output_names``."""

    about = _ABOUT

    def __init__(self, config: DepthAnything3Config, shape: InputShape, heads: Sequence[str]) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.heads = ARCHITECTURE.checked_heads(heads)
        self.outputs = of_heads(_OUTPUTS, self.heads)
        self.backbone = nn.ModuleDict({"pretrained": Transformer(config, shape)})
        width = 2 * config.embed_dim
        if "camera" in self.heads:
            self.cam_dec = CameraDecoder(width, shape.frames)
        self.decoders = tuple(decoder for head, decoder in _DECODERS.items() if head in self.heads)
        if self.decoders:
            self.head = DualDPT(width, config.dpt_features, config.dpt_channels, shape, self.decoders)
        positions, head_dim = patch_positions(shape.grid, SPECIAL_TOKENS), config.embed_dim // config.heads
        # Over all views, positions only tell camera tokens from patches.
        every = positions.clamp(max=1).repeat(shape.frames, 1)
        for kind, places in (("local", positions), ("global", every)):
            for name, table in zip(_ROPE[kind], tables_at(places, head_dim), strict=True):
                self.register_buffer(name, table, persistent=False)

    @property
    def transformer(self) -> Transformer:
        found = self.backbone["pretrained"]
        assert isinstance(found, Transformer)
        return found

    def constants(self) -> dict[str, Tensor]:
        """The rotary tables, which all alternating blocks share."""
        return {name: getattr(self, name) for names in _ROPE.values() for name in names}

    def stages(self) -> tuple[Stage, ...]:
        """The forward, step by step. Values: ``images``; ``x.i``, what enters block i or leaves the one before;
        ``cameras``, the former of the first alternating block with camera tokens; ``camera_tokens`` and ``patches.i``,
        what the heads read; the outputs.
        """
        transformer, start = self.transformer, self.config.alternating_from
        stages = [Stage("embed", "embed", (IMAGES,), ("x.0",), transformer, _embed)]
        for index in range(self.config.depth):
            if index == start:
                stages.append(Stage("cameras", "cameras", (f"x.{index}",), ("cameras",), transformer, _cameras))
            stages.append(self._block_stage(index))
        return (*stages, self._entries_stage(), *self._head_stages())

    def _block_stage(self, index: int) -> Stage:
        name, kind = f"blocks.{index}", _kind(self.config, index)
        read = "cameras" if index == self.config.alternating_from else f"x.{index}"
        block, run = self.transformer.blocks[index], partial(_run_block, self.shape, kind)
        return Stage(name, kind, (read, *_ROPE.get(kind, ())), (f"x.{index + 1}",), block, run, (name,))

    def _entries_stage(self) -> Stage:
        """The step in front of the heads, which read a tap and the last block within views before it."""
        taps = self.config.taps
        within = [tap + 1 if _kind(self.config, tap) == "local" else tap for tap in taps]
        reads = tuple(f"x.{value}" for local, tap in zip(within, taps, strict=True) for value in (local, tap + 1))
        camera = ("camera_tokens",) if "camera" in self.heads else ()
        patches = tuple(f"patches.{tap}" for tap in taps) if self.decoders else ()
        run = partial(_entries, bool(camera), bool(patches))
        return Stage("entries", "entries", reads, (*camera, *patches), self.transformer, run)

    def _head_stages(self) -> Iterator[Stage]:
        if "camera" in self.heads:
            yield Stage("cam_dec", "cam_dec", ("camera_tokens",), ("pose_enc",), self.cam_dec, _camera, ("cam_dec",))
        if self.decoders:
            reads = tuple(f"patches.{tap}" for tap in self.config.taps)
            writes = tuple(output.name for output in self.outputs if output.head in _DECODERS)
            yield Stage("head", "head", reads, writes, self.head, _dense, ("head",))

    def blocks(self) -> dict[str, nn.Module]:
        """The units of precision assignment, in the order in which the model runs them."""
        named: dict[str, nn.Module] = {f"blocks.{index}": block for index, block in enumerate(self.transformer.blocks)}
        return named | {name: getattr(self, name) for name in ("cam_dec", "head") if hasattr(self, name)}

    def wiring(self) -> Wiring:
        """The backbone has a single stream. The inputs of the dense head are turned back before: its norm joins two
        vectors of which one was normalised with a gain by channel.
        """
        width = self.config.embed_dim
        streams = {TOKENS: Stream(width, True), ENTRIES: Stream(2 * width, False)}
        return Wiring(MappingProxyType(streams), tuple(self._units()))

    def _units(self) -> Iterator[Unit]:
        yield Unit(
            BACKBONE,
            "embed",
            reads=(Read(TOKENS, ("turn",)),),
            writes=(Write(TOKENS, "patch_embed.proj"),),
            tokens=(Tokens(TOKENS, ("cls_token", "pos_embed", "camera_token")),),
            turns=(Turn("turn", self.config.embed_dim, bias=False),),
        )
        for index in range(self.config.depth):
            yield Unit(
                f"{BACKBONE}.blocks.{index}",
                f"blocks.{index}",
                reads=(Read(TOKENS, ("attn.qkv",), "norm1"), Read(TOKENS, ("mlp.fc1",), "norm2")),
                writes=(Write(TOKENS, "attn.proj", "ls1"), Write(TOKENS, "mlp.fc2", "ls2")),
                values=Values("attn.qkv", "attn.proj", self.config.heads),
            )
        if "camera" in self.heads:
            yield Unit("cam_dec", "cam_dec", reads=(Read(TOKENS, ("backbone.0",)),))
        if self.decoders:
            projects = tuple(f"projects.{index}" for index in range(len(_LEVELS)))
            rectified = tuple(pair for decoder in self.decoders for pair in _rectified(decoder))
            yield Unit("head", "head", reads=(Read(ENTRIES, projects, "norm"),), rectified=rectified)

    def fix_constants(self) -> Self:
        self.transformer.fix_constants()
        return super().fix_constants()


class DepthAnything3Architecture(Architecture):
    """Depth Anything 3 for any number of views: the names of depth-anything/DA3-SMALL, -BASE and -LARGE."""

    about = _ABOUT
    keys = (
        f"{BACKBONE}.camera_token",
        f"{BACKBONE}.pos_embed",
        f"{BACKBONE}.blocks.0.attn.qkv.weight",
        "head.projects.0.weight",
        "head.scratch.layer1_rn.weight",
    )
    outputs = _OUTPUTS
    config_type = DepthAnything3Config
    components = MappingProxyType(
        {
            "blocks": "Backbone (DINOv2)",
            "cam_dec": "Camera decoder",
            "head": "Depth and ray head",
        }
    )
    patch = PATCH
    special_tokens = SPECIAL_TOKENS
    # Cameras as an input, and what only training reads: the ray outputs of the three coarser levels.
    optional = (
        "cam_enc.",
        *(f"head.scratch.output_conv{part}_aux.{level}." for part in (1, 2) for level in range(3)),
        *("cam_dec.", "head."),
        *(f"head.scratch.refinenet{level}{decoder}." for level in _LEVELS for decoder in _DECODERS.values()),
        *(f"head.scratch.output_conv{part}{decoder}." for part in (1, 2) for decoder in _DECODERS.values()),
    )
    head_prefixes = MappingProxyType(
        {"camera": "cam_dec.", "depth": "head.scratch.refinenet1.", "rays": "head.scratch.refinenet1_aux."}
    )
    # The four ray outputs have one norm in common, which files name after the first.
    shared = MappingProxyType({f"{_RAY_NORM}.{part}": f"{_SAVED_NORM}.{part}" for part in ("weight", "bias")})

    def build(self, config: DepthAnything3Config, shape: InputShape, heads: Sequence[str]) -> DepthAnything3:
        return DepthAnything3(config, shape, heads)

    def default_config(self, tensors: Mapping[str, Tensor]) -> DepthAnything3Config:
        """Sizes of the authors' model of this width; ``ValueError`` for a width that none of those has."""
        return config_of_size(KNOWN, tensors)

    def notes(self, origin: str) -> tuple[str, ...]:
        """The reference view, and the terms of the weights that are not free for all use."""
        notes = ["frame 0 is the reference view; the authors' code chooses one where there are three frames or more"]
        if "large" in origin.lower():
            notes.append("the authors license DA3-LARGE under CC BY-NC 4.0: no commercial use")
        return tuple(notes)

    def sizes(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        return sizes_in(tensors)


ARCHITECTURE = DepthAnything3Architecture()


def _kind(config: DepthAnything3Config, index: int) -> str:
    """Kind of a block: ``encoder``, without positions, then in turn ``local`` and ``global``."""
    return "encoder" if index < config.alternating_from else ("local", "global")[index % 2]


def _rectified(decoder: str) -> Iterator[Rectified]:
    for level in _LEVELS:
        for unit in (1, 2) if level < _LEVELS[-1] else (2,):
            path = f"scratch.refinenet{level}{decoder}.resConfUnit{unit}"
            yield Rectified(f"{path}.conv1", f"{path}.conv2")
    if decoder == DEPTH:
        yield Rectified("scratch.output_conv2.0", "scratch.output_conv2.2")


def _embed(transformer: Transformer, images: Tensor) -> tuple[Tensor]:
    return (transformer.embed(images),)


def _cameras(transformer: Transformer, x: Tensor) -> tuple[Tensor]:
    return (transformer.with_cameras(x),)


def _run_block(shape: InputShape, kind: str, block: Block, x: Tensor, *rope: Tensor) -> tuple[Tensor]:
    sequence = shape.frames * shape.tokens if kind == "global" else shape.tokens
    return (block(x, x.shape[0] // sequence, RopeTables(*rope) if rope else None),)


def _entries(camera: bool, patches: bool, transformer: Transformer, *values: Tensor) -> tuple[Tensor, ...]:
    pairs = list(zip(values[::2], values[1::2], strict=True))
    cameras = [transformer.camera(*pairs[-1])] if camera else []
    return *cameras, *(transformer.entry(*pair) for pair in pairs if patches)


def _camera(decoder: CameraDecoder, tokens: Tensor) -> tuple[Tensor]:
    return (decoder(tokens),)


def _dense(head: DualDPT, *patches: Tensor) -> tuple[Tensor, ...]:
    raw = zip(head.decoders, head(patches), strict=True)
    return tuple(tensor for decoder, maps in raw for tensor in _ACTIVATIONS[decoder](maps))
