"""The modes crop and pad give VGGT's own pixels at its sizes, and every mode says where each pixel went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vggt_edge.calibration.scenes.framing import MODES, Mode, Preprocess, content_mask
from vggt_edge.calibration.scenes.opening import open_scenes
from vggt_edge.calibration.scenes.resize import input_shape, resize_frame, shown_share
from vggt_edge.devices.errors import InputError

CROP, PAD = Preprocess("crop"), Preprocess("pad")
# Sizes of frames, width x height, and of the input, height x width.
PHOTOS = ((1920, 1440), (1440, 1920), (640, 480), (480, 854), (517, 519), (518, 518), (30, 95), (700, 90))
sides = st.integers(1, 90)
targets = st.integers(1, 8).map(lambda patches: patches * 14)


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width + 7 * height).integers(0, 256, (height, width, 3)).astype(np.uint8)


def as_vggt_crops(image: np.ndarray) -> np.ndarray:
    """518 wide; of a scaled height above 518 the middle. Float levels from 0 to 1, (3, H, 518)."""
    height, width = image.shape[:2]
    scaled = round(height * (518 / width) / 14) * 14
    levels = np.asarray(Image.fromarray(image).resize((518, scaled), Image.Resampling.BICUBIC))
    start = max(0, scaled - 518) // 2
    return levels[start : start + 518].transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def as_vggt_pads(image: np.ndarray) -> np.ndarray:
    """The longer side becomes 518, the rest of 518 x 518 white."""
    height, width = image.shape[:2]
    size = [518, 518]
    size[width >= height] = round(min(width, height) * (518 / max(width, height)) / 14) * 14
    levels = np.asarray(Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BICUBIC))
    missing = 518 - size[1], 518 - size[0]
    around = [(each // 2, each - each // 2) for each in missing]
    padded = np.pad(levels, [*around, (0, 0)], constant_values=255)
    return padded.transpose(2, 0, 1).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize(("width", "height"), PHOTOS)
def test_crop_gives_vggts_pixels(width: int, height: int) -> None:
    image = noise(width, height)
    expected = as_vggt_crops(image)
    assert input_shape(CROP, width, height, 518) == expected.shape[1:]
    assert np.array_equal(resize_frame(image, *expected.shape[1:], CROP), expected)


@pytest.mark.parametrize(("width", "height"), PHOTOS)
def test_pad_gives_vggts_pixels(width: int, height: int) -> None:
    image = noise(width, height)
    assert input_shape(PAD, width, height, 518) == (518, 518)
    assert np.array_equal(resize_frame(image, 518, 518, PAD), as_vggt_pads(image))


def test_crop_fills_a_flat_frame_up_as_vggt_does_in_a_batch() -> None:
    """VGGT brings frames of several heights to the largest one, with white above and below."""
    image = noise(640, 480)
    flat = as_vggt_crops(image)
    framed = resize_frame(image, 518, 518, CROP)
    assert flat.shape[1] == 392
    assert np.array_equal(framed[:, 63:455], flat)
    assert framed[:, :63].min() == framed[:, 455:].min() == 1
    assert CROP.framing((480, 640), (518, 518)).content == (0, 63, 518, 455)


@settings(deadline=None)
@given(sides, sides, targets, targets, st.sampled_from(MODES))
def test_white_is_where_no_picture_is(width: int, height: int, out_width: int, out_height: int, mode: Mode) -> None:
    """A black picture in an input is black in ``content`` and white around it."""
    rule, target = Preprocess(mode), (out_height, out_width)
    framed = resize_frame(np.zeros((height, width, 3), np.uint8), *target, rule)
    framing = rule.framing((height, width), target)
    assert np.array_equal(framed[0] == 0, content_mask(framing.content, target))
    assert (mode != "fit") or framing.content == (0, 0, out_width, out_height)


@settings(deadline=None)
@given(
    st.integers(20, 90), st.integers(20, 90), targets, targets, st.floats(0.2, 0.8), st.floats(0.2, 0.8),
    st.sampled_from(MODES),
)  # fmt: skip
def test_a_pixel_lands_where_the_framing_says(
    width: int, height: int, out_width: int, out_height: int, across: float, down: float, mode: Mode
) -> None:
    """Each pixel of the input names its place in a picture whose levels are its own coordinates."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    levels = np.stack([2 * columns, 2 * rows, 0 * rows], axis=-1).round().astype(np.uint8)
    target = (out_height, out_width)
    framing = Preprocess(mode).framing((height, width), target)
    framed = 255 * resize_frame(levels, *target, Preprocess(mode))
    left, top, right, bottom = framing.content
    column, row = int(left + across * (right - left)), int(top + down * (bottom - top))
    x, y, _ = framing.picture_from_input @ (column + 0.5, row + 0.5, 1)
    # Beside a border the resampling sees one side only.
    inside = [2 / scale + 2 for scale in framing.scale]
    for value, place, side, margin in ((framed[0], x, width, inside[0]), (framed[1], y, height, inside[1])):
        if margin < place < side - margin:
            assert value[row, column] == pytest.approx(2 * place, abs=1.6)


@given(st.integers(1, 9000), st.integers(1, 9000), targets, targets)
def test_pad_shows_everything_and_crop_the_whole_width(
    width: int, height: int, out_width: int, out_height: int
) -> None:
    source, target = (height, width), (out_height, out_width)
    assert shown_share(source, target, PAD) == pytest.approx(1)
    left, _, right, _ = Preprocess("crop", 1).framing((min(height, 3 * width), width), target).content
    assert (left, right) == (0, out_width)


def test_a_strip_that_crop_would_blow_up_is_refused() -> None:
    with pytest.raises(InputError, match="would be scaled to 518 x"):
        resize_frame(np.zeros((3000, 1, 3), np.uint8), 518, 518, CROP)
    assert resize_frame(np.zeros((3000, 1, 3), np.uint8), 518, 518, PAD).shape == (3, 518, 518)


def test_scenes_know_what_they_show(tmp_path: Path) -> None:
    for name, size in (("a.png", (60, 40)), ("b.png", (40, 60))):
        Image.fromarray(noise(*size)).save(tmp_path / name)
    (padded,) = open_scenes(tmp_path, frames=2, long_side=56, rule=PAD)
    assert padded.images.shape == (2, 3, 56, 56)
    assert padded.content == ((0, 7, 56, 49), (7, 0, 49, 56))
    assert padded.shown is not None
    assert [int(each.sum()) for each in padded.shown] == [42 * 56, 42 * 56]
    (fitted,) = open_scenes(tmp_path, frames=2, long_side=56)
    assert fitted.content is None
    (cropped,) = open_scenes(tmp_path, frames=2, long_side=56, rule=CROP)
    assert cropped.images.shape == (2, 3, 42, 56)
    assert cropped.content is None
