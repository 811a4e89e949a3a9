"""VGGT (arXiv 2503.11651) for a fixed input shape, written to be exported; loads facebook/VGGT-1B's state dict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from vggt_edge.calibration.stages.walk import IMAGES, Stage, run_stages
from vggt_edge.calibration.transforms.wiring import Wiring
from vggt_edge.exporter.models.aggregator import Aggregator
from vggt_edge.exporter.models.camera_head import CameraHead
from vggt_edge.exporter.models.config import OUTPUTS, SPECIAL_TOKENS, InputShape, VGGTConfig, checked_outputs
from vggt_edge.exporter.models.dpt_head import DPTHead, activate_depth, activate_points
from vggt_edge.exporter.models.layers import Block, RopeTables
from vggt_edge.exporter.models.mapping import release_pages
from vggt_edge.exporter.models.wiring import wiring_of

_ROPE = {kind: (f"{kind}_cos", f"{kind}_sin", "rope_turn") for kind in ("frame", "global")}
TENSORS_OF_OUTPUT = {"camera": ("pose_enc",), "depth": ("depth", "depth_conf"), "points": ("points", "points_conf")}


class VGGT(nn.Module):
    """Images (B, S, 3, H, W) in [0, 1] to the tensors of the requested heads, in the order of ``output_names``.

    ``pose_enc`` (B, S, 9): translation, quaternion xyzw, vertical and horizontal field of view in radians, world to
    camera, the world being frame 0's camera. ``depth``, ``depth_conf``, ``points_conf`` (B, S, H, W); ``points``
    (B, S, H, W, 3) in the world.
    """

    special_tokens = SPECIAL_TOKENS

    def __init__(self, config: VGGTConfig, shape: InputShape, outputs: Sequence[str] = OUTPUTS) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.outputs = checked_outputs(outputs)
        self.aggregator = Aggregator(config, shape)
        if "camera" in self.outputs:
            self.camera_head = CameraHead(config, shape.frames)
        if "depth" in self.outputs:
            self.depth_head = DPTHead(config, shape, outputs=2)
        if "points" in self.outputs:
            self.point_head = DPTHead(config, shape, outputs=4)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(tensor for output in self.outputs for tensor in TENSORS_OF_OUTPUT[output])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        values = run_stages(self.stages(), {IMAGES: images, **self.constants()}, kept=self.output_names)
        return tuple(values[name] for name in self.output_names)

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

    def release(self, stage: Stage) -> None:
        """Give back the memory that the stage's weights take, where they are mapped from a file."""
        release_pages(stage.module.parameters())

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
        for output, attribute, reads, run, blocks in (
            ("camera", "camera_head", ("camera_tokens",), _camera, trunk),
            ("depth", "depth_head", patches, _depth, ("depth_head",)),
            ("points", "point_head", patches, _points, ("point_head",)),
        ):
            if output in self.outputs:
                module = getattr(self, attribute)
                yield Stage(attribute, attribute, reads, TENSORS_OF_OUTPUT[output], module, run, blocks)

    def blocks(self) -> dict[str, nn.Module]:
        """The units of precision assignment, in the order in which the model runs them."""
        aggregator = self.aggregator
        named: dict[str, nn.Module] = {}
        for index, block in enumerate(aggregator.patch_embed.blocks):
            named[f"patch_embed.blocks.{index}"] = block
        for index, (frame, every) in enumerate(zip(aggregator.frame_blocks, aggregator.global_blocks, strict=True)):
            named[f"frame_blocks.{index}"] = frame
            named[f"global_blocks.{index}"] = every
        if "camera" in self.outputs:
            for index, block in enumerate(self.camera_head.trunk):
                named[f"camera_head.trunk.{index}"] = block
        for name in ("depth_head", "point_head"):
            if hasattr(self, name):
                named[name] = getattr(self, name)
        return named

    def wiring(self) -> Wiring:
        """What the exact transforms need to know."""
        return wiring_of(self.config, self.outputs)

    def example_input(self) -> Tensor:
        """Zeros of the input shape, for tracing only."""
        return torch.zeros(1, self.shape.frames, 3, self.shape.height, self.shape.width)

    def fix_constants(self) -> VGGT:
        """After loading: make everything that depends only on weights and the input size a constant. Returns self."""
        self.aggregator.patch_embed.fix_constants()
        return self.eval().requires_grad_(False)


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
