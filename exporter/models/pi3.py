"""Pi3 (arXiv 2507.13347) for a fixed input shape, written to be exported; loads the authors' checkpoint.

No frame is the reference of the others: every frame has the same tokens, and the model chooses a world of its own. The
outputs are turned into the world of frame 0's camera, as those of every model here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Self

from torch import Tensor, nn

from vggt_edge.calibration.metrics.output import Output, of_heads
from vggt_edge.calibration.metrics.quantities import Confidence, Depth, Points, PoseEncoding
from vggt_edge.calibration.stages.walk import IMAGES, Stage
from vggt_edge.calibration.transforms.wiring import Read, Stream, Tokens, Turn, Unit, Values, Wiring, Write
from vggt_edge.exporter.models.aggregator import IMAGENET_MEAN, IMAGENET_STD
from vggt_edge.exporter.models.architecture import Architecture, Model
from vggt_edge.exporter.models.config import PATCH
from vggt_edge.exporter.models.layers import Block, RopeTables, repeat_frames, rope_tables
from vggt_edge.exporter.models.pi3_layers import (
    REGISTERS,
    CameraHead,
    Encoder,
    Geometry,
    HeadDecoder,
    Pi3Config,
    PixelHead,
)
from vggt_edge.exporter.models.shape import InputShape

DINO, DECODER = "dino", "decoder"
_ABOUT = "Pi3: cameras, depth and points without a reference view (arXiv 2507.13347)"
_ROPE = MappingProxyType({kind: (f"{kind}_cos", f"{kind}_sin", "rope_turn") for kind in ("frame", "global")})
_POINT, _CONF, _CAMERA = "point_decoder", "conf_decoder", "camera_decoder"
# The heads that need each decoder. Fields of view are those of the local points.
_NEEDED_BY = MappingProxyType({_POINT: ("camera", "depth", "points"), _CONF: ("depth",), _CAMERA: ("camera", "points")})
_COUNTED = MappingProxyType(
    {
        "encoder blocks": re.compile(r"encoder\.blocks\.(\d+)\."),
        "decoder blocks": re.compile(r"decoder\.(\d+)\."),
        "blocks of a head": re.compile(r"point_decoder\.blocks\.(\d+)\."),
    }
)


class Probability(Confidence):
    """(S, H, W): probability that the point of a pixel is right."""

    unit = "0 to 1, no unit"


_OUTPUTS = (
    Output(
        "pose_enc",
        "camera",
        PoseEncoding(),
        title="pose",
        description="per frame: translation 3, unit quaternion xyzw 4, vertical and horizontal field of view in "
        "radians; world to camera",
    ),
    Output(
        "depth",
        "depth",
        Depth(),
        title="depth",
        description="depth of every pixel, in units of the scene",
        confidence="depth_conf",
    ),
    Output(
        "depth_conf",
        "depth",
        Probability(),
        title="depth confidence",
        description="probability that the point of the pixel is right",
    ),
    Output(
        "points",
        "points",
        Points(),
        title="points",
        description="x, y, z of every pixel in the first camera's coordinates",
        confidence="depth_conf",
    ),
)


class Pi3(Model):
    """Images (B, S, 3, H, W) in [0, 1] to the tensors of the requested heads, in the order of ``output_names``."""

    about = _ABOUT

    def __init__(self, config: Pi3Config, shape: InputShape, heads: Sequence[str]) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.heads = ARCHITECTURE.checked_heads(heads)
        self.outputs = of_heads(_OUTPUTS, self.heads)
        self.encoder = Encoder(config, shape)
        self.decoder = nn.ModuleList(
            Block(config.embed_dim, config.heads, qk_norm=True, eps=1e-6) for _ in range(config.depth)
        )
        self.decoders = tuple(name for name, needing in _NEEDED_BY.items() if set(needing) & set(self.heads))
        self.point_decoder = HeadDecoder(config, shape, config.head_dim)
        self.point_head = PixelHead(config.head_dim, 3, shape)
        if _CONF in self.decoders:
            self.conf_decoder = HeadDecoder(config, shape, config.head_dim)
            self.conf_head = PixelHead(config.head_dim, 1, shape)
        if _CAMERA in self.decoders:
            self.camera_decoder = HeadDecoder(config, shape, config.camera_dim)
            self.camera_head = CameraHead(config.camera_dim, shape)
            self.geometry = Geometry(shape)
        frame = rope_tables(shape.grid, REGISTERS, config.embed_dim // config.heads)
        for kind, tables in (("frame", frame), ("global", repeat_frames(frame, shape.frames))):
            for name, table in zip(_ROPE[kind], tables, strict=True):
                self.register_buffer(name, table, persistent=False)

    def constants(self) -> dict[str, Tensor]:
        """The rotary tables, which all blocks of the decoders share."""
        return {name: getattr(self, name) for names in _ROPE.values() for name in names}

    def stages(self) -> tuple[Stage, ...]:
        """The forward, step by step. Values: ``images``; ``dino.i`` and ``x.i``, what enters block i of encoder and
        decoder; ``point_decoder.i``, what enters block i in front of a head; ``point_decoder.patches``, what that head
        reads; ``slopes``, x / z and y / z of every pixel; ``rotation`` and ``position`` of the cameras; the outputs.
        """
        depth = self.config.dino_depth
        stages = [Stage("embed", "embed", (IMAGES,), ("dino.0",), self.encoder, _embed)]
        stages += [self._encoder_stage(index) for index in range(depth)]
        stages.append(Stage("tokens", "tokens", (f"dino.{depth}",), ("x.0",), self.encoder, _tokens))
        stages += [self._decoder_stage(index) for index in range(self.config.depth)]
        for name in self.decoders:
            stages += self._head_decoder_stages(name)
        return (*stages, *self._head_stages())

    def _encoder_stage(self, index: int) -> Stage:
        name, run = f"encoder.blocks.{index}", partial(_run_block, self.shape.tokens)
        block = self.encoder.blocks[index]
        # DINO has as many special tokens of its own: a class token and four registers.
        return Stage(name, "encoder", (f"dino.{index}",), (f"dino.{index + 1}",), block, run, (name,))

    def _decoder_stage(self, index: int) -> Stage:
        name, kind = f"decoder.{index}", ("frame", "global")[index % 2]
        run = partial(_run_block, self.shape.tokens * (self.shape.frames if index % 2 else 1))
        reads = (f"x.{index}", *_ROPE[kind])
        return Stage(name, kind, reads, (f"x.{index + 1}",), self.decoder[index], run, (name,))

    def _head_decoder_stages(self, name: str) -> Iterator[Stage]:
        decoder, depth = self.get_submodule(name), self.config.depth
        entered = (f"x.{depth - 1}", f"x.{depth}")
        yield Stage(f"{name}.enter", "enter", entered, (f"{name}.0",), decoder, _enter)
        for index in range(self.config.head_depth):
            block, path = decoder.get_submodule(f"blocks.{index}"), f"{name}.blocks.{index}"
            reads, run = (f"{name}.{index}", *_ROPE["frame"]), partial(_run_block, self.shape.tokens)
            yield Stage(path, "head", reads, (f"{name}.{index + 1}",), block, run, (path,))
        left = (f"{name}.{self.config.head_depth}",)
        yield Stage(f"{name}.leave", f"{name}.leave", left, (f"{name}.patches",), decoder, _leave)

    def _head_stages(self) -> Iterator[Stage]:
        frames, cameras = self.shape.frames, ("rotation", "position")
        yield Stage(
            "point_head", "point_head", (f"{_POINT}.patches",), ("slopes", "depth"), self.point_head,
            partial(_local_points, frames),
        )  # fmt: skip
        if _CONF in self.decoders:
            run = partial(_probability, frames)
            yield Stage("conf_head", "conf_head", (f"{_CONF}.patches",), ("depth_conf",), self.conf_head, run)
        if _CAMERA in self.decoders:
            raw = ("nine", "centre")
            yield Stage("camera_head", "camera_head", (f"{_CAMERA}.patches",), raw, self.camera_head, _camera)
            yield Stage("cameras", "cameras", raw, cameras, self.geometry, _cameras)
        if "camera" in self.heads:
            yield Stage("pose", "pose", (*cameras, "slopes"), ("pose_enc",), self.geometry, _pose)
        if "points" in self.heads:
            reads = (*cameras, "slopes", "depth")
            yield Stage("points", "points", reads, ("points",), self.geometry, _points)

    def blocks(self) -> dict[str, nn.Module]:
        """The units of precision assignment, in the order in which the model runs them."""
        return {name: self.get_submodule(name) for stage in self.stages() for name in stage.blocks}

    def wiring(self) -> Wiring:
        """A stream each for encoder, decoder and what stands in front of each head: all of them rotate."""
        streams = {DINO: Stream(self.config.embed_dim, True), DECODER: Stream(self.config.embed_dim, True)}
        streams |= {name: Stream(self.config.head_dim, True) for name in self.decoders}
        return Wiring(MappingProxyType(streams), tuple(self._units()))

    def _units(self) -> Iterator[Unit]:
        config = self.config
        yield Unit(
            "encoder",
            "embed",
            reads=(Read(DINO, ("turn",), "norm"),),
            writes=(Write(DINO, "patch_embed.proj"), Write(DECODER, "turn")),
            tokens=(
                Tokens(DINO, ("cls_token", "pos_embed", "register_tokens")),
                Tokens(DECODER, ("register_token",)),
            ),
            turns=(Turn("turn", config.embed_dim, bias=True),),
        )
        for index in range(config.dino_depth):
            yield _block(f"encoder.blocks.{index}", DINO, config.heads)
        for index in range(config.depth):
            yield _block(f"decoder.{index}", DECODER, config.heads)
        for name in self.decoders:
            yield Unit(
                name,
                f"{name}.enter",
                reads=(Read(DECODER, ("projects",)), Read(name, ("linear_out",))),
                writes=(Write(name, "projects"),),
            )
            for index in range(config.head_depth):
                yield _block(f"{name}.blocks.{index}", name, config.head_heads, scaled=False)
        for name in self.decoders:
            head = name.replace("decoder", "head")
            yield Unit(head, head)

    def fix_constants(self) -> Self:
        self.encoder.fix_constants()
        return super().fix_constants()


class Pi3Architecture(Architecture):
    """Pi3: the names of yyfz233/Pi3, in any size."""

    about = _ABOUT
    keys = (
        "encoder.pos_embed",
        "decoder.0.attn.qkv.weight",
        "decoder.1.attn.q_norm.weight",
        "point_decoder.projects.weight",
        "point_decoder.linear_out.weight",
    )
    outputs = _OUTPUTS
    config_type = Pi3Config
    components = MappingProxyType(
        {
            "encoder": "Encoder (DINOv2)",
            "decoder": "Decoder",
            _POINT: "Point decoder",
            _CONF: "Confidence decoder",
            _CAMERA: "Camera decoder",
        }
    )
    patch = PATCH
    special_tokens = REGISTERS
    optional = tuple(f"{name}_{part}." for name in ("conf", "camera") for part in ("decoder", "head"))
    head_prefixes = MappingProxyType({"camera": "camera_head.", "depth": "conf_head.", "points": "camera_head."})
    buffers = MappingProxyType({"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD})

    def build(self, config: Pi3Config, shape: InputShape, heads: Sequence[str]) -> Pi3:
        return Pi3(config, shape, heads)

    def adapted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The authors have the registers at the top; here they belong to the encoder, which puts them into a stream."""
        return {f"encoder.{name}" if name == "register_token" else name: tensor for name, tensor in tensors.items()}

    def default_config(self, tensors: Mapping[str, Tensor]) -> Pi3Config:
        """The authors' model; ``ValueError`` for Pi3X, whose names are nearly the same, and for other sizes."""
        if "metric_token" in tensors:
            raise ValueError("it is Pi3X, whose convolutional heads and metric scale are not supported; Pi3 is")
        known = Pi3Config()
        found = self.sizes(tensors)
        wanted = {
            "embed dim": known.embed_dim,
            "encoder blocks": known.dino_depth,
            "decoder blocks": known.depth,
            "blocks of a head": known.head_depth,
        }
        if found != wanted:
            raise ValueError(f"{_said(found)}; supported: {_said(wanted)}")
        return known

    def notes(self, origin: str) -> tuple[str, ...]:
        return ("the authors license the weights of Pi3 under CC BY-NC 4.0: no commercial use",)

    def sizes(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        found = {}
        position = tensors.get("encoder.pos_embed")
        if position is not None and position.ndim:
            found["embed dim"] = position.shape[-1]
        for label, pattern in _COUNTED.items():
            if indices := {match[1] for name in tensors if (match := pattern.match(name))}:
                found[label] = len(indices)
        return found


ARCHITECTURE = Pi3Architecture()


def _said(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {size}" for label, size in sizes.items())


def _block(path: str, stream: str, heads: int, *, scaled: bool = True) -> Unit:
    first, second = ("ls1", "ls2") if scaled else (None, None)
    return Unit(
        path,
        path,
        reads=(Read(stream, ("attn.qkv",), "norm1"), Read(stream, ("mlp.fc1",), "norm2")),
        writes=(Write(stream, "attn.proj", first), Write(stream, "mlp.fc2", second)),
        values=Values("attn.qkv", "attn.proj", heads),
    )


def _embed(encoder: Encoder, images: Tensor) -> tuple[Tensor]:
    return (encoder.enter(images),)


def _tokens(encoder: Encoder, x: Tensor) -> tuple[Tensor]:
    return (encoder.tokens(x),)


def _run_block(sequence: int, block: Block, x: Tensor, *rope: Tensor) -> tuple[Tensor]:
    """sequence: how many tokens see each other."""
    return (block(x, x.shape[0] // sequence, RopeTables(*rope) if rope else None),)


def _enter(decoder: HeadDecoder, local: Tensor, every: Tensor) -> tuple[Tensor]:
    return (decoder.enter(local, every),)


def _leave(decoder: HeadDecoder, x: Tensor) -> tuple[Tensor]:
    return (decoder.leave(x),)


def _local_points(frames: int, head: PixelHead, patches: Tensor) -> tuple[Tensor, Tensor]:
    maps = head(patches)
    return maps[:, :2], maps[:, 2].exp().view(-1, frames, *maps.shape[2:])


def _probability(frames: int, head: PixelHead, patches: Tensor) -> tuple[Tensor]:
    maps = head(patches)
    return (maps.sigmoid().view(-1, frames, *maps.shape[2:]),)


def _camera(head: CameraHead, patches: Tensor) -> tuple[Tensor, Tensor]:
    return head(patches)  # type: ignore[no-any-return]


def _cameras(geometry: Geometry, nine: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    return geometry.cameras(nine, position)


def _pose(geometry: Geometry, *values: Tensor) -> tuple[Tensor]:
    return (geometry.pose_encoding(*values),)


def _points(geometry: Geometry, *values: Tensor) -> tuple[Tensor]:
    return (geometry.points(*values),)
