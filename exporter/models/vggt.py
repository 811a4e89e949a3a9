"""VGGT (arXiv 2503.11651) for a fixed input shape, written to be exported; loads facebook/VGGT-1B's state dict."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Self

from torch import Tensor, nn

from vggt_edge.calibration.metrics.output import Output, of_heads
from vggt_edge.calibration.metrics.quantities import Confidence, Points, PoseEncoding
from vggt_edge.calibration.stages.walk import IMAGES, Stage
from vggt_edge.calibration.transforms.wiring import Wiring
from vggt_edge.exporter.models.aggregator import IMAGENET_MEAN, IMAGENET_STD, Aggregator
from vggt_edge.exporter.models.architecture import Architecture, Model
from vggt_edge.exporter.models.camera_head import CameraHead
from vggt_edge.exporter.models.config import OUTPUTS, PATCH, SPECIAL_TOKENS, VGGTConfig, config_from_json
from vggt_edge.exporter.models.dpt_head import DEPTH_OUTPUTS, DPTHead, activate_depth, activate_points
from vggt_edge.exporter.models.layers import Block, RopeTables
from vggt_edge.exporter.models.shape import InputShape
from vggt_edge.exporter.models.wiring import wiring_of

_ROPE = {kind: (f"{kind}_cos", f"{kind}_sin", "rope_turn") for kind in ("frame", "global")}
_ABOUT = "VGGT: cameras, depth and points from a few photographs (arXiv 2503.11651)"
_KNOWN_ORIGINS = ("facebook/VGGT-1B", "facebook/VGGT-1B-Commercial")
_HEAD_MODULES = {"camera": "camera_head", "depth": "depth_head", "points": "point_head"}
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
    Output(
        "points",
        "points",
        Points(),
        title="points",
        description="x, y, z of every pixel in the first camera's coordinates",
        confidence="points_conf",
    ),
    Output(
        "points_conf", "points", Confidence(), title="point confidence", description="confidence of the points, from 1"
    ),
)
# The groups of blocks that a checkpoint may have fewer of, and the width of a token.
_DEPTHS = {
    "DINO blocks": re.compile(r"aggregator\.patch_embed\.blocks\.(\d+)\."),
    "frame blocks": re.compile(r"aggregator\.frame_blocks\.(\d+)\."),
    "global blocks": re.compile(r"aggregator\.global_blocks\.(\d+)\."),
    "camera trunk blocks": re.compile(r"camera_head\.trunk\.(\d+)\."),
}
_WIDTH = re.compile(r"aggregator\..*\.norm1\.weight")


class VGGT(Model):
    """Images (B, S, 3, H, W) in [0, 1] to the tensors of the requested heads, in the order of ``output_names``.

    heads: their names, in the order of their outputs. The world is frame 0's camera.
    """

    about = _ABOUT

    def __init__(self, config: VGGTConfig, shape: InputShape, heads: Sequence[str] = OUTPUTS) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.heads = ARCHITECTURE.checked_heads(heads)
        self.outputs = of_heads(_OUTPUTS, self.heads)
        self.aggregator = Aggregator(config, shape)
        if "camera" in self.heads:
            self.camera_head = CameraHead(config, shape.frames)
        if "depth" in self.heads:
            self.depth_head = DPTHead(config, shape, outputs=2)
        if "points" in self.heads:
            self.point_head = DPTHead(config, shape, outputs=4)

    def stages(self) -> tuple[Stage, ...]:
        """The forward, step by step. Values: ``images``; ``dino.i`` and ``x.i``, what enters block i; ``local.i``, what
        leaves frame block i; ``camera_tokens`` and ``patches.i``, what the heads read; the outputs.
        """
        aggregator = self.aggregator
        dino, depth = len(aggregator.patch_embed.blocks), len(aggregator.frame_blocks)
        stages = [Stage("embed", "embed", (IMAGES,), ("dino.0",), aggregator, _embed)]
        stages += [self._dino_stage(index) for index in range(dino)]
        stages.append(Stage("tokens", "tokens", (f"dino.{dino}",), ("x.0",), aggregator, _tokens))
        for index in range(depth):
            stages += [self._alternating_stage("frame", index), self._alternating_stage("global", index)]
        return (*stages, self._entries_stage(), *self._head_stages())

    def constants(self) -> dict[str, Tensor]:
        """The rotary tables, which all alternating blocks share."""
        aggregator = self.aggregator
        return {name: getattr(aggregator, name) for name in (*_ROPE["frame"], *_ROPE["global"])}

    def _dino_stage(self, index: int) -> Stage:
        name = f"patch_embed.blocks.{index}"
        block = self.aggregator.patch_embed.blocks[index]
        run = partial(_run_dino_block, self.shape)
        return Stage(name, "dino", (f"dino.{index}",), (f"dino.{index + 1}",), block, run, (name,))

    def _alternating_stage(self, kind: str, index: int) -> Stage:
        name = f"{kind}_blocks.{index}"
        block = getattr(self.aggregator, f"{kind}_blocks")[index]
        before, after = ("x", "local") if kind == "frame" else ("local", "x")
        written = index if kind == "frame" else index + 1
        reads = (f"{before}.{index}", *_ROPE[kind])
        run = partial(_run_alternating_block, self.shape, kind)
        return Stage(name, kind, reads, (f"{after}.{written}",), block, run, (name,))

    def _entries_stage(self) -> Stage:
        taps = self.config.taps
        reads = tuple(value for tap in taps for value in (f"local.{tap}", f"x.{tap + 1}"))
        writes = ("camera_tokens", *(f"patches.{tap}" for tap in taps))
        return Stage("entries", "entries", reads, writes, self.aggregator, _entries)

    def _head_stages(self) -> Iterator[Stage]:
        patches = tuple(f"patches.{tap}" for tap in self.config.taps)
        trunk = tuple(f"camera_head.trunk.{index}" for index in range(self.config.camera_trunk_depth))
        for head, reads, run, blocks in (
            ("camera", ("camera_tokens",), _camera, trunk),
            ("depth", patches, _depth, ("depth_head",)),
            ("points", patches, _points, ("point_head",)),
        ):
            if head in self.heads:
                name = _HEAD_MODULES[head]
                writes = tuple(output.name for output in of_heads(_OUTPUTS, (head,)))
                yield Stage(name, name, reads, writes, getattr(self, name), run, blocks)

    def blocks(self) -> dict[str, nn.Module]:
        """The units of precision assignment, in the order in which the model runs them."""
        aggregator = self.aggregator
        named: dict[str, nn.Module] = {}
        for index, block in enumerate(aggregator.patch_embed.blocks):
            named[f"patch_embed.blocks.{index}"] = block
        for index, (frame, every) in enumerate(zip(aggregator.frame_blocks, aggregator.global_blocks, strict=True)):
            named[f"frame_blocks.{index}"] = frame
            named[f"global_blocks.{index}"] = every
        if "camera" in self.heads:
            for index, block in enumerate(self.camera_head.trunk):
                named[f"camera_head.trunk.{index}"] = block
        for name in ("depth_head", "point_head"):
            if hasattr(self, name):
                named[name] = getattr(self, name)
        return named

    def wiring(self) -> Wiring:
        """What the exact transforms need to know."""
        return wiring_of(self.config, self.heads)

    def fix_constants(self) -> Self:
        self.aggregator.patch_embed.fix_constants()
        return super().fix_constants()


class VGGTArchitecture(Architecture):
    """VGGT and its fine-tuned forms: the names of facebook/VGGT-1B's state dict, in any size."""

    about = _ABOUT
    keys = (
        "aggregator.camera_token",
        "aggregator.register_token",
        "aggregator.patch_embed.pos_embed",
        "aggregator.frame_blocks.0.attn.qkv.weight",
        "aggregator.global_blocks.0.attn.qkv.weight",
    )
    outputs = _OUTPUTS
    config_type = VGGTConfig
    components = MappingProxyType(
        {
            "patch_embed": "Patch embedding (DINOv2)",
            "frame_blocks": "Frame attention",
            "global_blocks": "Global attention",
            "camera_head": "Camera trunk",
            "depth_head": "Depth head",
            "point_head": "Point head",
        }
    )
    patch = PATCH
    special_tokens = SPECIAL_TOKENS
    # The track head is never exported; of the others, one that was not asked for is left out.
    optional = ("track_head.", *(f"{module}." for module in _HEAD_MODULES.values()))
    head_prefixes = MappingProxyType({head: f"{module}." for head, module in _HEAD_MODULES.items()})
    buffers = MappingProxyType({"aggregator._resnet_mean": IMAGENET_MEAN, "aggregator._resnet_std": IMAGENET_STD})

    def build(self, config: VGGTConfig, shape: InputShape, heads: Sequence[str]) -> VGGT:
        return VGGT(config, shape, heads)

    def default_config(self, tensors: Mapping[str, Tensor]) -> VGGTConfig:
        """VGGT-1B."""
        return VGGTConfig()

    def notes(self, origin: str) -> tuple[str, ...]:
        """StreamVGGT has the same 1403 names and shapes, but its attention over frames is causal."""
        if origin in _KNOWN_ORIGINS:
            return ()
        return ("the weights are taken for VGGT's; StreamVGGT's look alike: say --architecture streamvggt for those",)

    def read_config(self, text: str) -> VGGTConfig:
        return config_from_json(text)

    def sizes(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        found = {}
        widths = [tensor.shape[0] for name, tensor in tensors.items() if _WIDTH.fullmatch(name) and tensor.ndim == 1]
        if widths:
            found["embed dim"] = Counter(widths).most_common(1)[0][0]
        for label, pattern in _DEPTHS.items():
            if indices := {match[1] for name in tensors if (match := pattern.match(name))}:
                found[label] = len(indices)
        return found


ARCHITECTURE = VGGTArchitecture()


def _embed(aggregator: Aggregator, images: Tensor) -> tuple[Tensor]:
    return (aggregator.embed(images),)


def _run_dino_block(shape: InputShape, block: Block, x: Tensor) -> tuple[Tensor]:
    return (block(x, x.shape[0] // shape.tokens),)


def _tokens(aggregator: Aggregator, x: Tensor) -> tuple[Tensor]:
    return (aggregator.tokens(x),)


def _run_alternating_block(
    shape: InputShape, kind: str, block: Block, x: Tensor, cos: Tensor, sin: Tensor, turn: Tensor
) -> tuple[Tensor]:
    sequence = shape.tokens if kind == "frame" else shape.frames * shape.tokens
    return (block(x, x.shape[0] // sequence, RopeTables(cos, sin, turn)),)


def _entries(aggregator: Aggregator, *values: Tensor) -> tuple[Tensor, ...]:
    entries = [aggregator.entry(local, every) for local, every in zip(values[::2], values[1::2], strict=True)]
    return entries[-1][:, 0], *(entry[:, SPECIAL_TOKENS:] for entry in entries)


def _camera(head: CameraHead, tokens: Tensor) -> tuple[Tensor]:
    return (head(tokens)[-1],)


def _depth(head: DPTHead, *patches: Tensor) -> tuple[Tensor, Tensor]:
    return activate_depth(head(patches))


def _points(head: DPTHead, *patches: Tensor) -> tuple[Tensor, Tensor]:
    return activate_points(head(patches))
