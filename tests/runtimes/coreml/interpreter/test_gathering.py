"""Operations that read and write by index, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from vggt_edge.devices.errors import InputError

Array = np.ndarray
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(), (5,), (2, 2)])
def test_gather(axis: int, shape: tuple[int, ...], run_op: Callable[..., Any]) -> None:
    """numpy.take along the axis."""
    indices = np.random.default_rng(0).integers(0, X.shape[axis], shape).astype(np.int32)
    result = run_op("gather", {"x": X}, indices=indices, axis=axis)
    assert_array_equal(result, np.take(X, indices, axis))


def test_gather_with_batch(run_op: Callable[..., Any]) -> None:
    """Every row of the batch has indices of its own."""
    indices = np.array([[0, 2], [1, 1]], np.int32)
    expected = np.stack([row[index] for row, index in zip(X, indices, strict=True)])
    assert_array_equal(run_op("gather", {"x": X, "indices": indices}, axis=1, batch_dims=1), expected)


def test_gather_counts_from_the_end(run_op: Callable[..., Any]) -> None:
    """Negative indices, as iOS 16 allows them."""
    assert_array_equal(run_op("gather", {"x": X}, ios=16, indices=np.array([-1, 0], np.int32), axis=2), X[..., [-1, 0]])


def test_gather_outside_is_an_error(run_op: Callable[..., Any]) -> None:
    """What a device would read there is undefined, so it is refused and not invented."""
    with pytest.raises(InputError, match="indices from 0 to 3 of an axis of 3") as error:
        run_op("gather", {"x": X, "indices": np.array([0, 3], np.int32)}, axis=1)
    assert "gather" in str(error.value)


def test_gather_along_axis_and_nd(run_op: Callable[..., Any]) -> None:
    """take_along_axis, and indices that are places."""
    along = np.random.default_rng(0).integers(0, 3, (2, 2, 4)).astype(np.int32)
    result = run_op("gather_along_axis", {"x": X, "indices": along}, axis=1)
    assert_array_equal(result, np.take_along_axis(X, along.astype(np.int64), 1))
    places = np.array([[0, 2], [1, 0], [1, 1]], np.int32)
    assert_array_equal(run_op("gather_nd", {"x": X, "indices": places}), X[places[:, 0], places[:, 1]])


@pytest.mark.parametrize("mode", ["add", "update"])
def test_scatter(mode: str, run_op: Callable[..., Any]) -> None:
    """Added to, or written over, what is there."""
    places, updates = np.array([[0, 2], [1, 0]], np.int32), np.full((2, 4), 100, np.float32)
    expected = X.copy()
    for place, update in zip(places, updates, strict=True):
        expected[tuple(place)] = update + (expected[tuple(place)] if mode == "add" else 0)
    result = run_op("scatter_nd", {"data": X, "indices": places, "updates": updates}, mode=mode)
    assert_array_equal(result, expected)
    columns = np.array([[[1, 0, 2, 1]], [[0, 0, 0, 0]]], np.int32)
    values = np.full((2, 1, 4), 50, np.float32)
    old = np.take_along_axis(X, columns.astype(np.int64), 1)
    expected = X.copy()
    np.put_along_axis(expected, columns.astype(np.int64), values + (old if mode == "add" else 0), 1)
    result = run_op("scatter_along_axis", {"data": X, "indices": columns, "updates": values}, axis=1, mode=mode)
    assert_array_equal(result, expected)


def test_slice_update(run_op: Callable[..., Any]) -> None:
    """A slice is written over, the rest stays."""
    update = -np.ones((2, 2, 2), np.float32)
    expected = X.copy()
    expected[:, 1:3, ::2] = update
    result = run_op(
        "slice_update",
        {"x": X, "update": update},
        begin=[0, 1, 0],
        end=[0, 3, 4],
        stride=[1, 1, 2],
        end_mask=[True, False, False],
    )
    assert_array_equal(result, expected)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis: int, run_op: Callable[..., Any]) -> None:
    """The new axis stands where it is asked for."""
    indices = np.array([[0, 2], [1, 0]], np.int32)
    expected = np.moveaxis(np.eye(3, dtype=np.float32)[indices], -1, axis) * 2 - 1
    result = run_op("one_hot", {"indices": indices}, one_hot_vector_size=3, axis=axis, on_value=1.0, off_value=-1.0)
    assert_array_equal(result, expected)


@pytest.mark.parametrize("ascending", [False, True])
def test_sorting(ascending: bool, run_op: Callable[..., Any]) -> None:
    """argsort and topk, both ways."""
    x = np.random.default_rng(0).permutation(24).reshape(4, 6).astype(np.float32)
    order = np.argsort(x if ascending else -x, 1)
    assert_array_equal(run_op("argsort", {"x": x}, axis=1, ascending=ascending), order)
    values, indices = run_op("topk", {"x": x}, k=2, axis=1, ascending=ascending)
    assert_array_equal(indices, order[:, :2])
    assert_array_equal(values, np.take_along_axis(x, order[:, :2], 1))
