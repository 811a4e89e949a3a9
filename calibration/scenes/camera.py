"""Frames as a camera hands them over: their format and size, and what the model gets of them.

RGB is one array (S, H, W, 3). NV12 is two: luma (S, H, W), and chroma (S, H / 2, W / 2, 2) with Cb before Cr. All are
uint8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.scenes.framing import FIT, Preprocess
from vggt_edge.calibration.scenes.resize import bicubic, resize_frame, shown_share
from vggt_edge.devices.errors import UsageError

Bytes = npt.NDArray[np.uint8]
SIDES = (16, 8192)
#: A crop that throws away more of the frame is taken for a mistake.
LEAST_SHOWN = 0.5
_TEXT = re.compile(r"([a-z0-9-]+):(\d{1,6})x(\d{1,6})")


@dataclass(frozen=True)
class Yuv:
    """The rule by which luma and chroma make a colour.

    matrix: ITU-R BT.601 or BT.709. full: luma from 0 to 255, else 16 to 235.
    """

    matrix: Literal["ITU601", "ITU709"]
    full: bool

    @property
    def luma(self) -> tuple[float, float]:
        """(offset, gain): a grey of level (luma - offset) * gain."""
        return (0.0, 1.0) if self.full else (16.0, 255 / 219)

    @property
    def chroma(self) -> npt.NDArray[np.float64]:
        """(3, 2): what (Cb - 128, Cr - 128) add to red, green and blue."""
        red, blue = {"ITU601": (0.299, 0.114), "ITU709": (0.2126, 0.0722)}[self.matrix]
        green = 1 - red - blue
        of_blue, of_red = 2 * (1 - blue), 2 * (1 - red)
        mixed = np.array([[0, of_red], [-of_blue * blue / green, -of_red * red / green], [of_blue, 0]])
        return mixed if self.full else mixed * 255 / 224


#: None: the colours themselves. A camera of a Jetson gives NV12 in BT.601 and limited range unless it is told another.
FORMATS: Mapping[str, Yuv | None] = MappingProxyType(
    {
        "rgb": None,
        "nv12": Yuv("ITU601", full=False),
        "nv12-full": Yuv("ITU601", full=True),
        "nv12-709": Yuv("ITU709", full=False),
        "nv12-709-full": Yuv("ITU709", full=True),
    }
)


@dataclass(frozen=True)
class CameraFrames:
    """Format, one of ``FORMATS``, and size in pixels of a camera's frames."""

    format: str
    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> CameraFrames:
        """Read ``rgb:1920x1080``; ``UsageError`` for another form, an unknown format, and a size that cannot be."""
        found = _TEXT.fullmatch(text.strip().lower())
        expected = f"FORMAT:WIDTHxHEIGHT such as rgb:1920x1080; formats: {', '.join(FORMATS)}"
        if found is None or found[1] not in FORMATS:
            raise UsageError(f"{text!r} does not describe the frames of a camera", expected=expected)
        frames = cls(found[1], int(found[2]), int(found[3]))
        if not all(SIDES[0] <= side <= SIDES[1] for side in frames.size):
            raise UsageError(f"frames of {found[2]} x {found[3]} pixels", expected=f"{SIDES[0]} to {SIDES[1]} a side")
        if frames.yuv is not None and (frames.width % 2 or frames.height % 2):
            raise UsageError(f"NV12 frames of {found[2]} x {found[3]} pixels", expected="an even width and height")
        return frames

    @property
    def text(self) -> str:
        """The text that ``parse`` reads."""
        return f"{self.format}:{self.width}x{self.height}"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def yuv(self) -> Yuv | None:
        """The colour rule of NV12; None for RGB."""
        return FORMATS[self.format]

    def inputs(self, frames: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays that hold so many frames, by name."""
        if self.yuv is None:
            return {"frames": (frames, self.height, self.width, 3)}
        return {"luma": (frames, *self.size), "chroma": (frames, self.height // 2, self.width // 2, 2)}

    def check_fits(self, size: tuple[int, int], rule: Preprocess = FIT) -> None:
        """``UsageError`` where the model's input of ``size`` (height, width) shows less than half of a frame."""
        share = shown_share(self.size, size, rule)
        if share < LEAST_SHOWN:
            raise UsageError(
                f"a model input of {size[0]} x {size[1]} pixels shows {share:.0%} of a frame of {self.text}",
                where="--fuse-io",
                expected=f"an aspect ratio that keeps at least {LEAST_SHOWN:.0%} of the frame",
                remedy="choose a --resolution of about the camera's aspect ratio, such as 294x518 for 1920x1080",
            )

    def of_rgb(self, pictures: Bytes) -> dict[str, Bytes]:
        """The arrays of a camera that sees ``pictures`` (S, H, W, 3), by name."""
        if self.yuv is None:
            return {"frames": np.ascontiguousarray(pictures)}
        planes = [_nv12_of(picture, self.yuv) for picture in pictures]
        return {name: np.stack([plane[index] for plane in planes]) for index, name in enumerate(("luma", "chroma"))}

    def prepared(
        self, arrays: Mapping[str, Bytes], size: tuple[int, int], rule: Preprocess = FIT
    ) -> npt.NDArray[np.float32]:
        """The input of the model, (S, 3, height, width) in [0, 1], by the rule of docs/preprocessing.md.

        NV12 becomes RGB of the camera's size as a video's frames do, by FFmpeg.
        """
        if self.yuv is None:
            pictures = list(arrays["frames"])
        else:
            planes = zip(arrays["luma"], arrays["chroma"], strict=True)
            pictures = [_rgb_of(luma, chroma, self.yuv) for luma, chroma in planes]
        return np.stack([resize_frame(picture, *size, rule) for picture in pictures])


def chroma_upsampling(length: int) -> npt.NDArray[np.float64]:
    """(length, length / 2): weights of a line of chroma at each pixel of luma, bicubic.

    A sample of chroma lies in the middle of its pixels, which is how FFmpeg takes a frame that says nothing.
    """
    half = length // 2
    positions = (np.arange(length) - 0.5) / 2
    weights = np.zeros((length, half))
    for offset in range(-1, 3):
        tap = np.floor(positions).astype(np.int64) + offset
        np.add.at(weights, (np.arange(length), np.clip(tap, 0, half - 1)), bicubic(positions - tap))
    return weights


def _rgb_of(luma: Bytes, chroma: Bytes, yuv: Yuv) -> Bytes:
    from av.video.frame import VideoFrame

    from vggt_edge.calibration.scenes.video import CONVERSION

    stacked = np.concatenate([luma, chroma.reshape(len(chroma), -1)])
    frame = VideoFrame.from_ndarray(stacked, format="nv12")
    return frame.to_ndarray(
        format="rgb24",
        interpolation=CONVERSION,
        src_colorspace=yuv.matrix,
        src_color_range="JPEG" if yuv.full else "MPEG",
        dst_color_range="JPEG",
    ).astype(np.uint8, copy=False)


def _nv12_of(picture: Bytes, yuv: Yuv) -> tuple[Bytes, Bytes]:
    from av.video.frame import VideoFrame

    from vggt_edge.calibration.scenes.video import CONVERSION

    frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    stacked = frame.to_ndarray(
        format="nv12",
        interpolation=CONVERSION,
        dst_colorspace=yuv.matrix,
        src_color_range="JPEG",
        dst_color_range="JPEG" if yuv.full else "MPEG",
    ).astype(np.uint8, copy=False)
    height, width, _ = picture.shape
    return stacked[:height], stacked[height:].reshape(height // 2, width // 2, 2)
