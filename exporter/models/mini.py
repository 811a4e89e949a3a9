"""vggt-mini: VGGT's module tree at 1/160 of its size, trained by us on rendered rooms; the embedded default model."""

from __future__ import annotations

from vggt_edge.exporter.models.config import VGGTConfig

CONFIG = VGGTConfig(
    name="vggt-mini",
    embed_dim=128,
    dino_depth=4,
    depth=6,
    heads=4,
    position_grid=6,
    taps=(1, 2, 3, 5),
    camera_trunk_depth=4,
    camera_heads=4,
    camera_iterations=4,
    dpt_features=32,
    dpt_channels=(32, 64, 96, 96),
    dpt_hidden=16,
)
