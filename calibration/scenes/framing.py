"""How a picture of any size becomes the model's input: three modes, and where each pixel goes.

Pixel coordinates are continuous: the image's top-left corner is (0, 0), its centre (width / 2, height / 2), so that
a resize is a pure scaling of the intrinsics (the convention of COLMAP and of VGGT's field-of-view encoding).
Sizes are (height, width). docs/preprocessing.md explains the modes with pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from vggt_edge.devices.errors import InputError

if TYPE_CHECKING:  # the settings know the modes, and `--help` must not cost the import of numpy
    import numpy as np
    import numpy.typing as npt

Size: TypeAlias = tuple[int, int]
#: (left, top, right, bottom) in whole pixels; right and bottom are the first ones outside.
Rectangle: TypeAlias = tuple[int, int, int, int]
Mode: TypeAlias = Literal["fit", "crop", "pad"]
#: Where the centre of the first pixel lies: at 0.5, or at 0.
PixelCenters: TypeAlias = Literal["half", "integer"]

PATCH = 14  # where the caller does not say which
MODES: tuple[Mode, ...] = get_args(Mode)
PIXEL_CENTERS: tuple[PixelCenters, ...] = get_args(PixelCenters)
CENTER_OF: dict[PixelCenters, float] = {"half": 0.5, "integer": 0.0}
#: A picture is not scaled to more pixels a side, however little of it is shown then.
MOST_SCALED = 32_768


@dataclass(frozen=True)
class Preprocess:
    """The rule of a bundle, as ``kit.json`` and ``manifest.json`` hold it.

    - mode: ``fit`` scales until the picture covers the input and crops the rest evenly. ``crop`` scales to the input's
      width, then cuts the height evenly or fills it up with white. ``pad`` scales until the whole picture is inside,
      and fills the rest with white. ``crop`` and ``pad`` are those of VGGT's ``load_and_preprocess_images``.
    - patch: ``crop`` and ``pad`` round the scaled side to a multiple of so many pixels.
    """

    mode: Mode = "fit"
    patch: int = PATCH

    def framing(self, source: Size, target: Size) -> Framing:
        """Where the pixels of a picture of size ``source`` land in an input of size ``target``.

        ``InputError`` for a strip so tall that ``crop`` would scale it to more than 32 768 pixels.
        """
        if self.mode == "fit":
            return _fit(source, target)
        height, width = (_crop if self.mode == "crop" else _pad)(source, target, self.patch)
        if height > MOST_SCALED:
            raise InputError(
                f"a picture of {source[1]} x {source[0]} pixels would be scaled to {width} x {height}",
                where=f"--preprocess {self.mode}",
                expected=f"at most {MOST_SCALED} pixels a side",
                remedy="cut the picture, or use --preprocess fit or pad",
            )
        return Framing(
            source,
            target,
            resampled=(height, width),
            box=(0.0, 0.0, float(source[1]), float(source[0])),
            scale=(width / source[1], height / source[0]),
            offset=(_offset(width, target[1]), _offset(height, target[0])),
        )


FIT = Preprocess()


@dataclass(frozen=True)
class Framing:
    """Where the pixels of a picture land in the model's input.

    - source, target: sizes of the picture and of the input.
    - box: (left, top, right, bottom) of the part of the picture that is resampled, in its pixels.
    - resampled: size that the part becomes.
    - scale: (x, y), pixels of the input for each pixel of the picture. Equal for ``fit``; else rounding the scaled side
      to whole patches stretches one of them a little.
    - offset: (x, y), place of the resampled part's corner in the input; below 0 where the part is cut.
    """

    source: Size
    target: Size
    resampled: Size
    box: tuple[float, float, float, float]
    scale: tuple[float, float]
    offset: tuple[int, int]

    @property
    def origin(self) -> tuple[float, float]:
        """(x, y): place of the picture's top-left corner in the input; below 0 where the picture is cropped."""
        return self.offset[0] - self.box[0] * self.scale[0], self.offset[1] - self.box[1] * self.scale[1]

    @property
    def content(self) -> Rectangle:
        """The part of the input that shows the picture; all around it is white."""
        (left, top), (height, width) = self.offset, self.resampled
        return max(left, 0), max(top, 0), min(left + width, self.target[1]), min(top + height, self.target[0])

    @property
    def shown_share(self) -> float:
        """The share of the picture that the input shows."""
        left, top, right, bottom = self.content
        kept = (right - left) * (bottom - top) / (self.resampled[0] * self.resampled[1])
        return kept * (self.box[2] - self.box[0]) * (self.box[3] - self.box[1]) / (self.source[0] * self.source[1])

    @property
    def picture_from_input(self) -> npt.NDArray[np.float64]:
        """(3, 3): from pixel coordinates of the input to those of the picture.

        Example: ``x, y, _ = framing.picture_from_input @ (u, v, 1)``.
        """
        import numpy as np

        (scale_x, scale_y), (x, y) = self.scale, self.origin
        return np.array([[1 / scale_x, 0, -x / scale_x], [0, 1 / scale_y, -y / scale_y], [0, 0, 1]])

    def intrinsics(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Carry intrinsics (..., 3, 3) in pixels of the picture to those of the input."""
        import numpy as np

        carried = np.array(matrix, np.float64)
        for row in (0, 1):
            carried[..., row, :] *= self.scale[row]
            carried[..., row, 2] += self.origin[row]
        return carried


def content_mask(content: Rectangle, size: Size) -> npt.NDArray[np.bool_]:
    """(H, W): True for the pixels of the input that show the picture."""
    import numpy as np

    left, top, right, bottom = content
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def _fit(source: Size, target: Size) -> Framing:
    (source_height, source_width), (height, width) = source, target
    scale = max(width / source_width, height / source_height)
    shown_width = min(width / scale, float(source_width))
    shown_height = min(height / scale, float(source_height))
    left, top = (source_width - shown_width) / 2, (source_height - shown_height) / 2
    box = (left, top, left + shown_width, top + shown_height)
    return Framing(source, target, target, box, (scale, scale), (0, 0))


def _crop(source: Size, target: Size, patch: int) -> Size:
    """The input's width, and the height in proportion."""
    return proportional(source[0], source[1], target[1], patch), target[1]


def _pad(source: Size, target: Size, patch: int) -> Size:
    """The side that fills the input first decides."""
    (source_height, source_width), (height, width) = source, target
    if source_width * height >= source_height * width:
        return min(proportional(source_height, source_width, width, patch), height), width
    return height, min(proportional(source_width, source_height, height, patch), width)


def proportional(side: int, other: int, scaled_other: int, patch: int) -> int:
    """``side`` scaled as ``other`` is, to the nearest multiple of ``patch``: at least one, halves to the even one."""
    return max(1, round(side * (scaled_other / other) / patch)) * patch


def _offset(resampled: int, target: int) -> int:
    """Cut or filled up evenly; of an odd number of pixels the larger half lies behind, as VGGT has it."""
    return -((resampled - target) // 2) if resampled > target else (target - resampled) // 2
