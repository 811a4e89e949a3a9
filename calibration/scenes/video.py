"""A video file, decoded with PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vggt_edge.calibration.scenes.containers import first_broken_byte
from vggt_edge.calibration.scenes.source import MAX_PIXELS, Frame
from vggt_edge.devices.errors import InputError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
# A playlist in a video's clothes would have FFmpeg open other files and addresses: containers only.
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska,avi"}


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
                    yield self._frame(frame, number)
                    index = next(wanted, None)
                    if index is None:
                        return
        raise _broken(self.path, f"frame {index} of {self.count} cannot be decoded")

    def _frame(self, frame: VideoFrame, number: int) -> Frame:
        if frame.is_corrupt:
            raise _broken(self.path, f"frame {number} is corrupt")
        _check_size(self.path, frame.width, frame.height)  # a stream may change its size on the way
        pixels = frame.to_ndarray(format="rgb24")
        quarters = round(frame.rotation / 90) % 4  # counter-clockwise, from the display matrix of phone videos
        return Frame(np.ascontiguousarray(np.rot90(pixels, quarters), dtype=np.uint8))


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
        packets = [packet.is_discard for packet in container.demux(stream) if packet.size]
    if len(packets) < promised:
        raise _broken(path, f"the video is cut short: {len(packets)} of {promised} frames are there")
    shown = packets.count(False)  # an edit list hides the frames before a cut
    if not shown:
        raise _broken(path, "the video holds no frames")
    label = path.name if path == root else path.relative_to(root).as_posix()
    return VideoSource(path.stem, path, label, shown)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        # Resolved, since FFmpeg takes what stands before a colon in a relative name for a protocol.
        with av.open(str(path.resolve()), options=dict(_OPTIONS), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise _broken(path, "the file holds no video track")
            stream = container.streams.video[0]
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
    if not 0 < width * height <= MAX_PIXELS:
        raise InputError(
            f"the video claims {width} x {height} pixels", where=str(path), expected=f"1 to {MAX_PIXELS} pixels"
        )
