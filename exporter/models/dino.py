"""What enters the first block of a plain DINOv2 (arXiv 2304.07193), a class token and patches; no registers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vggt_edge.exporter.models.aggregator import IMAGENET_MEAN, IMAGENET_STD, PatchProjection, resized_positions
from vggt_edge.exporter.models.shape import InputShape


class PlainDino(nn.Module):
    """The embedding, with the authors' names; the blocks belong to the model that extends it.

    side: of the square grid that ``pos_embed`` was trained on.
    """

    mean: Tensor
    std: Tensor
    fixed_position: Tensor | None

    def __init__(self, dim: int, side: int, shape: InputShape) -> None:
        super().__init__()
        self.shape, self.native_grid = shape, side
        self.patch_embed = PatchProjection(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, dim))
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(1, 3, 1, 1), persistent=False)
        self.register_buffer("fixed_position", None, persistent=False)

    def fix_constants(self) -> None:
        """Interpolate the position table to the export grid once, so that the graph holds a constant."""
        self.fixed_position = self._position_table().detach()

    def _position_table(self) -> Tensor:
        side, grid = self.native_grid, self.shape.grid
        if grid == (side, side):
            return self.pos_embed
        # As DINOv2 was trained: the scale is that of a grid a tenth of a patch larger.
        scale = tuple((length + 0.1) / side for length in grid)
        return resized_positions(self.pos_embed, side, scale_factor=scale)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, S, 3, H, W) to tokens (B * S * tokens, C): class token, patches."""
        position = self._position_table() if self.fixed_position is None else self.fixed_position
        patches = self.patch_embed((images.flatten(0, 1) - self.mean) / self.std) + position[:, 1:]
        first = (self.cls_token + position[:, :1]).expand(len(patches), -1, -1)
        return torch.cat([first, patches], dim=1).flatten(0, 1)
