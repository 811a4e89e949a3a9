"""Values of ``--fuse-io``, and the NV12 frames that stand for a camera's."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_edge.calibration.scenes.camera import FORMATS, CameraFrames, chroma_upsampling
from vggt_edge.calibration.scenes.resize import resize_frame
from vggt_edge.devices.errors import UsageError


@pytest.mark.parametrize("text", ["rgb:1920x1080", "nv12:640x480", "nv12-709-full:16x8192"])
def test_a_description_is_read_as_it_is_written(text: str) -> None:
    assert CameraFrames.parse(text.upper() + " ").text == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1920x1080", "FORMAT:WIDTHxHEIGHT"),
        ("bgr:1920x1080", "formats: rgb, nv12"),
        ("rgb:1920", "FORMAT:WIDTHxHEIGHT"),
        ("rgb:-8x8", "FORMAT:WIDTHxHEIGHT"),
        ("rgb:8x1080", "16 to 8192"),
        ("rgb:9999x1080", "16 to 8192"),
        ("nv12:641x480", "even"),
    ],
)
def test_another_one_is_refused_with_the_form(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CameraFrames.parse(text)


def test_a_crop_of_more_than_half_is_refused() -> None:
    CameraFrames("rgb", 1920, 1080).check_fits((518, 518))
    with pytest.raises(UsageError, match="shows 32%"):
        CameraFrames("rgb", 1080, 1920).check_fits((294, 518))


def test_rgb_frames_become_what_our_preprocessing_makes_of_pictures() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3)).astype(np.uint8)
    camera = CameraFrames("rgb", 60, 40)
    prepared = camera.prepared(camera.of_rgb(pictures), (14, 28))
    assert np.array_equal(prepared[1], resize_frame(pictures[1], 14, 28))


@pytest.mark.parametrize("name", [name for name, yuv in FORMATS.items() if yuv])
def test_plain_colours_survive_nv12(name: str) -> None:
    """So matrix and range are the same on the way there and back, and the order of Cb and Cr."""
    colours = np.array([[0, 0, 0], [255, 255, 255], [200, 40, 90], [30, 160, 220]], np.uint8)
    pictures = np.repeat(np.repeat(colours[:, None, None], 32, 1), 48, 2)
    camera = CameraFrames(name, 48, 32)
    arrays = camera.of_rgb(pictures)
    assert {key: array.shape for key, array in arrays.items()} == camera.inputs(4)
    back = 255 * camera.prepared(arrays, (32, 48)).transpose(0, 2, 3, 1)
    assert np.abs(back - pictures).max() < 3.1


def test_interpolated_chroma_keeps_what_is_flat() -> None:
    weights = chroma_upsampling(64)
    assert np.allclose(weights.sum(axis=1), 1)
    assert np.allclose(weights[4:-4] @ np.arange(32), (np.arange(64)[4:-4] - 0.5) / 2)
