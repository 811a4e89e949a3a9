"""Not every picture is a view: what lies beside photographs is told apart by name and content, and counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggt_edge.calibration.scenes.opening import open_scenes
from vggt_edge.devices.errors import InputError

Pixels = np.ndarray
Paint = Callable[[int], Image.Image]


def photograph(index: int, width: int = 64, height: int = 48) -> Image.Image:
    """Smooth and colourful, another one for each index."""
    noise = np.random.default_rng(index).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def small(index: int) -> Image.Image:
    return photograph(index).resize((32, 24), Image.Resampling.LANCZOS)


def grey(index: int) -> Image.Image:
    return photograph(index + 50).convert("L")


def mask(index: int) -> Image.Image:
    levels = np.zeros((48, 64), np.uint8)
    levels[10 : 30 + index, 20:50] = 255
    return Image.fromarray(levels)


def depth(index: int) -> Image.Image:
    """Millimetres."""
    return Image.fromarray((np.asarray(grey(index), np.uint16) * 10 + 800).astype(np.uint16))


def normals(index: int) -> Image.Image:
    slopes = np.asarray(photograph(index + 90), np.float64)[..., :2] / 255 - 0.5
    vectors = np.dstack([slopes, np.ones(slopes.shape[:2])])
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return Image.fromarray(((vectors + 1) * 127.5).round().astype(np.uint8))


def write(folder: Path, pattern: str, paint: Paint, count: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        paint(index).save(folder / pattern.format(index))


def opened(path: Path) -> tuple[set[str], list[str]]:
    """Every frame that is read, and what is said."""
    notes: list[str] = []
    scenes = open_scenes(path, frames=1, long_side=28, max_scenes=100, note=notes.append)
    return {source for scene in scenes for source in scene.sources}, notes


@pytest.mark.parametrize(
    ("folder", "pattern", "paint", "kind"),
    [
        ("depth", "{}.png", depth, "depth maps"),
        ("depth", "1305031102.{}7.png", depth, "depth maps"),  # TUM: other time stamps than the colour pictures
        ("lidar", "{}.png", depth, "depth maps"),
        ("depth_vis", "{}.jpg", grey, "depth maps"),
        ("depthMap", "{}.jpg", photograph, "depth maps"),  # a colour map
        ("disparity", "{}.jpg", grey, "depth maps"),
        ("masks", "{}.png", mask, "masks"),
        ("fg", "{}.png", mask, "masks"),
        ("labels", "{}.png", grey, "masks"),
        ("normals", "{}.png", normals, "normal maps"),
        ("geometry", "{}.png", normals, "normal maps"),
        ("confidence", "{}.png", grey, "confidence maps"),
        ("thumbnails", "{}.jpg", lambda index: photograph(index).crop((8, 0, 56, 48)).resize((20, 20)), "thumbnails"),
        ("images_2", "{}.jpg", small, "smaller copies"),
        ("web", "{}.png", small, "smaller copies"),
    ],
)
def test_folders_beside_the_photographs(tmp_path: Path, folder: str, pattern: str, paint: Paint, kind: str) -> None:
    write(tmp_path / "color", "{}.jpg", photograph)
    write(tmp_path / folder, pattern, paint)
    sources, notes = opened(tmp_path)
    assert sources == {f"color/{index}.jpg" for index in range(4)}
    assert notes == [f"passed over in {tmp_path.name}: {kind} ({folder}): 4"]


@pytest.mark.parametrize(
    ("pattern", "paint", "kind"),
    [
        ("frame-{}.depth.png", depth, "depth maps"),  # 7-Scenes
        ("frame-{}_depth_0001.jpg", grey, "depth maps"),  # nerf_synthetic
        ("depth_frame-{}.jpg", grey, "depth maps"),
        ("x{}.png", depth, "depth maps"),
        ("frame-{}_mask.png", mask, "masks"),
        ("frame-{}.color.jpg.mask.png", mask, "masks"),  # COLMAP writes the whole name before it
        ("frame-{}_normal_0001.png", normals, "normal maps"),
        ("frame-{}.confidence.png", grey, "confidence maps"),
        ("thumb_frame-{}.jpg", lambda index: photograph(index).resize((20, 20)), "thumbnails"),
        ("frame-{}.png", mask, "masks"),
        ("frame-{}.webp", small, "smaller copies"),
        ("holiday-{}-300x200.jpg", small, "smaller copies"),
    ],
)
def test_files_beside_the_photographs(tmp_path: Path, pattern: str, paint: Paint, kind: str) -> None:
    write(tmp_path, "frame-{}.color.jpg", photograph)
    write(tmp_path, pattern, paint)
    sources, notes = opened(tmp_path)
    assert sources == {f"frame-{index}.color.jpg" for index in range(4)}
    assert notes == [f"passed over in {tmp_path.name}: {kind}: 4"]


@pytest.mark.parametrize(
    ("folder", "paint"), [("depth", depth), ("masks", mask), ("fg", mask), ("normals", normals), ("confidence", grey)]
)
def test_a_folder_of_maps_alone_is_refused(tmp_path: Path, folder: str, paint: Paint) -> None:
    write(tmp_path / folder, "{}.png", paint)
    with pytest.raises(InputError, match="not pictures of a place") as caught:
        opened(tmp_path / folder)
    assert caught.value.where == str(tmp_path / folder)
    with pytest.raises(InputError, match="not pictures of a place"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "paint"),
    [
        ("room9", "room10", lambda index: photograph(index + 20)),  # two places, the same names
        ("cam0", "cam1", grey),  # a monochrome camera
        ("day", "normal_light", lambda index: photograph(index + 20)),
        ("hall", "conf_room", lambda index: photograph(index + 20)),
        ("a", "b", lambda index: photograph(index + 20, 32, 24)),  # another camera's size
        ("a", "night", lambda index: Image.new("RGB", (64, 48), (index, 0, 0))),
    ],
)
def test_captures_of_their_own_stay(tmp_path: Path, first: str, second: str, paint: Paint) -> None:
    write(tmp_path / first, "{}.jpg", photograph)
    write(tmp_path / second, "{}.jpg", paint)
    sources, notes = opened(tmp_path)
    assert sources == {f"{folder}/{index}.jpg" for folder in (first, second) for index in range(4)}
    assert notes == []


def test_photographs_of_several_sizes_in_one_folder_stay(tmp_path: Path) -> None:
    write(tmp_path, "a{}.jpg", photograph)
    write(tmp_path, "b{}.jpg", lambda index: photograph(index + 20, 32, 24))
    write(tmp_path, "c{}.png", lambda index: photograph(index + 40).convert("L"))
    sources, notes = opened(tmp_path)
    assert len(sources) == 12
    assert notes == []


@pytest.mark.parametrize("pattern", ["1305031102.{}75304.jpg", "frame.{}.jpg", "frame-{}.rgb.jpg"])
def test_frames_that_hardly_differ_are_no_copies(tmp_path: Path, pattern: str) -> None:
    """A camera that stands still; TUM's names are times in seconds."""
    write(tmp_path, pattern, lambda index: photograph(0))
    sources, notes = opened(tmp_path)
    assert len(sources) == 4
    assert notes == []


def test_deep_pictures_without_others_are_photographs(tmp_path: Path) -> None:
    """TUM-VI saves its pictures so; depth maps are told by their folder's name or by colour pictures beside them."""
    write(tmp_path / "cam0", "{}.png", depth)
    sources, notes = opened(tmp_path)
    assert len(sources) == 4
    assert notes == ["cam0: pictures of 16 bits in one channel, taken as photographs"]


def test_other_formats_dead_links_and_videos_are_counted(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    write(tmp_path, "{}.jpg", photograph)
    for name in ("a.HEIC", "b.heic", "c.gif", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "d.jpg").symlink_to(tmp_path / "none.jpg")
    write_video(tmp_path / "walk.mp4", 3)
    sources, notes = opened(tmp_path)
    assert len(sources) == 4
    assert notes == [
        f"passed over in {tmp_path.name}: .gif files (not read): 1; .heic files (not read): 2; links to nothing: 1; "
        "videos beside pictures: 1"
    ]


def test_what_lies_in_several_captures_is_said_once(tmp_path: Path) -> None:
    for room in ("a", "b"):
        write(tmp_path / room, room + "{}.jpg", lambda index: photograph(index + 7))
        (tmp_path / room / "x.heic").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    _, notes = opened(tmp_path)
    assert notes == [f"passed over in {tmp_path.name}: .heic files (not read): 2; folders without pictures: 1"]


def test_a_name_that_is_not_utf8_is_shown_by_its_bytes(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write(folder, "{}.jpg", photograph)
    scenes = open_scenes(tmp_path, frames=4, long_side=28)
    assert scenes[0].name == "caf\\xe9-00"
    assert scenes[0].sources[0] == "caf\\xe9/0.jpg"
