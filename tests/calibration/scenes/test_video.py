"""Videos: exact frame numbers, rotation, and errors that name the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.calibration.scenes import video
from vggt_edge.calibration.scenes.opening import open_scenes
from vggt_edge.devices.errors import InputError

WriteVideo = Callable[..., Path]
SUFFIXES = ["mp4", "mkv", "avi", "mov"]
RefusedOr = Callable[[Path], AbstractContextManager[None]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_are_the_numbered_ones(tmp_path: Path, write_video: WriteVideo, suffix: str) -> None:
    path = write_video(tmp_path / f"walk.{suffix}", 20)
    scenes = open_scenes(path, frames=4, long_side=56, max_scenes=3)
    assert [scene.name for scene in scenes] == ["walk-00", "walk-01", "walk-02"]
    assert scenes[1].sources == tuple(f"walk.{suffix}#frame={number}" for number in (1, 6, 11, 16))
    for scene in scenes:
        assert scene.images.shape == (4, 3, 42, 56)
        numbers = [int(source.partition("=")[2]) for source in scene.sources]
        np.testing.assert_allclose(scene.images[:, :, -8:].mean(axis=(1, 2, 3)) * 25.5, numbers, atol=0.5)


def test_the_rotation_of_phone_videos_is_honoured(tmp_path: Path, write_video: WriteVideo) -> None:
    """Matrix (a b c d) = (0 1 -1 0) in the track header turns the picture clockwise: top left goes to top right."""
    path = write_video(tmp_path / "a.mp4", 3)
    upright = ((0x10000, 0, 0), (0, 0x10000, 0), (0, 0, 0x40000000))
    turned = ((0, 0x10000, 0), (0xFFFF0000, 0, 0), (0, 0, 0x40000000))
    old, new = (b"".join(v.to_bytes(4, "big") for row in matrix for v in row) for matrix in (upright, turned))
    content = path.read_bytes()
    header = content.index(b"tkhd")
    path.write_bytes(content[:header] + content[header:].replace(old, new, 1))
    (scene,) = open_scenes(path, frames=1, long_side=56, max_scenes=1)
    assert scene.images.shape == (1, 3, 56, 42)
    red = scene.images[0, 0]
    assert red[:8, -6:].mean() > 0.8
    assert red[:8, :6].mean() < 0.2


# The display matrix (a b c d) of a track, and where the red corner, top left in the stored frame, is then seen.
TURNS = {
    "90": ((0, 1, -1, 0), (True, False)),
    "180": ((-1, 0, 0, -1), (True, True)),
    "270": ((0, -1, 1, 0), (False, True)),
    "mirrored": ((-1, 0, 0, 1), (True, False)),
    "upside down": ((1, 0, 0, -1), (False, True)),
    "mirrored and turned": ((0, 1, 1, 0), (False, False)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_turned_and_mirrored_videos_are_seen_as_players_show_them(
    tmp_path: Path, write_video: WriteVideo, turn: str
) -> None:
    (a, b, c, d), (right, bottom) = TURNS[turn]
    one = 1 << 16
    matrix = (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path = write_video(tmp_path / "a.mp4", 3, matrix=matrix)
    (scene,) = open_scenes(path, frames=1, long_side=56, max_scenes=1)
    red = scene.images[0, 0] - scene.images[0, 1]
    assert red.shape == ((56, 42) if a == 0 else (42, 56))
    corner = red[-4:] if bottom else red[:4]
    assert (corner[:, -4:] if right else corner[:, :4]).mean() > 0.8
    assert red.mean() < 0.1


def test_a_video_turned_by_an_odd_angle_is_refused(tmp_path: Path, write_video: WriteVideo) -> None:
    matrix = (56756, 32768, 0, -32768, 56756, 0, 0, 0, 1 << 30)  # 30 degrees
    path = write_video(tmp_path / "a.mp4", 3, matrix=matrix)
    with pytest.raises(InputError, match="no quarter turn") as caught:
        open_scenes(path, frames=1, long_side=56)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize(
    ("aspect", "turn", "shape"),
    [("4/3", None, (42, 84)), ("3/4", None, (84, 84)), ("1/1", None, (70, 84)), ("4/3", "90", (84, 42))],
)
def test_pixels_that_are_not_square_are_stretched(
    tmp_path: Path, write_video: WriteVideo, suffix: str, aspect: str, turn: str | None, shape: tuple[int, int]
) -> None:
    """128 x 96 with a sample aspect ratio of 4:3 is shown as 171 x 96."""
    if turn and suffix == "mkv":
        pytest.skip("Matroska has no display matrix")
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30) if turn else None
    path = write_video(tmp_path / f"a.{suffix}", 2, 128, 96, aspect=Fraction(aspect), matrix=matrix)
    (scene,) = open_scenes(path, frames=1, long_side=84, max_scenes=1)
    assert scene.images.shape[2:] == shape


# By ITU-T H.273: matrix, its weights of red and blue, and whether levels run from 0 to 255.
CODES = [(1, 0.2126, 0.0722, False), (1, 0.2126, 0.0722, True), (5, 0.299, 0.114, False), (5, 0.299, 0.114, True)]


@pytest.mark.parametrize(("matrix", "red", "blue", "is_full"), CODES)
def test_matrix_and_range_are_those_that_the_video_names(
    tmp_path: Path, matrix: int, red: float, blue: float, is_full: bool
) -> None:
    """BT.709 and BT.601, limited and full range, of one colour."""
    path = tmp_path / "a.mp4"
    r, g, b = 200 / 255, 100 / 255, 50 / 255
    y = red * r + (1 - red - blue) * g + blue * b
    signals = (y, (b - y) / 2 / (1 - blue), (r - y) / 2 / (1 - red))
    offset, gains = (0, (255, 255, 255)) if is_full else (16, (219, 224, 224))
    levels = [round(base + gain * value) for base, gain, value in zip((offset, 128, 128), gains, signals, strict=True)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if is_full else 1
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, level in zip(frame.planes, levels, strict=True):
            plane.update(bytes([level]) * plane.buffer_size)
        frame.colorspace, frame.color_range = matrix, 2 if is_full else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (found,) = video.video_source(path, path).read([0])
    np.testing.assert_allclose(found.pixels[10, 10].astype(int), (200, 100, 50), atol=2)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_of_an_uneven_rate_are_all_there(tmp_path: Path, suffix: str) -> None:
    """Phones slow down in the dark; a frame's number is its place among those that are shown, whatever the gaps."""
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = Fraction(1, 1000)
        for number, time in enumerate((0, 33, 66, 500, 533, 1700, 1733, 3000)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number + 40, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    scenes = open_scenes(path, frames=1, long_side=14, max_scenes=8)
    assert len(scenes) == 8
    levels = [255 * scene.images.mean() for scene in scenes]
    np.testing.assert_allclose(levels, [20 * number + 40 for number in range(8)], atol=3)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("tail", [b"SEFT\x10\x90made by a phone" * 20, b"\x8d\xb4\x2d\x69" * 30, b"\0" * 999])
def test_what_a_camera_writes_behind_its_video_is_passed_over(
    videos: Path, tmp_path: Path, suffix: str, tail: bytes
) -> None:
    whole = videos / f"whole.{suffix}"
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole.read_bytes() + tail)
    found, expected = (open_scenes(one, frames=2, long_side=28) for one in (path, whole))
    assert [scene.digest for scene in found] == [scene.digest for scene in expected]


def test_a_second_segment_that_is_cut_short_is_no_camera_s_tail(videos: Path, tmp_path: Path) -> None:
    for suffix, start in (
        ("mp4", b"\0\0\xff\0moof"),
        ("avi", b"RIFF\xff\xff\0\0AVIX"),
        ("mkv", b"\x1a\x45\xdf\xa3\x88"),
    ):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes((videos / f"whole.{suffix}").read_bytes() + start)
        with pytest.raises(InputError, match="cut short or corrupt"):
            open_scenes(path, frames=2, long_side=28)


def test_frames_of_vp8_that_are_not_shown_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(6):
            grey = np.full((48, 64, 3), 20 * number + 40, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                container.mux(packet)
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    path.write_bytes(content.replace(packets[3], bytes([packets[3][0] & ~0x10]) + packets[3][1:], 1))
    scenes = open_scenes(path, frames=5, long_side=14)
    assert len(scenes[0].sources) == 5


def test_a_cover_picture_is_not_the_video(tmp_path: Path, write_video: WriteVideo) -> None:
    source = write_video(tmp_path / "plain.mp4", 4)
    path = tmp_path / "a.mp4"
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        walk = container.add_stream_from_template(given.streams.video[0])
        for packet in cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")):
            container.mux(packet)
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = walk
                container.mux(packet)
    (scene,) = open_scenes(path, frames=4, long_side=56)
    assert scene.images.shape == (4, 3, 42, 56)


def test_hdr_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=10, options={"x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = 18, 9, 9
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p10le")))
        container.mux(stream.encode(None))
    notes: list[str] = []
    open_scenes(path, frames=1, long_side=14, note=notes.append)
    assert notes == ["a.mp4: HDR (HLG), read without tone mapping"]


def test_a_video_in_a_folder_whose_name_is_not_utf8(tmp_path: Path, write_video: WriteVideo) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    write_video(tmp_path / "a.mp4", 3).rename(folder / "a.mp4")
    (scene,) = open_scenes(folder, frames=3, long_side=14)
    assert scene.sources[0] == "a.mp4#frame=0"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    folder = tmp_path_factory.mktemp("video")
    for suffix in SUFFIXES:
        write_video(folder / f"whole.{suffix}", 6)
    return folder


@pytest.fixture(scope="module")
def mp4(videos: Path) -> Path:
    return videos / "whole.mp4"


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(data=st.data())
def test_a_truncated_video_is_always_refused(videos: Path, suffix: str, data: st.DataObject) -> None:
    content = (videos / f"whole.{suffix}").read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1) | st.integers(len(content) - 24, len(content) - 1))
    spoilt = videos / f"cut.{suffix}"
    spoilt.write_bytes(content[:cut])
    with pytest.raises(InputError) as caught:
        open_scenes(spoilt, frames=2, long_side=28)
    assert caught.value.where == str(spoilt)


@given(data=st.data())
def test_a_corrupt_video_is_read_or_refused_but_never_crashes(
    mp4: Path, refused_or: RefusedOr, data: st.DataObject
) -> None:
    content = bytearray(mp4.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    spoilt = mp4.with_name("flip.mp4")
    spoilt.write_bytes(content)
    with refused_or(spoilt):
        (scene,) = open_scenes(spoilt, frames=2, long_side=28, max_scenes=1)
        assert scene.images.shape[0] == 2


@pytest.mark.parametrize(("content", "message"), [(b"", "empty"), (b"x" * 500, "corrupt|decoded")])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_no_video_inside(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_scenes(path, frames=1, long_side=28)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("looks_whole", [False, True])
def test_a_playlist_in_a_videos_clothes_opens_nothing(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch, looks_whole: bool
) -> None:
    """FFmpeg would follow it to any file or address, so it is kept out also where the layout check lets it pass."""
    if looks_whole:
        monkeypatch.setattr(video, "first_broken_byte", lambda path: None)
    secret = write_video(tmp_path / "secret.mp4", 3)
    (tmp_path / "a.mkv").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match="cannot be decoded" if looks_whole else "corrupt") as caught:
        open_scenes(tmp_path / "a.mkv", frames=1, long_side=28)
    assert caught.value.where == str(tmp_path / "a.mkv")


def test_a_live_recording_of_unknown_length_is_read(videos: Path, tmp_path: Path) -> None:
    """Matroska marks a length that was not known at writing by all ones."""
    content = bytearray((videos / "whole.mkv").read_bytes())
    segment = content.index(b"\x18\x53\x80\x67") + 4
    assert content[segment] == 1  # a length of eight bytes
    content[segment : segment + 8] = b"\x01" + b"\xff" * 7
    (tmp_path / "live.mkv").write_bytes(content)
    (scene,) = open_scenes(tmp_path / "live.mkv", frames=6, long_side=28)
    assert len(scene.sources) == 6


def test_an_unknown_codec_is_named(mp4: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    content = bytearray(mp4.read_bytes().replace(b"mp4v", b"zzzz"))
    kind = content.index(b"\x04\x80\x80\x80", content.index(b"esds")) + 5
    assert content[kind] == 0x20  # MPEG-4 visual (ISO 14496-1)
    content[kind] = 0
    path.write_bytes(content)
    with pytest.raises(InputError, match="codec") as caught:
        open_scenes(path, frames=1, long_side=28)
    assert caught.value.where == str(path)


def test_too_few_frames(mp4: Path) -> None:
    with pytest.raises(InputError, match="6 frames found, fewer than the 7") as caught:
        open_scenes(mp4, frames=7, long_side=28)
    assert caught.value.where == str(mp4)
