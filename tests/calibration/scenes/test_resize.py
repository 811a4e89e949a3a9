"""The resize keeps aspect, covers the target, and moves the intrinsics exactly with the pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_edge.calibration.scenes.framing import MODES, Mode, Preprocess
from vggt_edge.calibration.scenes.resize import (
    camera_from_input,
    fit_shape,
    resampling,
    resize_frame,
    resize_intrinsics,
    shown_share,
)
from vggt_edge.devices.errors import InputError, UsageError

sides = st.integers(1, 9000)
long_sides = st.integers(14, 700)
targets = st.integers(1, 8).map(lambda patches: patches * 14)


@given(sides, sides, long_sides)
def test_fit_shape_is_the_best_multiple_of_14(width: int, height: int, long_side: int) -> None:
    fitted_height, fitted_width = fit_shape(width, height, long_side)
    assert fitted_height % 14 == fitted_width % 14 == 0
    assert max(fitted_height, fitted_width) == long_side // 14 * 14
    assert (fitted_width - fitted_height) * (width - height) >= 0

    def misfit(short: int) -> float:
        return abs(math.log(short / max(fitted_height, fitted_width) * max(width, height) / min(width, height)))

    best = min(misfit(short) for short in range(14, long_side + 1, 14))
    assert misfit(min(fitted_height, fitted_width)) == pytest.approx(best, abs=1e-12)


@given(sides, sides, long_sides)
def test_fit_shape_treats_portrait_and_landscape_alike(width: int, height: int, long_side: int) -> None:
    assert fit_shape(width, height, long_side) == fit_shape(height, width, long_side)[::-1]


def test_fit_shape_of_common_sizes() -> None:
    assert fit_shape(1920, 1080, 518) == (294, 518)
    assert fit_shape(640, 800, 518) == (518, 420)
    assert fit_shape(50, 50, 27) == (14, 14)
    assert fit_shape(10_000, 1, 518) == (14, 518)


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0), (-3, 5)])
def test_fit_shape_refuses_a_frame_without_pixels(width: int, height: int) -> None:
    with pytest.raises(InputError, match="no aspect ratio"):
        fit_shape(width, height, 518)


def test_fit_shape_refuses_a_long_side_below_one_patch() -> None:
    with pytest.raises(UsageError, match="too small"):
        fit_shape(10, 10, 13)


@given(st.integers(1, 60), st.integers(1, 60), targets, targets)
def test_resize_gives_the_target_and_stays_in_range(width: int, height: int, out_width: int, out_height: int) -> None:
    image = np.random.default_rng(width * 61 + height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    resized = resize_frame(image, out_height, out_width)
    assert resized.shape == (3, out_height, out_width)
    assert resized.dtype == np.float32
    assert resized.flags.c_contiguous
    assert 0 <= resized.min() <= resized.max() <= 1


def test_resize_to_the_own_size_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 42, 3)).astype(np.uint8)
    np.testing.assert_array_equal(resize_frame(image, 28, 42), image.transpose(2, 0, 1) / np.float32(255))


def test_resize_crops_the_middle_and_never_pads() -> None:
    """A square target shows the middle square of a wide frame: none of the red margins, all of the green."""
    image = np.zeros((28, 84, 3), np.uint8)
    image[..., 0] = 255
    image[:, 28:56] = (0, 255, 0)
    resized = resize_frame(image, 28, 28)
    assert resized[0].max() == 0
    assert resized[1].min() == 1


@given(st.integers(40, 90), st.integers(40, 90), targets.filter(lambda side: side >= 28), targets, st.data())
def test_intrinsics_follow_the_pixels(
    width: int, height: int, out_width: int, out_height: int, data: st.DataObject
) -> None:
    """A blob painted where a camera sees a point is, after the resize, where the resized camera sees that point."""
    out_height = max(out_height, 28)
    intrinsics = np.array([[50.0, 0, width / 2 + 1.7], [0, 55.0, height / 2 - 2.2], [0, 0, 1]])
    u = width / 2 + data.draw(st.floats(-3, 3))
    v = height / 2 + data.draw(st.floats(-3, 3))
    ray = np.linalg.solve(intrinsics, [u, v, 1.0])
    rows, columns = np.mgrid[:height, :width] + 0.5
    blob = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 2.5**2))
    resized = resize_frame(np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=2), out_height, out_width)[0]
    seen = resize_intrinsics(intrinsics, (height, width), (out_height, out_width)) @ ray
    rows, columns = np.mgrid[:out_height, :out_width] + 0.5
    scale = max(out_width / width, out_height / height)
    weight = resized * ((columns - seen[0]) ** 2 + (rows - seen[1]) ** 2 < (8 * scale) ** 2)
    centroid = [(columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()]
    np.testing.assert_allclose(centroid, seen[:2], atol=0.12 * max(scale, 1))


def test_intrinsics_of_many_cameras_at_once_leave_the_input_alone() -> None:
    intrinsics = np.broadcast_to(np.array([[10.0, 0, 5], [0, 10, 4], [0, 0, 1]]), (3, 3, 3))
    resized = resize_intrinsics(intrinsics, (8, 10), (28, 28))
    np.testing.assert_allclose(resized, np.broadcast_to([[35.0, 0, 14], [0, 35, 14], [0, 0, 1]], (3, 3, 3)))
    assert intrinsics[0, 0, 2] == 5


@pytest.mark.parametrize(
    "image",
    [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)],
)
def test_resize_refuses_what_is_no_rgb_frame(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="not a frame"):
        resize_frame(image, 14, 14)


@pytest.mark.parametrize(("height", "width"), [(0, 14), (14, 0), (-14, 14)])
def test_resize_refuses_a_target_without_pixels(height: int, width: int) -> None:
    with pytest.raises(UsageError, match="whole patches"):
        resize_frame(np.zeros((5, 5, 3), np.uint8), height, width)


@settings(deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 60), st.integers(1, 60), st.sampled_from(MODES))
def test_two_products_with_constants_are_the_resize(
    width: int, height: int, out_width: int, out_height: int, mode: Mode
) -> None:
    """The law holds in exact arithmetic. TensorRT has no antialiased Resize, but it multiplies matrices."""
    frame = np.random.default_rng(width * 301 + height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    rule = Preprocess(mode, patch=4)
    matrices = resampling((height, width), (out_height, out_width), rule)

    def rounded(sums: np.ndarray) -> np.ndarray:
        return np.clip(np.floor(sums + 0.5), 0, 255)

    steps = [
        lambda x: rounded(x @ matrices.columns.astype(float).T),
        lambda x: rounded(matrices.rows.astype(float) @ x),
    ]
    levels = frame.transpose(2, 0, 1).astype(float)
    for step in reversed(steps) if matrices.rows_first else steps:
        levels = step(levels)
    levels = levels if matrices.white is None else levels + matrices.white
    assert np.array_equal(levels, np.round(255 * resize_frame(frame, out_height, out_width, rule)))


@given(st.integers(20, 4000), st.integers(20, 4000), targets, targets, st.sampled_from(MODES))
def test_intrinsics_find_back_to_the_camera(
    width: int, height: int, out_width: int, out_height: int, mode: Mode
) -> None:
    camera = np.array([[900.0, 0, 311], [0, 910.0, 233], [0, 0, 1]])
    sizes, rule = ((height, width), (out_height, out_width)), Preprocess(mode)
    ours = resize_intrinsics(camera, *sizes, rule)
    assert np.allclose(camera_from_input(*sizes, rule) @ ours, camera)


def test_the_share_that_a_crop_leaves() -> None:
    assert shown_share((1080, 1920), (518, 518)) == pytest.approx(1080 / 1920)
    assert shown_share((518, 518), (259, 259)) == 1
