"""A video file, decoded with PyAV (FFmpeg). A frame is what FFmpeg shows: upright, with square pixels, in RGB."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from vggt_edge.calibration.scenes.containers import first_broken_byte
from vggt_edge.calibration.scenes.names import shown
from vggt_edge.calibration.scenes.source import MAX_PIXELS, MAX_SIDE, Frame
from vggt_edge.devices.errors import InputError

VIDEO_SUFFIXES = (".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
# A playlist in a video's clothes would have FFmpeg open other files and addresses: containers only.
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska,avi"}

# Bicubic for the half-size colour planes, with exact rounding: without it colours are off by up to three levels.
CONVERSION = 0x4 | 0x2000 | 0x40000
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics (ITU-T H.273)
_VP8_SHOWN = 0x10
_STRAIGHT_TOLERANCE = 0.02


@dataclass(frozen=True)
class VideoSource:
    """The frames of a video's first video track, numbered from 0 as a player shows them."""

    name: str
    path: Path
    label: str
    count: int
    notes: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"{self.label}#frame={index}" for index in range(self.count))

    def read(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Decodes from the start: seeking by time lands on other frames in streams of uneven rate."""
        wanted = iter(indices)
        index = next(wanted, None)
        if index is None:
            return
        with _opened(self.path) as (container, stream):
            for number, frame in enumerate(container.decode(stream)):
                if number == index:
                    yield self._frame(frame, number, stream.sample_aspect_ratio)
                    index = next(wanted, None)
                    if index is None:
                        return
        raise _broken(self.path, f"frame {index} of {self.count} cannot be decoded")

    def _frame(self, frame: VideoFrame, number: int, aspect: Fraction | None) -> Frame:
        if frame.is_corrupt:
            raise _broken(self.path, f"frame {number} is corrupt")
        width = round(frame.width * aspect) if aspect else frame.width
        _check_size(self.path, frame.width, frame.height)  # a stream may change its size on the way
        _check_size(self.path, max(1, width), frame.height)
        pixels = frame.to_ndarray(format="rgb24", interpolation=CONVERSION).astype(np.uint8, copy=False)
        if width != frame.width:
            square = Image.fromarray(pixels).resize((max(1, width), frame.height), Image.Resampling.BICUBIC)
            pixels = np.asarray(square)
        return Frame(np.ascontiguousarray(self._turned(pixels, frame), dtype=np.uint8))

    def _turned(self, pixels: npt.NDArray[np.uint8], frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """By the display matrix that phones write: quarter turns and mirrorings."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if not isinstance(matrix, SideData):
            return pixels
        x_of_x, y_of_x, _, x_of_y, y_of_y = struct.unpack("=5i", bytes(matrix)[:20])
        straight, crossed = max(abs(x_of_x), abs(y_of_y)), max(abs(y_of_x), abs(x_of_y))
        if min(straight, crossed) > _STRAIGHT_TOLERANCE * max(straight, crossed):
            raise InputError(
                "the video is turned by an angle that is no quarter turn",
                where=str(self.path),
                expected="a display matrix of 0, 90, 180 or 270 degrees",
                remedy="convert it with ffmpeg, which turns the frames themselves",
            )
        if crossed > straight:
            pixels, x_of_x, y_of_y = pixels.transpose(1, 0, 2), x_of_y, y_of_x
        return pixels[:: -1 if y_of_y < 0 else 1, :: -1 if x_of_x < 0 else 1]


def is_video(path: Path) -> bool:
    """Whether the file's name says that it is a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def video_source(path: Path, root: Path) -> VideoSource:
    """Open a video and count its frames. ``InputError`` names a file that is empty, cut short, corrupt or no video."""
    if path.stat().st_size == 0:
        raise InputError("the video is empty (0 bytes)", where=str(path), expected="a video file")
    broken_at = first_broken_byte(path)
    if broken_at is not None:
        raise _broken(path, f"the video is cut short or corrupt at byte {broken_at}")
    with _opened(path) as (container, stream):
        _check_size(path, stream.codec_context.width, stream.codec_context.height)
        promised = stream.frames
        packets = [_is_hidden(packet) for packet in container.demux(stream) if packet.size]
        transfer = stream.codec_context.color_trc
    if len(packets) < promised:
        raise _broken(path, f"the video is cut short: {len(packets)} of {promised} frames are there")
    count = packets.count(False)
    if not count:
        raise _broken(path, "the video holds no frames")
    label = shown(path.name if path == root else path.relative_to(root).as_posix())
    notes = (f"{label}: HDR ({_HDR[transfer]}), read without tone mapping",) if transfer in _HDR else ()
    return VideoSource(shown(path.stem), path, label, count, notes)


def _is_hidden(packet: Packet[VideoStream]) -> bool:
    """Not shown: frames that an edit list cuts off, and those of VP8 that others are only predicted from."""
    is_vp8 = packet.stream.codec_context.name == "vp8"
    return packet.is_discard or (is_vp8 and not bytes(packet)[0] & _VP8_SHOWN)


def _container(file: BinaryIO) -> InputContainer:
    # A file that is open already: FFmpeg would take what stands before a colon in a name for a protocol.
    return av.open(file, "r", options=dict(_OPTIONS), metadata_errors="ignore")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        with path.open("rb") as file, _container(file) as container:
            stream = container.streams.best("video")  # not the cover picture, nor a camera's preview track
            if not isinstance(stream, VideoStream):
                raise _broken(path, "the file holds no video track")
            if not stream.codec_context:  # PyAV's types do not say that an unknown codec has none
                raise _broken(path, "the video is of a codec that is not known here")
            yield container, stream
    except av.FFmpegError as error:
        raise _broken(path, f"the video cannot be decoded: {error.strerror}") from error


def _broken(path: Path, what: str) -> InputError:
    return InputError(
        what,
        where=str(path),
        expected=f"a whole video file ({', '.join(VIDEO_SUFFIXES)})",
        remedy="copy the file again, or extract its frames into a folder of images",
    )


def _check_size(path: Path, width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError(
            f"the video claims {width} x {height} pixels",
            where=str(path),
            expected=f"1 to {MAX_PIXELS} pixels, {MAX_SIDE} a side",
        )
