"""Dense head with two decoders on one pyramid, depth and rays (Depth Anything 3, arXiv 2511.10647)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.exporter.models.dpt_head import FeatureFusion, Pyramid, UVEmbedding
from vggt_edge.exporter.models.shape import InputShape

HIDDEN = 32
RAY_CHANNELS = 6
RAY_CELLS = 8  # of rays along each side of a patch
# Ends the names of the ray decoder's modules; the depth decoder's end in nothing.
DEPTH, RAYS = "", "_aux"
# The ray decoder was trained with an output at each of four levels; only the last is used.
_LAST = "3"


class Permute(nn.Module):
    """The axes of a tensor in another order."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)


class Fusion(nn.Module):
    """Layers that fuse the maps of a pyramid; named as in the authors' checkpoints.

    decoders: ``DEPTH``, ``RAYS`` or both.
    """

    def __init__(self, features: int, channels: Sequence[int], decoders: Collection[str]) -> None:
        super().__init__()
        for level, width in enumerate(channels, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(width, features, 3, padding=1, bias=False))
            for decoder in decoders:
                fusion = FeatureFusion(features, residual=level < len(channels), adds_rectified=False)
                self.add_module(f"refinenet{level}{decoder}", fusion)

    def narrowed(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of four resolutions, finest first, with as many channels as the decoders have."""
        return [self.get_submodule(f"layer{level}_rn")(each) for level, each in enumerate(maps, start=1)]

    def fused(self, levels: Sequence[Tensor], decoder: str) -> Tensor:
        """Narrowed maps of four resolutions to one of twice the finest resolution."""
        sizes = [[2 * side for side in levels[0].shape[2:]], *(level.shape[2:] for level in levels[:3])]
        x = self._refine(4, decoder)(levels[3], None, sizes[3])
        for index in (2, 1, 0):
            x = self._refine(index + 1, decoder)(x, levels[index], sizes[index])
        return x  # type: ignore[no-any-return]

    def _refine(self, level: int, decoder: str) -> FeatureFusion:
        found = self.get_submodule(f"refinenet{level}{decoder}")
        assert isinstance(found, FeatureFusion)
        return found


def output_layers(features: int, channels: int) -> nn.Sequential:
    """The last two convolutions in front of an output."""
    return nn.Sequential(nn.Conv2d(features, HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, channels, 1))


class DualScratch(Fusion):
    """Layers between the pyramid and the two outputs."""

    def __init__(self, features: int, channels: Sequence[int], decoders: Collection[str]) -> None:
        super().__init__(features, channels, decoders)
        half = features // 2
        if DEPTH in decoders:
            self.output_conv1 = nn.Conv2d(features, half, 3, padding=1)
            self.output_conv2 = output_layers(half, 2)
        if RAYS in decoders:
            widths = (features, half, features, half, features, half)
            neck = (nn.Conv2d(few, many, 3, padding=1) for few, many in pairwise(widths))
            self.output_conv1_aux = nn.ModuleDict({_LAST: nn.Sequential(*neck)})
            self.output_conv2_aux = nn.ModuleDict(
                {
                    _LAST: nn.Sequential(
                        nn.Conv2d(half, HIDDEN, 3, padding=1),
                        Permute(0, 2, 3, 1),
                        nn.LayerNorm(HIDDEN),
                        Permute(0, 3, 1, 2),
                        nn.ReLU(),
                        nn.Conv2d(HIDDEN, RAY_CHANNELS + 1, 1),
                    )
                }
            )


class DualDPT(Pyramid):
    """Four levels of patch tokens (B * S, patches, dim) to raw maps, confidence last.

    Depth has the size of the image, rays have ``RAY_CELLS`` cells along each side of a patch.
    """

    def __init__(
        self, dim: int, features: int, channels: Sequence[int], shape: InputShape, decoders: Collection[str]
    ) -> None:
        super().__init__(dim, channels, shape)
        self.decoders = tuple(decoders)
        self.scratch = DualScratch(features, channels, decoders)
        cells = [RAY_CELLS * side for side in shape.grid]
        self.uv_out = UVEmbedding(features // 2, shape.height, shape.width, self.aspect)
        self.uv_rays = UVEmbedding(features // 2, cells[0], cells[1], self.aspect)

    def forward(self, entries: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Token maps of four depths to a map of each decoder: (B, S, 2, H, W), (B, S, 7, rows, columns)."""
        levels = self.scratch.narrowed([self.level(index, entry) for index, entry in enumerate(entries)])
        maps = (self._decoded(decoder, levels) for decoder in self.decoders)
        return tuple(each.view(-1, self.shape.frames, *each.shape[1:]) for each in maps)

    def _decoded(self, decoder: str, levels: Sequence[Tensor]) -> Tensor:
        scratch, x = self.scratch, self.scratch.fused(levels, decoder)
        if decoder == RAYS:
            x = self.uv_rays(scratch.output_conv1_aux[_LAST](x))
            return scratch.output_conv2_aux[_LAST](x)  # type: ignore[no-any-return]
        full = [self.shape.height, self.shape.width]
        x = functional.interpolate(scratch.output_conv1(x), size=full, mode="bilinear", align_corners=True)
        return scratch.output_conv2(self.uv_out(x))  # type: ignore[no-any-return]


def activate_rays(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Raw (B, S, 7, rows, columns) to rays (B, S, rows, columns, 6) and confidence (B, S, rows, columns)."""
    return maps[:, :, :RAY_CHANNELS].permute(0, 1, 3, 4, 2), 1 + maps[:, :, RAY_CHANNELS].exp()
