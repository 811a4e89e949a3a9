"""Operations that move elements, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

Array = np.ndarray
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def _counted(*shape: int) -> Array:
    """Every element differs, so that a wrong order shows."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [([6, 4], (6, 4)), ([-1, 8], (3, 8)), ([0, -1], (2, 12)), ([0, 0, 4], (2, 3, 4)), ([24], (24,))],
)
def test_reshape(shape: list[int], expected: tuple[int, ...], run_op: Callable[..., Any]) -> None:
    """-1 is what is left, 0 keeps the size where the rank stays."""
    if shape == [0, -1]:
        assert_array_equal(run_op("reshape", {"x": _counted(2, 12)}, shape=shape), _counted(2, 12))
    else:
        assert_array_equal(run_op("reshape", {"x": _counted(2, 3, 4)}, shape=shape), _counted(*expected))


@settings(deadline=None, max_examples=15)
@given(shape=SHAPES, data=st.data())
def test_transpose(shape: list[int], data: st.DataObject, run_op: Callable[..., Any]) -> None:
    """Any permutation, some axes counted from the end."""
    order = data.draw(st.permutations(range(len(shape))))
    named = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in order]
    x = _counted(*shape)
    assert_array_equal(run_op("transpose", {"x": x}, perm=named), x.transpose(order))


@pytest.mark.parametrize("axes", [[0], [1, 3], [-1], [0, -1], [-2, 0]])
def test_expand_dims(axes: list[int], run_op: Callable[..., Any]) -> None:
    """Axes count in the result."""
    x = _counted(2, 3)
    assert_array_equal(run_op("expand_dims", {"x": x}, axes=axes), np.expand_dims(x, axes))


@pytest.mark.parametrize(("axes", "shape"), [(None, (3, 2)), ([0], (3, 1, 2)), ([-2], (1, 3, 2)), ([0, 1], (3, 1, 2))])
def test_squeeze(axes: list[int] | None, shape: tuple[int, ...], run_op: Callable[..., Any]) -> None:
    """Axes longer than one stay, as in torch."""
    parameters = {} if axes is None else {"axes": axes}
    assert_array_equal(run_op("squeeze", {"x": _counted(1, 3, 1, 2)}, **parameters), _counted(*shape))


@settings(deadline=None, max_examples=30)
@given(shape=SHAPES, data=st.data())
def test_slice_by_index(shape: list[int], data: st.DataObject, run_op: Callable[..., Any]) -> None:
    """Numpy's slices: from either end, past the end, backwards, with masks; squeezed axes vanish."""
    parameters: dict[str, list[Any]] = {
        key: [] for key in ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    }
    cuts: list[Any] = []
    for size in shape:
        first = data.draw(st.integers(0, size - 1))
        last = data.draw(st.integers(first + 1, size))
        step = data.draw(st.sampled_from([1, 1, 2, -1]))
        start_free, end_free, squeezed = (data.draw(st.booleans()) for _ in range(3))
        if step < 0:
            start_free = end_free = True
        if squeezed:
            step, start_free, end_free = 1, False, False
        if data.draw(st.booleans()):
            first -= size
        cuts.append(first if squeezed else slice(None if start_free else first, None if end_free else last, step))
        for key, value in zip(parameters, (first, last, step, start_free, end_free, squeezed), strict=True):
            parameters[key].append(value)
    if all(parameters["squeeze_mask"]):
        parameters["squeeze_mask"][0] = False
        cuts[0] = slice(parameters["begin"][0], parameters["end"][0], 1)
    x = _counted(*shape)
    expected = x[tuple(cuts)]
    assert_array_equal(run_op("slice_by_index", {"x": x}, **parameters), expected)


@pytest.mark.parametrize(
    ("begin", "size"), [([0, 1, 2], [2, 2, 1]), ([1, 0, 0], [-1, -1, 2]), ([-1, 0, -2], [1, 3, 2])]
)
def test_slice_by_size(begin: list[int], size: list[int], run_op: Callable[..., Any]) -> None:
    """-1 takes the rest."""
    x = _counted(2, 3, 4)
    starts = [at % length for at, length in zip(begin, x.shape, strict=True)]
    cut = tuple(slice(at, None if count == -1 else at + count) for at, count in zip(starts, size, strict=True))
    assert_array_equal(run_op("slice_by_size", {"x": x}, begin=begin, size=size), x[cut])


@pytest.mark.parametrize(
    ("axis", "parameters"),
    [(1, {"num_splits": 3}), (-1, {"split_sizes": [1, 3]}), (0, {"num_splits": 2, "split_sizes": [1, 1]})],
)
def test_split(axis: int, parameters: dict[str, Any], run_op: Callable[..., Any]) -> None:
    """Equal parts or given sizes."""
    x = _counted(2, 3, 4)
    cuts = np.cumsum(parameters["split_sizes"])[:-1] if "split_sizes" in parameters else parameters["num_splits"]
    results = run_op("split", {"x": x}, axis=axis, **parameters)
    for result, expected in zip(results, np.split(x, cuts, axis), strict=True):
        assert_array_equal(result, expected)


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat_and_stack(axis: int, interleave: bool, save: Callable[..., Any], run_saved: Callable[..., Any]) -> None:
    """Interleaved, the elements of the parts alternate along the axis."""
    a, b = _counted(2, 3, 4), -_counted(2, 3, 4)
    path = save(
        lambda mb, a, b: [
            mb.concat(values=[a, b], axis=axis, interleave=interleave, name="joined"),
            mb.stack(values=[a, b], axis=axis, name="stacked"),
        ],
        {"a": (a.shape, "fp32"), "b": (b.shape, "fp32")},
    )
    joined, stacked = run_saved(path, {"a": a, "b": b})
    expected = np.concatenate([a, b], axis)
    if interleave:
        place = axis % 3
        expected = np.stack([a, b], place + 1).reshape(expected.shape)
    assert_array_equal(joined, expected)
    assert_array_equal(stacked, np.stack([a, b], axis))


@settings(deadline=None, max_examples=10)
@given(shape=SHAPES, data=st.data())
def test_tile(shape: list[int], data: st.DataObject, run_op: Callable[..., Any]) -> None:
    """Each axis is repeated as a whole."""
    reps = [data.draw(st.integers(1, 3)) for _ in shape]
    x = _counted(*shape)
    assert_array_equal(run_op("tile", {"x": x}, reps=reps), np.tile(x, reps))


def test_reverse(run_op: Callable[..., Any]) -> None:
    """Some axes, or all."""
    x = _counted(2, 3, 4)
    assert_array_equal(run_op("reverse", {"x": x}, axes=[0, -1]), x[::-1, :, ::-1])
    assert_array_equal(run_op("reverse", {"x": x}), x[::-1, ::-1, ::-1])


def test_flatten2d_and_shape(save: Callable[..., Any], run_saved: Callable[..., Any]) -> None:
    """Axes before ``axis`` make the rows; ``shape`` is a tensor that reshape can take."""
    x = _counted(2, 3, 4)
    path = save(
        lambda mb, x: [
            mb.flatten2d(x=x, axis=2, name="flat"),
            mb.reshape(x=mb.reshape(x=x, shape=[24]), shape=mb.shape(x=x), name="back"),
            mb.reshape_like(x=x, ref_tensors=(x, x), begins=(2, 0), ends=(0, 2), end_masks=(True, False), name="like"),
        ],
        {"x": (x.shape, "fp32")},
    )
    flat, back, like = run_saved(path, {"x": x})
    assert_array_equal(flat, x.reshape(6, 4))
    assert_array_equal(back, x)
    assert_array_equal(like, x.reshape(4, 2, 3))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize("amounts", [[1, 2], [0, 1, 2, 1]])
def test_pad(amounts: list[int], mode: str, run_op: Callable[..., Any]) -> None:
    """For the last axes, first to last."""
    x = _counted(2, 3, 4)
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    widths = [(0, 0)] * (3 - len(pairs)) + pairs
    style = {"constant": {"constant_values": 7.0}, "reflect": {}, "replicate": {}}[mode]
    expected = np.pad(x, widths, {"replicate": "edge"}.get(mode, mode), **style)
    result = run_op("pad", {"x": x}, pad=amounts, mode=mode, constant_val=7.0)
    assert_array_equal(result, expected)


def test_blocks_of_pixels(run_op: Callable[..., Any]) -> None:
    """pixel_shuffle is torch's; depth_to_space puts the block before the channels; each has its inverse."""
    x = _counted(2, 8, 3, 5)
    shuffled = F.pixel_shuffle(torch.tensor(x), 2).numpy()
    assert_array_equal(run_op("pixel_shuffle", {"x": x}, upscale_factor=2), shuffled)
    assert_array_equal(run_op("pixel_unshuffle", {"x": shuffled}, downscale_factor=np.uint32(2)), x)
    spaced = run_op("depth_to_space", {"x": x}, block_size=2)
    assert_array_equal(spaced[0, 0, :2, :2].reshape(-1), x[0, ::2, 0, 0])
    assert_array_equal(run_op("space_to_depth", {"x": spaced}, block_size=2), x)


@pytest.mark.parametrize(("lower", "upper"), [(-1, 0), (0, -1), (1, 2), (-1, -1)])
def test_band_part(lower: int, upper: int, run_op: Callable[..., Any]) -> None:
    """-1 keeps a whole side of the diagonal."""
    x = _counted(2, 5, 4) + 1
    rows, columns = np.indices((5, 4))
    kept = ((lower < 0) | (rows - columns <= lower)) & ((upper < 0) | (columns - rows <= upper))
    assert_array_equal(run_op("band_part", {"x": x}, lower=lower, upper=upper), np.where(kept, x, 0))
