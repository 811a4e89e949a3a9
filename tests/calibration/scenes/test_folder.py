"""Folders of images: order, strides, orientation, and one clear error for every kind of spoilt image."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vggt_edge.calibration.scenes.folder import turned
from vggt_edge.calibration.scenes.image import read_image
from vggt_edge.calibration.scenes.opening import open_scenes
from vggt_edge.calibration.scenes.source import Camera, natural_key
from vggt_edge.devices.errors import InputError

RefusedOr = Callable[[Path], AbstractContextManager[None]]
ENCODINGS = {
    "jpg": {"quality": 90},
    "jpeg": {"quality": 90, "progressive": True},
    "png": {},
    "webp": {"lossless": True},
    "bmp": {},
}


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 2 or 1, width // 2 or 1, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height))


def write_images(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed=index).save(folder / name)
    return folder


def test_frames_are_in_natural_order_and_far_apart(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "room", *(f"f{number}.png" for number in range(1, 12)))
    first, second, third = open_scenes(folder, frames=3, shape=(14, 28))
    assert [first.name, second.name, third.name] == ["room-00", "room-01", "room-02"]
    assert first.sources == ("f1.png", "f4.png", "f7.png")
    assert second.sources == ("f2.png", "f5.png", "f8.png")
    assert third.sources == ("f3.png", "f6.png", "f9.png")
    assert first.images.shape == (3, 3, 14, 28)
    assert first.ground_truth is None


def test_two_reads_agree_to_the_bit(tmp_path: Path) -> None:
    folder = write_images(tmp_path, "b.jpg", "a.png", "C.webp")
    runs = [[scene.digest for scene in open_scenes(folder, frames=1, long_side=28)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3


def test_capped_scenes_start_evenly_spread(tmp_path: Path) -> None:
    folder = write_images(tmp_path, *(f"{number}.png" for number in range(16)))
    scenes = open_scenes(folder, frames=2, long_side=14, max_scenes=2)
    assert [scene.sources for scene in scenes] == [("0.png", "8.png"), ("4.png", "12.png")]


def test_shape_is_fitted_to_the_first_image_for_all(tmp_path: Path) -> None:
    picture(40, 30).save(tmp_path / "1.png")
    picture(30, 40).save(tmp_path / "2.png")
    (scene,) = open_scenes(tmp_path, frames=2, long_side=56)
    assert scene.images.shape == (2, 3, 42, 56)


def test_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path, "1.png", "2.PNG", "._1.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    scenes = open_scenes(tmp_path, frames=1, long_side=14)
    assert [scene.sources for scene in scenes] == [("1.png",), ("2.PNG",)]


def test_sub_folders_and_videos_are_sources_of_their_own(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    write_images(tmp_path / "room10", "a.png", "b.png", "c.png", "d.png")
    write_images(tmp_path / "room9", "a.png", "b.png")
    (tmp_path / "empty").mkdir()
    write_video(tmp_path / "walk.mp4", 8)
    scenes = open_scenes(tmp_path, frames=2, long_side=28, max_scenes=4)
    assert [scene.name for scene in scenes] == ["room9-00", "room10-00", "room10-01", "walk-00"]
    assert scenes[0].sources == ("room9/a.png", "room9/b.png")
    assert scenes[-1].sources == ("walk.mp4#frame=0", "walk.mp4#frame=4")
    assert len({scene.images.shape for scene in scenes}) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    """The tag names the side on which the stored row 0 and column 0 are seen (TIFF 6.0)."""
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").upright(), upright)


@pytest.mark.parametrize("turn", [((-1.0, 0.0), (0.0, -1.0)), ((0.0, -1.0), (1.0, 0.0)), ((0.0, 1.0), (-1.0, 0.0))])
def test_a_turned_camera_sees_points_where_the_turned_image_has_them(turn: tuple[tuple[float, float], ...]) -> None:
    camera = Camera(
        np.hstack([np.eye(3), [[0.1], [0.2], [0.3]]]), np.array([[50.0, 0, 17], [0, 40, 11], [0, 0, 1]]), 40, 30
    )
    result = turned(camera, turn)  # type: ignore[arg-type]
    point = np.array([0.2, -0.1, 2.0, 1.0])
    before, after = (one.intrinsics @ one.extrinsics @ point for one in (camera, result))
    moved = np.array(turn) @ (before[:2] / before[2] - [20, 15])
    np.testing.assert_allclose(after[:2] / after[2], moved + np.array([result.width / 2, result.height / 2]))
    assert result.intrinsics[0, 0] > 0
    assert result.intrinsics[1, 1] > 0
    assert np.linalg.det(result.extrinsics[:, :3]) == pytest.approx(1)


def test_modes_other_than_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 0x8FFF, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    Image.new("L", (2, 2), 77).save(tmp_path / "grey.png")
    found = {name: read_image(tmp_path / name).pixels for name in ("deep.png", "clear.png", "grey.png")}
    assert all(pixels.dtype == np.uint8 and pixels.shape[2] == 3 for pixels in found.values())
    assert (found["deep.png"] == 0x8F).all()
    assert (found["clear.png"] == 255).all()
    assert (found["grey.png"] == 77).all()


def test_inks_without_a_profile_are_refused(tmp_path: Path) -> None:
    """Every viewer mixes them in its own way."""
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "ink.jpg")
    with pytest.raises(InputError, match="CMYK"):
        read_image(tmp_path / "ink.jpg")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole image per encoding; the JPEG carries a whole thumbnail, whose end is not the image's."""
    folder = tmp_path_factory.mktemp("whole")
    picture(16, 16).save(folder / "thumb.jpg")
    for suffix, options in ENCODINGS.items():
        picture().save(folder / f"image.{suffix}", **options)
    plain = (folder / "image.jpg").read_bytes()
    thumbnail = b"Exif\0\0" + (folder / "thumb.jpg").read_bytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    (folder / "image.jpg").write_bytes(plain[:2] + segment + plain[2:])
    return folder


@pytest.mark.parametrize("suffix", ENCODINGS)
def test_whole_images_are_read(whole: Path, suffix: str) -> None:
    pixels = read_image(whole / f"image.{suffix}").pixels.astype(int)
    expected = np.asarray(picture(), int)
    # JPEG keeps a quarter of the colour, and this picture is noise; another picture would be 60 away.
    assert np.abs(pixels - expected).mean() < (20 if suffix.startswith("jp") else 1e-9)


@pytest.mark.parametrize("suffix", ENCODINGS)
@given(data=st.data())
def test_a_truncated_image_is_always_refused(whole: Path, suffix: str, data: st.DataObject) -> None:
    content = (whole / f"image.{suffix}").read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1) | st.integers(max(0, len(content) - 24), len(content) - 1))
    spoilt = whole / f"cut.{suffix}"
    spoilt.write_bytes(content[:cut])
    with pytest.raises(InputError) as caught:
        read_image(spoilt)
    assert caught.value.where == str(spoilt)


@pytest.mark.parametrize("suffix", ENCODINGS)
@given(data=st.data())
def test_a_corrupt_image_is_read_or_refused_but_never_crashes(
    whole: Path, suffix: str, refused_or: RefusedOr, data: st.DataObject
) -> None:
    content = bytearray((whole / f"image.{suffix}").read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[position] = data.draw(st.integers(0, 255))
    spoilt = whole / f"flip.{suffix}"
    spoilt.write_bytes(content)
    with refused_or(spoilt):
        assert read_image(spoilt).pixels.dtype == np.uint8


def test_a_truncated_image_names_itself_through_the_reader(tmp_path: Path) -> None:
    write_images(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:-40])
    with pytest.raises(InputError) as caught:
        open_scenes(tmp_path, frames=2, long_side=28)
    assert caught.value.where == str(tmp_path / "2.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"empty \(0 bytes\)"), (b"hello", "not an image"), (b"%!PS-Adobe-3.0 EPSF", "not an image")],
)
def test_no_image_inside(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_scenes(tmp_path, frames=1, long_side=28)
    assert caught.value.where == str(tmp_path / "a.jpg")


def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("1", (20_000, 9_000)).save(tmp_path / "bomb.png", optimize=True)
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(InputError, match=r"20000 x 9000|bomb") as caught:
        open_scenes(tmp_path, frames=1, long_side=28)
    assert caught.value.where == str(tmp_path / "bomb.png")


def test_a_strip_of_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """1 x 100 000 000 pixels took 2.9 GB: a decoder keeps a pointer for each row."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 1, 100_000_000, 8, 0, 0, 0, 0)
    path = tmp_path / "strip.png"
    content = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 9) + b"IDAT"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content + bytes(9))
    with pytest.raises(InputError, match="claims 1 x 100000000 pixels") as caught:
        read_image(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", ["1", "P", "L", "RGB", "RGBA"])
def test_every_row_of_a_png_has_to_be_there(tmp_path: Path, mode: str, interlaced: bool) -> None:
    """3 of 64 rows in a file that is otherwise whole: the rest was black."""
    bits = {"1": 1, "P": 8, "L": 8, "RGB": 24, "RGBA": 32}[mode]
    colour = {"1": 0, "P": 3, "L": 0, "RGB": 2, "RGBA": 6}[mode]
    header = struct.pack(">IIBBBBB", 61, 64, min(bits, 8), colour, 0, 0, interlaced)
    size = png_bytes(61, 64, bits, interlaced)
    for name, there in (("whole", size), ("short", size * 3 // 64)):
        chunks = {b"IHDR": header, b"PLTE": bytes(768), b"IDAT": zlib.compress(bytes(there)), b"IEND": b""}
        if mode != "P":
            del chunks[b"PLTE"]
        parts = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks.items())
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert read_image(tmp_path / "whole.png").pixels.shape == (64, 61, 3)
    with pytest.raises(InputError, match="cut short"):
        read_image(tmp_path / "short.png")


def png_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """By counting the pixels of each pass of the 8 x 8 pattern."""
    pattern = "1646264677777777564656467777777736463646777777775646564677777777"
    if not interlaced:
        return height * (1 + -(-width * bits // 8))
    total = 0
    for number in "1234567":
        rows = [sum(pattern[8 * (y % 8) + x % 8] == number for x in range(width)) for y in range(height)]
        total += sum(1 + -(-count * bits // 8) for count in rows if count)
    return total


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}])
def test_a_jpeg_whose_end_comes_early_is_refused(tmp_path: Path, options: dict[str, int]) -> None:
    """Cut, and given an end-of-image marker again, as recovery tools do: the missing rows were grey."""
    path = tmp_path / "a.jpg"
    picture(160, 120).save(path, quality=90, **options)
    content = path.read_bytes()
    read_image(path)
    for share in (0.5, 0.7, 0.9):
        path.write_bytes(content[: int(len(content) * share)] + b"\xff\xd9")
        with pytest.raises(InputError, match="cut short"):
            read_image(path)


def test_a_jpeg_with_its_makers_data_behind_it_is_read(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg")
    expected = read_image(tmp_path / "a.jpg").pixels
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + b"\0\0SEFHj\0\0\0SEFT")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").pixels, expected)


def test_scans_without_end_are_refused(tmp_path: Path) -> None:
    """A progressive JPEG of 430 kB with 300 scans over 100 megapixels took minutes."""
    path = tmp_path / "a.jpg"
    Image.new("L", (4096, 4096), 128).save(path, progressive=True, quality=50)
    content = path.read_bytes()
    last, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    read_image(path)
    path.write_bytes(content[:end] + content[last:end] * 100 + content[end:])
    with pytest.raises(InputError, match=r"10\d scans") as caught:
        read_image(path)
    assert caught.value.expected == "at most 89 scans at this size"


def test_too_few_images(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    with pytest.raises(InputError, match="2 frames found, fewer than the 3") as caught:
        open_scenes(tmp_path, frames=3, long_side=28)
    assert caught.value.where == str(tmp_path)


@given(st.lists(st.text("aB01249_.é", max_size=8), max_size=12))
def test_natural_order_is_total(names: list[str]) -> None:
    """The order of the folder's entries on disk never shows."""
    assert sorted(set(names), key=natural_key) == sorted(sorted(set(names), reverse=True), key=natural_key)


def test_natural_order() -> None:
    names = ["a1", "a2", "a10", "a010b", "b", "B1", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a1", "a2", "a10", "a010b", "b", "B1"]
