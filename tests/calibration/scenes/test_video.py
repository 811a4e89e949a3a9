"""Videos: exact frame numbers, rotation, and errors that name the file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
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
