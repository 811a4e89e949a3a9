"""Resizing against torch, and against the positions that coremltools documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from vggt_edge.devices.errors import LoweringError

SIZES = st.integers(1, 9)


def _numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(height=SIZES, width=SIZES, new_height=SIZES, new_width=SIZES, corners=st.booleans())
def test_bilinear_is_torchs(
    height: int, width: int, new_height: int, new_width: int, corners: bool, run_op: Callable[..., Any]
) -> None:
    """UNALIGN_CORNERS is align_corners=False, STRICT_ALIGN_CORNERS is align_corners=True."""
    x = _numbers(2, 3, height, width)
    expected = F.interpolate(torch.tensor(x), (new_height, new_width), mode="bilinear", align_corners=corners)
    result = run_op(
        "resize_bilinear",
        {"x": x},
        target_size_height=new_height,
        target_size_width=new_width,
        sampling_mode="STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS",
    )
    assert_allclose(result, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "target", "expected"),
    [
        ("DEFAULT", 5, [0.0, 0.4, 0.8, 1.0, 1.0]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("UNALIGN_CORNERS", 5, [0.0, 0.1, 0.5, 0.9, 1.0]),
        ("STRICT_ALIGN_CORNERS", 5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("ALIGN_CORNERS", 6, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ("UNALIGN_CORNERS", 6, [0.0, 0.0, 1 / 3, 2 / 3, 1.0, 1.0]),
        ("DEFAULT", 6, [0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
        ("ALIGN_CORNERS", 1, [0.5]),
        ("STRICT_ALIGN_CORNERS", 1, [0.0]),
    ],
)
def test_documented_positions(mode: str, target: int, expected: list[float], run_op: Callable[..., Any]) -> None:
    """On the pixels 0 and 1 the result is the position itself."""
    x = np.array([[[0.0, 1.0]]], np.float32)
    result = run_op("resize_bilinear", {"x": x}, target_size_height=1, target_size_width=target, sampling_mode=mode)
    assert_allclose(result[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("corners", [False, True])
def test_upsample_bilinear(corners: bool, run_op: Callable[..., Any]) -> None:
    """By factors, with the sampling that torch's align_corners chooses."""
    x = _numbers(1, 2, 3, 4)
    expected = F.interpolate(torch.tensor(x), scale_factor=2, mode="bilinear", align_corners=corners)
    result = run_op("upsample_bilinear", {"x": x}, scale_factor_height=2, scale_factor_width=2, align_corners=corners)
    assert_allclose(result, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_nearest(run_op: Callable[..., Any]) -> None:
    """By size and by factor, as torch's ``nearest``."""
    x = _numbers(1, 2, 3, 5)
    sized = F.interpolate(torch.tensor(x), (7, 4), mode="nearest").numpy()
    assert_allclose(run_op("resize_nearest_neighbor", {"x": x}, target_size_height=7, target_size_width=4), sized)
    scaled = F.interpolate(torch.tensor(x), scale_factor=(2, 3), mode="nearest").numpy()
    assert_allclose(run_op("upsample_nearest_neighbor", {"x": x}, scale_factor_height=2, scale_factor_width=3), scaled)


def test_resize_by_shape(run_op: Callable[..., Any]) -> None:
    """iOS 17's resize; 0 keeps a size. Its nearest mode is not written down, so it is refused."""
    x = _numbers(1, 2, 3, 5)
    parameters = {"shape": [1, 6, 0], "resized_dims": np.uint32(2), "sampling_mode": "UNALIGN_CORNERS"}
    expected = F.interpolate(torch.tensor(x), (6, 5), mode="bilinear", align_corners=False).numpy()
    assert_allclose(run_op("resize", {"x": x}, **parameters), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(LoweringError, match="NEAREST_NEIGHBOR"):
        run_op("resize", {"x": x}, interpolation_mode="NEAREST_NEIGHBOR", **parameters)
