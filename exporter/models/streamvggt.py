"""StreamVGGT (arXiv 2507.11539): VGGT whose attention over frames is causal; loads lch01/StreamVGGT's state dict.

Names and shapes are VGGT's, all 1403 of them, so the weights alone do not tell the two apart. A frame sees itself and
those before it, in the global blocks and in the camera trunk. All frames of an input are computed at once, which gives
what the authors' cache of keys and values gives frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence

from vggt_edge.exporter.models.config import OUTPUTS, VGGTConfig
from vggt_edge.exporter.models.layers import Block
from vggt_edge.exporter.models.shape import InputShape
from vggt_edge.exporter.models.vggt import VGGT, VGGTArchitecture

_ABOUT = "StreamVGGT: VGGT with causal attention over frames (arXiv 2507.11539)"


class StreamVGGT(VGGT):
    """VGGT with causal attention: no output of a frame depends on a later frame."""

    about = _ABOUT

    def __init__(self, config: VGGTConfig, shape: InputShape, heads: Sequence[str] = OUTPUTS) -> None:
        super().__init__(config, shape, heads)
        trunk = self.camera_head.trunk if "camera" in self.heads else ()
        for block in (*self.aggregator.global_blocks, *trunk):
            assert isinstance(block, Block)
            block.attn.causal_frames = shape.frames


class StreamVGGTArchitecture(VGGTArchitecture):
    """StreamVGGT, in any size of VGGT."""

    about = _ABOUT
    lookalike_of = "vggt"

    def build(self, config: VGGTConfig, shape: InputShape, heads: Sequence[str]) -> StreamVGGT:
        return StreamVGGT(config, shape, heads)

    def notes(self, origin: str) -> tuple[str, ...]:
        return (
            f"{origin} is taken for StreamVGGT by its name: attention over frames is causal; else say --architecture",
        )


ARCHITECTURE = StreamVGGTArchitecture()
