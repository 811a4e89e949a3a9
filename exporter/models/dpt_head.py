"""Dense prediction head (DPT, arXiv 2103.13413, as VGGT section 3.3 uses it) for depth and for points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.metrics.output import Output
from vggt_edge.calibration.metrics.quantities import Confidence, Depth
from vggt_edge.exporter.models.config import InputShape, VGGTConfig

UV_WEIGHT = 0.1
UV_OMEGA = 100.0


class UVEmbedding(nn.Module):
    """Adds a fixed sin/cos embedding of the image plane, weight 0.1, to maps (N, channels, height, width).

    The first half of the channels varies along the width only and the second along the height only, so it is kept as
    two thin tables that broadcast: a full one is 140 MB for a 518 x 518 map of 128 channels.
    """

    across: Tensor
    down: Tensor

    def __init__(self, channels: int, height: int, width: int, aspect: float) -> None:
        super().__init__()
        diagonal = (aspect**2 + 1) ** 0.5
        across = _sincos(channels // 2, width, aspect / diagonal)
        down = _sincos(channels // 2, height, 1 / diagonal)
        zeros = across.new_zeros(channels // 2, 1)
        self.register_buffer("across", torch.cat([across, zeros.expand(-1, width)])[None, :, None, :], persistent=False)
        self.register_buffer("down", torch.cat([zeros.expand(-1, height), down])[None, :, :, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) with the position of each pixel added."""
        return x + self.across + self.down


def _sincos(channels: int, steps: int, span: float) -> Tensor:
    """(channels, steps): sines then cosines of positions at pixel centres in (-span, span)."""
    # On the CPU for the reason that tables_at gives.
    position = torch.linspace(-1, 1, steps, dtype=torch.float64, device="cpu") * span * (steps - 1) / steps
    frequency = UV_OMEGA ** -(torch.arange(channels // 2, dtype=torch.float64, device="cpu") / (channels / 2))
    angles = frequency[:, None] * position
    return (UV_WEIGHT * torch.cat([angles.sin(), angles.cos()])).float()


class ResidualConvUnit(nn.Module):
    """Two convolutions around a skip connection.

    adds_rectified: whether the skip adds relu(x) instead of x. VGGT's first ReLU works in place, so its trained weights
    rely on relu(x).
    """

    def __init__(self, features: int, *, adds_rectified: bool = True) -> None:
        super().__init__()
        self.adds_rectified = adds_rectified
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) to the same shape."""
        rectified = functional.relu(x)
        refined = self.conv2(functional.relu(self.conv1(rectified)))
        return refined + (rectified if self.adds_rectified else x)  # type: ignore[no-any-return]


class FeatureFusion(nn.Module):
    """Adds a finer level to the coarser path, refines, upsamples to ``size``."""

    def __init__(self, features: int, *, residual: bool, adds_rectified: bool = True) -> None:
        super().__init__()
        if residual:
            self.resConfUnit1 = ResidualConvUnit(features, adds_rectified=adds_rectified)
        self.resConfUnit2 = ResidualConvUnit(features, adds_rectified=adds_rectified)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, finer: Tensor | None, size: Sequence[int]) -> Tensor:
        """A coarse map, joined with a finer one where there is one, resized to ``size``."""
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        x = self.resConfUnit2(x)
        if list(x.shape[2:]) != list(size):
            x = functional.interpolate(x, size=list(size), mode="bilinear", align_corners=True)
        return self.out_conv(x)  # type: ignore[no-any-return]


class Scratch(nn.Module):
    """The refinement part of the head; named as in the authors' checkpoints."""

    def __init__(self, config: VGGTConfig, outputs: int) -> None:
        super().__init__()
        features = config.dpt_features
        first, second, third, fourth = config.dpt_channels
        self.layer1_rn = nn.Conv2d(first, features, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(second, features, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(third, features, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(fourth, features, 3, padding=1, bias=False)
        self.refinenet1 = FeatureFusion(features, residual=True)
        self.refinenet2 = FeatureFusion(features, residual=True)
        self.refinenet3 = FeatureFusion(features, residual=True)
        self.refinenet4 = FeatureFusion(features, residual=False)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, config.dpt_hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.dpt_hidden, outputs, 1),
        )


class Pyramid(nn.Module):
    """First part of every DPT head: patch tokens of four depths (N, patches, dim) to maps of four resolutions.

    positions: whether a map is told where on the image plane its pixels lie.
    """

    def __init__(self, dim: int, channels: Sequence[int], shape: InputShape, *, positions: bool = True) -> None:
        super().__init__()
        self.shape = shape
        self.aspect = shape.width / shape.height
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.uv_levels = nn.ModuleList(
            UVEmbedding(width, *shape.grid, self.aspect) if positions else nn.Identity() for width in channels
        )

    def level(self, index: int, tokens: Tensor) -> Tensor:
        """Map ``index`` of the four, (N, channels, rows, columns), from the tokens of its depth."""
        x = self.norm(tokens).transpose(1, 2).unflatten(2, self.shape.grid)
        return self.resize_layers[index](self.uv_levels[index](self.projects[index](x)))  # type: ignore[no-any-return]


class DPTHead(Pyramid):
    """Four levels of patch tokens (B * S, patches, 2C) to raw maps (B, S, outputs, H, W), confidence last."""

    def __init__(self, config: VGGTConfig, shape: InputShape, outputs: int) -> None:
        super().__init__(2 * config.embed_dim, config.dpt_channels, shape)
        self.scratch = Scratch(config, outputs)
        self.uv_out = UVEmbedding(config.dpt_features // 2, shape.height, shape.width, self.aspect)

    def forward(self, entries: Sequence[Tensor]) -> Tensor:
        """Token maps of four depths to one map per output channel, (S, C, H, W)."""
        levels = [self.level(index, entry) for index, entry in enumerate(entries)]
        scratch = self.scratch
        one, two = scratch.layer1_rn(levels[0]), scratch.layer2_rn(levels[1])
        three, four = scratch.layer3_rn(levels[2]), scratch.layer4_rn(levels[3])
        x = scratch.refinenet4(four, None, three.shape[2:])
        x = scratch.refinenet3(x, three, two.shape[2:])
        x = scratch.refinenet2(x, two, one.shape[2:])
        x = scratch.refinenet1(x, one, [2 * side for side in one.shape[2:]])
        full = [self.shape.height, self.shape.width]
        x = functional.interpolate(scratch.output_conv1(x), size=full, mode="bilinear", align_corners=True)
        maps = scratch.output_conv2(self.uv_out(x))
        return maps.view(-1, self.shape.frames, *maps.shape[1:])  # type: ignore[no-any-return]


DEPTH_OUTPUTS = (
    Output(
        "depth",
        "depth",
        Depth(),
        title="depth",
        description="depth of every pixel, in units of the scene",
        confidence="depth_conf",
    ),
    Output(
        "depth_conf", "depth", Confidence(), title="depth confidence", description="confidence of the depth, from 1"
    ),
)
"""The tensors that ``activate_depth`` makes."""


def activate_depth(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Raw (B, S, 2, H, W) to depth and confidence, each (B, S, H, W)."""
    return maps[:, :, 0].exp(), 1 + maps[:, :, 1].exp()


def activate_points(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Raw (B, S, 4, H, W) to points (B, S, H, W, 3), sign(y) * (exp(|y|) - 1), and confidence (B, S, H, W)."""
    raw = maps[:, :, :3].permute(0, 1, 3, 4, 2)
    # exp(.) - 1 instead of expm1: no ONNX or Core ML operator has the latter.
    return raw.sign() * (raw.abs().exp() - 1), 1 + maps[:, :, 3].exp()
