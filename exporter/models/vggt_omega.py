"""VGGT-Omega (arXiv 2605.15195) for a fixed input shape, written to be exported; loads the authors' checkpoints.

A DINOv3 with patches of 16 pixels, then blocks that see one frame in turn with blocks that see all. Some of the latter
see the camera and register tokens only, 17 of each frame. Poses come in one pass from these tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor, nn

from vggt_edge.calibration.metrics.output import Output, of_heads
from vggt_edge.calibration.metrics.quantities import PoseEncoding
from vggt_edge.calibration.stages.walk import IMAGES, Stage
from vggt_edge.calibration.transforms.wiring import Read, Rectified, Stream, Tokens, Turn, Unit, Values, Wiring, Write
from vggt_edge.exporter.models.aggregator import IMAGENET_MEAN, IMAGENET_STD
from vggt_edge.exporter.models.architecture import Architecture, Model
from vggt_edge.exporter.models.dpt_head import DEPTH_OUTPUTS
from vggt_edge.exporter.models.layers import Block, RopeTables
from vggt_edge.exporter.models.shape import InputShape
from vggt_edge.exporter.models.vggt_omega_layers import (
    DINO_SPECIAL_TOKENS,
    PATCH,
    SPECIAL_TOKENS,
    Aggregator,
    CameraHead,
    DenseHead,
    RopePeriods,
    VGGTOmegaConfig,
)

DINO, ALTERNATING, CAMERA = "dino", "alternating", "camera"
_ABOUT = "VGGT-Omega: cameras and depth from any number of photographs (arXiv 2605.15195)"
_HEAD_MODULES = MappingProxyType({"camera": "camera_head", "depth": "dense_head"})
_ROPE = MappingProxyType({kind: (f"{kind}_cos", f"{kind}_sin", "rope_turn") for kind in ("dino", "frame")})
_MASK = ".attn.qkv.bias_mask"
_TEXT_HEAD = "text_alignment_head."
_TEXT_RESOLUTION = 256
_OUTPUTS = (
    Output(
        "pose_enc",
        "camera",
        PoseEncoding(),
        title="pose",
        description="per frame: translation 3, quaternion xyzw 4, vertical and horizontal field of view in radians; "
        "world to camera",
    ),
    *DEPTH_OUTPUTS,
)
_DEPTHS = MappingProxyType(
    {
        "DINO blocks": re.compile(r"aggregator\.patch_embed\.blocks\.(\d+)\."),
        "frame blocks": re.compile(r"aggregator\.frame_blocks\.(\d+)\."),
        "inter-frame blocks": re.compile(r"aggregator\.inter_frame_blocks\.(\d+)\."),
        "camera trunk blocks": re.compile(r"camera_head\.trunk\.(\d+)\."),
    }
)


class VGGTOmega(Model):
    """Images (B, S, 3, H, W) in [0, 1] to the tensors of the requested heads, in the order of ``output_names``."""

    about = _ABOUT

    def __init__(self, config: VGGTOmegaConfig, shape: InputShape, heads: Sequence[str]) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.heads = ARCHITECTURE.checked_heads(heads)
        self.outputs = of_heads(_OUTPUTS, self.heads)
        self.aggregator = Aggregator(config, shape)
        if "camera" in self.heads:
            self.camera_head = CameraHead(config, shape)
        if "depth" in self.heads:
            self.dense_head = DenseHead(config, shape)
        self._fix_tables()

    def _fix_tables(self) -> None:
        for kind, rope, special in self._ropes():
            for name, table in zip(_ROPE[kind], rope.tables(self.shape.grid, special), strict=True):
                self.register_buffer(name, table, persistent=False)

    def _ropes(self) -> Iterator[tuple[str, RopePeriods, int]]:
        yield "dino", self.aggregator.patch_embed.rope_embed, DINO_SPECIAL_TOKENS
        yield "frame", self.aggregator.rope_embed, SPECIAL_TOKENS

    def fix_constants(self) -> Self:
        self._fix_tables()
        return super().fix_constants()

    def constants(self) -> dict[str, Tensor]:
        """The rotary tables, which blocks of a kind share."""
        return {name: getattr(self, name) for names in _ROPE.values() for name in names}

    def stages(self) -> tuple[Stage, ...]:
        """The forward, step by step. Values: ``images``; ``dino.i`` and ``x.i``, what enters block i; ``local.i``, what
        leaves frame block i; ``camera_tokens`` and ``patches.i``, what the heads read; ``camera.i``, what enters block
        i of the camera head; the outputs.
        """
        aggregator, depth = self.aggregator, self.config.dino_depth
        stages = [Stage("embed", "embed", (IMAGES,), ("dino.0",), aggregator, _embed)]
        stages += [self._dino_stage(index) for index in range(depth)]
        stages.append(Stage("tokens", "tokens", (f"dino.{depth}",), ("x.0",), aggregator, _tokens))
        for index in range(self.config.depth):
            stages += [self._frame_stage(index), self._inter_frame_stage(index)]
        return (*stages, self._entries_stage(), *self._camera_stages(), *self._depth_stages())

    def _dino_stage(self, index: int) -> Stage:
        name, run = f"patch_embed.blocks.{index}", partial(_run_block, DINO_SPECIAL_TOKENS + self.shape.patches)
        block = self.aggregator.patch_embed.blocks[index]
        return Stage(name, "dino", (f"dino.{index}", *_ROPE["dino"]), (f"dino.{index + 1}",), block, run, (name,))

    def _frame_stage(self, index: int) -> Stage:
        name, run = f"frame_blocks.{index}", partial(_run_block, self.shape.tokens)
        block = self.aggregator.frame_blocks[index]
        return Stage(name, "frame", (f"x.{index}", *_ROPE["frame"]), (f"local.{index}",), block, run, (name,))

    def _inter_frame_stage(self, index: int) -> Stage:
        name, shape = f"inter_frame_blocks.{index}", self.shape
        block = self.aggregator.inter_frame_blocks[index]
        kind, run = "global", partial(_run_block, shape.frames * shape.tokens)
        if index in self.config.register_blocks:
            kind, run = "register", partial(_run_register_block, shape)
        return Stage(name, kind, (f"local.{index}",), (f"x.{index + 1}",), block, run, (name,))

    def _entries_stage(self) -> Stage:
        """The step in front of the heads, which read what the blocks of a pair put out, side by side."""
        camera, dense = ("camera" in self.heads, "depth" in self.heads)
        taps = self.config.taps if dense else self.config.taps[-1:]
        reads = tuple(value for tap in taps for value in (f"local.{tap}", f"x.{tap + 1}"))
        writes = (*(("camera_tokens",) if camera else ()), *(f"patches.{tap}" for tap in taps if dense))
        return Stage("entries", "entries", reads, writes, self.aggregator, partial(_entries, camera, dense))

    def _camera_stages(self) -> Iterator[Stage]:
        if "camera" not in self.heads:
            return
        head, depth = self.camera_head, self.config.camera_trunk_depth
        yield Stage("camera_entry", "camera_entry", ("camera_tokens",), ("camera.0",), head, _enter)
        run = partial(_run_block, self.shape.frames * SPECIAL_TOKENS)
        for index, block in enumerate(head.trunk):
            name = f"camera_head.trunk.{index}"
            yield Stage(name, "trunk", (f"camera.{index}",), (f"camera.{index + 1}",), block, run, (name,))
        yield Stage("camera_head", "camera_head", (f"camera.{depth}",), ("pose_enc",), head, _leave)

    def _depth_stages(self) -> Iterator[Stage]:
        if "depth" in self.heads:
            reads = tuple(f"patches.{tap}" for tap in self.config.taps)
            writes = tuple(output.name for output in DEPTH_OUTPUTS)
            yield Stage("dense_head", "dense_head", reads, writes, self.dense_head, _dense, ("dense_head",))

    def blocks(self) -> dict[str, nn.Module]:
        """The units of precision assignment, in the order in which the model runs them."""
        return {name: stage.module for stage in self.stages() for name in stage.blocks}

    def wiring(self) -> Wiring:
        """The camera head's stream begins with what a norm puts out, so that it turns with a linear behind that."""
        width = self.config.embed_dim
        streams = {DINO: Stream(width, True), ALTERNATING: Stream(width, True), CAMERA: Stream(2 * width, True)}
        return Wiring(MappingProxyType(streams), tuple(self._units()))

    def _units(self) -> Iterator[Unit]:
        config = self.config
        yield _aggregator_unit(config.embed_dim)
        for index in range(config.dino_depth):
            yield _block_unit("aggregator.", f"patch_embed.blocks.{index}", DINO, config.heads)
        for index in range(config.depth):
            for kind in ("frame", "inter_frame"):
                yield _block_unit("aggregator.", f"{kind}_blocks.{index}", ALTERNATING, config.heads)
        if "camera" in self.heads:
            yield _camera_unit(2 * config.embed_dim)
            for index in range(config.camera_trunk_depth):
                yield _block_unit("", f"camera_head.trunk.{index}", CAMERA, config.camera_heads)
        if "depth" in self.heads:
            projects = tuple(f"projects.{level}" for level in range(len(config.dpt_channels)))
            read = Read(ALTERNATING, projects, "norm")
            yield Unit("dense_head", "dense_head", reads=(read,), rectified=tuple(_rectified(len(projects))))


class VGGTOmegaArchitecture(Architecture):
    """VGGT-Omega: the names of the two files of facebook/VGGT-Omega, with and without text alignment."""

    about = _ABOUT
    keys = (
        "aggregator.camera_token",
        "aggregator.register_token",
        "aggregator.patch_embed.storage_tokens",
        "aggregator.frame_blocks.0.attn.qkv.weight",
        "aggregator.inter_frame_blocks.0.attn.qkv.weight",
    )
    outputs = _OUTPUTS
    config_type = VGGTOmegaConfig
    components = MappingProxyType(
        {
            "patch_embed": "Patch embedding (DINOv3)",
            "frame_blocks": "Frame attention",
            "inter_frame_blocks": "Global and register attention",
            "camera_head": "Camera head",
            "dense_head": "Depth head",
        }
    )
    patch = PATCH
    special_tokens = SPECIAL_TOKENS
    # An embedding of text is no output of ours, and a mask token stands in for patches in training only.
    optional = (_TEXT_HEAD, "aggregator.patch_embed.mask_token", *(f"{module}." for module in _HEAD_MODULES.values()))
    head_prefixes = MappingProxyType({head: f"{module}." for head, module in _HEAD_MODULES.items()})
    buffers = MappingProxyType({"aggregator._resnet_mean": IMAGENET_MEAN, "aggregator._resnet_std": IMAGENET_STD})

    def build(self, config: VGGTOmegaConfig, shape: InputShape, heads: Sequence[str]) -> VGGTOmega:
        return VGGTOmega(config, shape, heads)

    def default_config(self, tensors: Mapping[str, Tensor]) -> VGGTOmegaConfig:
        """VGGT-Omega-1B; ``ValueError`` for a size whose configuration is not public."""
        config = VGGTOmegaConfig()
        found = self.sizes(tensors)
        if found.get("embed dim") != config.embed_dim or found.get("frame blocks") != config.depth:
            sizes = f"embed dim {found.get('embed dim')}, {found.get('frame blocks')} frame blocks"
            raise ValueError(f"{sizes}; supported: 1B with {config.embed_dim} and {config.depth}")
        if any(name.startswith(_TEXT_HEAD) for name in tensors):
            return replace(config, name="vggt-omega-1b-256-text", native_resolution=_TEXT_RESOLUTION)
        return config

    def notes(self, origin: str) -> tuple[str, ...]:
        """The terms of the weights."""
        return (
            "the authors license the weights of VGGT-Omega under the FAIR Noncommercial Research License: no "
            "commercial use",
        )

    def adapted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Biases of queries, keys and values times the masks that files hold beside them."""
        found = {name: tensor for name, tensor in tensors.items() if not name.endswith(_MASK)}
        for name in tensors.keys() - found.keys():
            bias = name.removesuffix("_mask")
            if bias in found:
                found[bias] = _masked(found[bias], tensors[name], name)
        return found

    def sizes(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        token = tensors.get("aggregator.camera_token")
        found = {"embed dim": token.shape[-1]} if token is not None and token.ndim else {}
        for label, pattern in _DEPTHS.items():
            if indices := {match[1] for name in tensors if (match := pattern.match(name))}:
                found[label] = len(indices)
        return found


ARCHITECTURE = VGGTOmegaArchitecture()


def _masked(bias: Tensor, mask: Tensor, name: str) -> Tensor:
    if mask.shape != bias.shape:
        raise ValueError(f"{name} is {tuple(mask.shape)}, expected {tuple(bias.shape)}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"{name} holds other values than 0 and 1")
    return bias * mask.to(bias.dtype)


def _aggregator_unit(width: int) -> Unit:
    dino = ("cls_token", "storage_tokens")
    return Unit(
        "aggregator",
        "embed",
        reads=(Read(DINO, ("turn",), "patch_embed.norm"),),
        writes=(Write(DINO, "patch_embed.patch_embed.proj"), Write(ALTERNATING, "turn")),
        tokens=(
            Tokens(DINO, tuple(f"patch_embed.{name}" for name in dino)),
            Tokens(ALTERNATING, ("camera_token", "register_token")),
        ),
        turns=(Turn("turn", width, bias=True),),
    )


def _camera_unit(width: int) -> Unit:
    return Unit(
        "camera_head",
        "camera_entry",
        reads=(Read(ALTERNATING, ("turn",), "token_norm"), Read(CAMERA, ("camera_branch.0",), "trunk_norm")),
        writes=(Write(CAMERA, "turn"),),
        turns=(Turn("turn", width, bias=True),),
    )


def _block_unit(before: str, name: str, stream: str, heads: int) -> Unit:
    return Unit(
        before + name,
        name,
        reads=(Read(stream, ("attn.qkv",), "norm1"), Read(stream, ("mlp.fc1",), "norm2")),
        writes=(Write(stream, "attn.proj", "ls1"), Write(stream, "mlp.fc2", "ls2")),
        values=Values("attn.qkv", "attn.proj", heads),
    )


def _rectified(levels: int) -> Iterator[Rectified]:
    for level in range(1, levels + 1):
        for unit in (1, 2) if level < levels else (2,):
            path = f"scratch.refinenet{level}.resConfUnit{unit}"
            yield Rectified(f"{path}.conv1", f"{path}.conv2")


def _embed(aggregator: Aggregator, images: Tensor) -> tuple[Tensor]:
    return (aggregator.embed(images),)


def _tokens(aggregator: Aggregator, x: Tensor) -> tuple[Tensor]:
    return (aggregator.tokens(x),)


def _run_block(sequence: int, block: Block, x: Tensor, *rope: Tensor) -> tuple[Tensor]:
    return (block(x, x.shape[0] // sequence, RopeTables(*rope) if rope else None),)


def _run_register_block(shape: InputShape, block: Block, x: Tensor) -> tuple[Tensor]:
    """Patches pass by."""
    framed = x.view(-1, shape.tokens, x.shape[1])
    special = framed[:, :SPECIAL_TOKENS].flatten(0, 1)
    special = block(special, len(special) // (shape.frames * SPECIAL_TOKENS))
    special = special.view(-1, SPECIAL_TOKENS, x.shape[1])
    return (torch.cat([special, framed[:, SPECIAL_TOKENS:]], dim=1).flatten(0, 1),)


def _entries(camera: bool, dense: bool, aggregator: Aggregator, *values: Tensor) -> tuple[Tensor, ...]:
    pairs = zip(values[::2], values[1::2], strict=True)
    entries = [aggregator.framed(torch.cat(pair, dim=1)) for pair in pairs]
    cameras = (entries[-1][0].flatten(0, 1),) if camera else ()
    return *cameras, *(patches for _, patches in entries if dense)


def _enter(head: CameraHead, tokens: Tensor) -> tuple[Tensor]:
    return (head.enter(tokens),)


def _leave(head: CameraHead, x: Tensor) -> tuple[Tensor]:
    return (head.leave(x),)


def _dense(head: DenseHead, *patches: Tensor) -> tuple[Tensor, ...]:
    depth, confidence = head(patches)
    return depth.exp(), 1 + confidence.exp()
