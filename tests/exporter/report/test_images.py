"""Depth pictures: one range per scene, colours that mean what the legend says, no surprise from bad pixels."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vggt_edge.exporter.models.vggt import ARCHITECTURE
from vggt_edge.exporter.report import SceneView, images


@pytest.fixture
def view() -> SceneView:
    """Depth grows from 1 to 2 from left to right; the quantized one is 10 % larger in the lower half."""
    depth = np.tile(np.linspace(1, 2, 101), (1, 2, 10, 1))
    quantized = depth * np.where(np.arange(10) < 5, 1.0, 1.1)[:, None]
    pictures = np.zeros((2, 3, 10, 101), np.float32)
    pictures[:, 0] = 1
    return SceneView("ramp", pictures, {"depth": depth}, {"depth": quantized}, ARCHITECTURE.outputs)


def pixels(uri: str | None) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    assert uri is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_colours_follow_the_palette_from_near_to_far(view: SceneView) -> None:
    sheet = images.depth_sheet(view)
    assert (sheet.depth_low, sheet.depth_high) == pytest.approx((1.02, 1.98))
    row = pixels(sheet.frames[0].fp32)[0]
    palette = images.palette("Viridis")
    assert row[0].tolist() == palette[0].tolist()
    assert row[-1].tolist() == palette[-1].tolist()
    assert row[50].tolist() in palette[126:129].tolist()


def test_difference_is_relative_and_its_range_is_told(view: SceneView) -> None:
    sheet = images.depth_sheet(view)
    assert sheet.error_high == pytest.approx(0.1)
    difference = pixels(sheet.frames[1].difference)
    palette = images.palette("Inferno")
    assert difference[0, 7].tolist() == palette[0].tolist()
    assert difference[9, 7].tolist() == palette[-1].tolist()


def test_input_image_is_itself(view: SceneView) -> None:
    assert (pixels(images.depth_sheet(view).frames[0].image) == [255, 0, 0]).all()


def test_pixels_that_are_not_numbers_stand_out(view: SceneView) -> None:
    broken = np.array(view.quantized["depth"])
    broken[0, 0, 0, 3] = np.nan
    shown = pixels(images.depth_sheet(replace(view, quantized={"depth": broken})).frames[0].quantized)
    assert shown[0, 3].tolist() == list(images.NOT_FINITE)


def test_large_frames_are_reduced_and_many_are_cut(view: SceneView) -> None:
    many = replace(view, images=np.zeros((11, 3, 30, 700), np.float32), fp32={}, quantized={})
    sheet = images.depth_sheet(many)
    assert (len(sheet.frames), sheet.left_out) == (images.MAX_FRAMES, 3)
    assert pixels(sheet.frames[0].image).shape[1] == images.LONGEST_SIDE


def test_palettes_grow_lighter_all_the_way() -> None:
    """Perceptual: more is always lighter, also in grey."""
    for name in (images.DEPTH_COLORS, images.ERROR_COLORS):
        luminance = images.palette(name) @ np.array([0.2126, 0.7152, 0.0722])
        assert (np.diff(luminance) > -1).all()
        assert luminance[-1] > luminance[0] + 150
