"""The fixed input that an export is made for."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_edge.devices.errors import UsageError


@dataclass(frozen=True)
class InputShape:
    """Images of shape (1, frames, 3, height, width), cut into square patches.

    - patch: side of a patch in pixels; the default is VGGT's.
    - special_tokens: tokens of a frame that are no patches, in front of them; the default is VGGT's.
    """

    frames: int
    height: int
    width: int
    patch: int = 14
    special_tokens: int = 5

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if side < self.patch or side % self.patch:
                raise UsageError(
                    f"input of {self.height}x{self.width} pixels",
                    expected=f"height and width that are multiples of {self.patch}, the patch size",
                    remedy=f"give --resolution a multiple of {self.patch}",
                )
        if self.frames < 1:
            raise UsageError(f"{self.frames} frames", expected="at least one frame", remedy="raise --frames")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, columns)."""
        return self.height // self.patch, self.width // self.patch

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Tokens of one frame, the special ones included."""
        return self.special_tokens + self.patches
