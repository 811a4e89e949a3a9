"""Compressed weights, restored from the saved file, against numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.runtimes.coreml.interpreter import MilSession
from vggt_edge.runtimes.coreml.sdk import load_coremltools

Array = np.ndarray
RANGES = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128), "uint8": (0, 256)}


@pytest.fixture(scope="session")
def narrow(ct: Any) -> Callable[[Array, str], Array]:
    """Marks an array of small integers with the type that the file shall store."""
    types = load_coremltools("coremltools.converters.mil.mil.types")

    def mark(array: Array, dtype: str) -> Array:
        marked: Array = array.astype(types.nptype_from_builtin(types.string_to_builtin(dtype)))
        return marked

    return mark


@pytest.fixture(scope="session")
def restore(save: Callable[..., Path]) -> Callable[..., Array]:
    """The array that a constexpr operation of these parameters restores."""

    def run(op: str, ios: int = 18, precision: Any = "fp32", **parameters: Any) -> Array:
        def body(mb: Any, x: Any) -> Any:
            getattr(mb, op)(name="weight", **parameters)
            return mb.identity(x=x)

        session = MilSession(save(body, {"x": ((1,), "fp32")}, ios), precision)
        return session.run({"x": np.zeros(1, np.float32)}, also=["weight"])["weight"]

    return run


def _repeated(array: Array, shape: tuple[int, ...]) -> Array:
    for axis, size in enumerate(shape):
        array = np.repeat(array, size // array.shape[axis], axis)
    return array


@settings(deadline=None, max_examples=40)
@given(data=st.data(), dtype=st.sampled_from(sorted(RANGES)), half=st.booleans())
def test_blocks(
    data: st.DataObject, dtype: str, half: bool, restore: Callable[..., Array], narrow: Callable[..., Array]
) -> None:
    """Blocks of any shape (a tensor, a channel, a group, one element), with and without an offset."""
    rank = data.draw(st.integers(1, 4))
    groups = tuple(data.draw(st.integers(1, 3)) for _ in range(rank))
    shape = tuple(count * data.draw(st.integers(1, 4)) for count in groups)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    stored = random.integers(*RANGES[dtype], shape)
    scale = random.uniform(0.01, 2.0, groups).astype(np.float16 if half else np.float32)
    parameters = {"data": narrow(stored, dtype), "scale": scale}
    shift = np.zeros(groups, np.float32)
    kind = data.draw(st.sampled_from(["none", "stored", "float"]))
    if kind == "stored":
        shift = random.integers(*RANGES[dtype], groups)
        parameters["offset"] = narrow(shift, dtype)
    elif kind == "float":
        shift = random.uniform(-4, 4, groups).astype(scale.dtype)
        parameters["offset"] = shift
    expected = _repeated(scale.astype(np.float32), shape) * (stored - _repeated(shift.astype(np.float32), shape))
    assert_allclose(restore("constexpr_blockwise_shift_scale", **parameters), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("ios", [16, 17])
def test_affine(dtype: str, axis: int | None, ios: int, restore: Callable[..., Array]) -> None:
    """The form before iOS 18: parameters are attributes, scalars or along one axis."""
    random = np.random.default_rng(0)
    stored = random.integers(*RANGES[dtype], (6, 5)).astype(dtype)
    size = () if axis is None else stored.shape[axis]
    scale = random.uniform(0.01, 2.0, size).astype(np.float32)
    zero = random.integers(*RANGES[dtype], size).astype(dtype)
    laid = (-1, 1) if axis == 0 else (1, -1)
    expected = scale.reshape(laid) * (stored.astype(np.float32) - zero.reshape(laid))
    result = restore(
        "constexpr_affine_dequantize", ios, quantized_data=stored, scale=scale, zero_point=zero, axis=axis or 0
    )
    assert_allclose(result, expected, rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), bits=st.sampled_from([1, 2, 3, 4, 6, 8]), half=st.booleans())
def test_tables(
    data: st.DataObject, bits: int, half: bool, restore: Callable[..., Array], narrow: Callable[..., Array]
) -> None:
    """One table per tensor or per group of channels, whatever their shape."""
    rank = data.draw(st.integers(1, 4))
    groups = tuple(data.draw(st.integers(1, 3)) for _ in range(rank))
    shape = tuple(count * data.draw(st.integers(1, 4)) for count in groups)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    indices = random.integers(0, 2**bits, shape)
    lut = random.standard_normal((*groups, 2**bits, 1)).astype(np.float16 if half else np.float32)
    expected = np.empty(shape, np.float32)
    for place in np.ndindex(shape):
        group = tuple(at * count // size for at, count, size in zip(place, groups, shape, strict=True))
        expected[place] = lut[(*group, indices[place], 0)]
    assert_array_equal(restore("constexpr_lut_to_dense", indices=narrow(indices, f"uint{bits}"), lut=lut), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("ios", [16, 17])
def test_packed_tables(bits: int, ios: int, restore: Callable[..., Array]) -> None:
    """The form before iOS 18: indices packed in bytes from the lowest bit up."""
    random = np.random.default_rng(bits)
    shape = (7, 5)
    indices, lut = random.integers(0, 2**bits, shape), random.standard_normal(2**bits).astype(np.float16)
    stream = ((indices.reshape(-1, 1) >> np.arange(bits)) & 1).reshape(-1)
    packed = np.packbits(stream.astype(np.uint8), bitorder="little")
    result = restore("constexpr_lut_to_dense", ios, indices=packed, lut=lut, shape=np.array(shape, np.uint32))
    assert_array_equal(result, lut[indices].astype(np.float32))


def test_vector_tables_are_refused(restore: Callable[..., Array], narrow: Callable[..., Array]) -> None:
    """Tables of vectors are named as what the interpreter lacks."""
    lut = np.zeros((1, 1, 4, 2), np.float32)
    with pytest.raises(LoweringError, match=r"constexpr_lut_to_dense weight: .* tables of vectors \(of 2 elements\)"):
        restore("constexpr_lut_to_dense", indices=narrow(np.zeros((4, 4)), "uint2"), lut=lut, vector_axis=0)


@pytest.mark.parametrize("ios", [16, 18])
def test_sparse(ios: int, restore: Callable[..., Array], narrow: Callable[..., Array]) -> None:
    """Zeros where the mask is not set."""
    dense = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    kept = dense > 0
    parameters: dict[str, Any] = {"mask": narrow(kept, "uint1")}
    if ios == 16:
        packed = np.packbits(kept.reshape(-1), bitorder="little")
        parameters = {"mask": packed, "shape": np.array(dense.shape, np.uint32)}
    result = restore("constexpr_sparse_to_dense", ios, nonzero_data=dense[kept], **parameters)
    assert_array_equal(result, np.where(kept, dense, 0))


def test_cast(restore: Callable[..., Array]) -> None:
    """FP16 in the file, FP32 in the program."""
    stored = np.random.default_rng(0).standard_normal(20).astype(np.float16)
    assert_array_equal(restore("constexpr_cast", 16, source_val=stored, output_dtype="fp32"), stored.astype(np.float32))


def test_scales_may_be_compressed(save: Callable[..., Path], narrow: Callable[..., Array]) -> None:
    """A constant made of constants: the tables of a palette, themselves in 8 bits."""
    random = np.random.default_rng(0)
    indices, steps = random.integers(0, 16, (4, 6)), random.integers(-128, 128, (2, 1, 16, 1))

    def body(mb: Any, x: Any) -> Any:
        scale = np.full((1, 1, 1, 1), 0.5, np.float32)
        lut = mb.constexpr_blockwise_shift_scale(data=steps.astype(np.int8), scale=scale)
        weight = mb.constexpr_lut_to_dense(indices=narrow(indices, "uint4"), lut=lut)
        return mb.linear(x=x, weight=weight)

    x = random.standard_normal((3, 6)).astype(np.float32)
    weight = np.stack([steps[row // 2, 0, indices[row], 0] * 0.5 for row in range(4)])
    (result,) = MilSession(save(body, {"x": (x.shape, "fp32")}), "fp32").run({"x": x}).values()
    assert_allclose(result, x @ weight.T, rtol=1e-4, atol=1e-4)


def test_half_precision_weights_are_rounded_in_fp16_only(restore: Callable[..., Array]) -> None:
    """In FP32 a weight is what the file stores, in FP16 what the device's weight holds."""
    random = np.random.default_rng(0)
    stored, scale = random.integers(-128, 128, (8, 16)).astype(np.int8), random.uniform(1, 2, (8, 1)).astype(np.float16)
    exact = stored * scale.astype(np.float32)
    parameters = {"data": stored, "scale": scale}
    assert_array_equal(restore("constexpr_blockwise_shift_scale", **parameters), exact)
    rounded = restore("constexpr_blockwise_shift_scale", precision="fp16", **parameters)
    assert_array_equal(rounded, exact.astype(np.float16).astype(np.float32))
    assert not np.array_equal(rounded, exact)


def test_blocks_that_do_not_divide(save: Callable[..., Path]) -> None:
    """A scale whose shape is edited afterwards is found out."""

    def body(mb: Any, x: Any) -> Any:
        scale = np.ones((2, 1), np.float32)
        weight = mb.constexpr_blockwise_shift_scale(data=np.ones((4, 6), np.int8), scale=scale, name="weight")
        return mb.linear(x=x, weight=weight)

    path = save(body, {"x": ((3, 6), "fp32")})
    model = path / "Data/com.apple.CoreML/model.mlmodel"
    spec = load_coremltools("coremltools.proto.Model_pb2").Model.FromString(model.read_bytes())
    (operation,) = (
        operation
        for operation in spec.mlProgram.functions["main"].block_specializations["CoreML8"].operations
        if operation.type == "constexpr_blockwise_shift_scale"
    )
    value = operation.inputs["scale"].arguments[0].value
    value.type.tensorType.dimensions[0].constant.size = 3
    value.immediateValue.tensor.floats.values[:] = [1.0] * 3
    model.write_bytes(spec.SerializeToString())
    with pytest.raises(InputError, match=r"weight: blocks of \[3, 1\] over \[4, 6\]"):
        MilSession(path, "fp32").run({"x": np.zeros((3, 6), np.float32)})
    assert math.prod((4, 6)) % 3 == 0, "the count alone would not show it"
