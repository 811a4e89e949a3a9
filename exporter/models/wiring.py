"""VGGT's residual streams: DINO's, that of the alternating blocks, and the camera trunk's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType

from vggt_edge.calibration.transforms.wiring import Read, Rectified, Stream, Tokens, Turn, Unit, Values, Wiring, Write
from vggt_edge.exporter.models.config import VGGTConfig

DINO, ALTERNATING, CAMERA = "dino", "alternating", "camera"
_RESIDUALS = tuple(f"scratch.refinenet{level}.resConfUnit{unit}" for level in (1, 2, 3, 4) for unit in (1, 2))
_RECTIFIED = (
    *(Rectified(f"{unit}.conv1", f"{unit}.conv2") for unit in _RESIDUALS if unit != "scratch.refinenet4.resConfUnit1"),
    Rectified("scratch.output_conv2.0", "scratch.output_conv2.2"),
)


def wiring_of(config: VGGTConfig, outputs: Sequence[str]) -> Wiring:
    """Of a VGGT with these outputs. The camera trunk's stream does not rotate: its adaptive norm goes by channel."""
    width = config.embed_dim
    streams = {DINO: Stream(width, True), ALTERNATING: Stream(width, True), CAMERA: Stream(2 * width, False)}
    return Wiring(MappingProxyType(streams), tuple(_units(config, outputs)))


def _units(config: VGGTConfig, outputs: Sequence[str]) -> Iterator[Unit]:
    yield _aggregator(config)
    for index in range(config.dino_depth):
        yield _block("aggregator.", f"patch_embed.blocks.{index}", DINO, config.heads)
    for index in range(config.depth):
        for kind in ("frame", "global"):
            yield _block("aggregator.", f"{kind}_blocks.{index}", ALTERNATING, config.heads)
    if "camera" in outputs:
        yield _camera_head(config)
        for index in range(config.camera_trunk_depth):
            yield _block("", f"camera_head.trunk.{index}", CAMERA, config.camera_heads, stage="camera_head")
    for output, head in (("depth", "depth_head"), ("points", "point_head")):
        if output in outputs:
            projects = tuple(f"projects.{level}" for level in range(len(config.dpt_channels)))
            yield Unit(head, head, reads=(Read(ALTERNATING, projects, "norm"),), rectified=_RECTIFIED)


def _aggregator(config: VGGTConfig) -> Unit:
    """What stands before, between and after its blocks. DINO's mask token is in no graph."""
    dino = ("cls_token", "pos_embed", "register_tokens")
    return Unit(
        "aggregator",
        "embed",
        reads=(Read(DINO, ("turn",), "patch_embed.norm"),),
        writes=(Write(DINO, "patch_embed.patch_embed.proj"), Write(ALTERNATING, "turn")),
        tokens=(
            Tokens(DINO, tuple(f"patch_embed.{name}" for name in dino)),
            Tokens(ALTERNATING, ("camera_token", "register_token")),
        ),
        turns=(Turn("turn", config.embed_dim, bias=True),),
    )


def _camera_head(config: VGGTConfig) -> Unit:
    """``token_norm`` keeps its affine: what it puts out is the trunk's stream, which does not only linears read."""
    return Unit(
        "camera_head",
        "camera_head",
        reads=(Read(ALTERNATING, ("turn",)), Read(CAMERA, ("pose_branch.fc1",), "trunk_norm")),
        turns=(Turn("turn", config.embed_dim, bias=False),),
    )


def _block(before: str, name: str, stream: str, heads: int, stage: str | None = None) -> Unit:
    return Unit(
        before + name,
        stage or name,
        reads=(Read(stream, ("attn.qkv",), "norm1"), Read(stream, ("mlp.fc1",), "norm2")),
        writes=(Write(stream, "attn.proj", "ls1"), Write(stream, "mlp.fc2", "ls2")),
        values=Values("attn.qkv", "attn.proj", heads),
    )
