"""The weight file, read by us, as written by coremltools; and damaged in every interesting place."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.coreml.blob import METADATA_BYTES, WeightFile, unpack
from vggt_edge.runtimes.coreml.mil import BITS, TensorType
from vggt_edge.runtimes.coreml.sdk import load_coremltools

Array = np.ndarray
# What coremltools' writer calls a type, and the range of its numbers.
WRITERS = {
    "uint1": ("uint1", 0, 1),
    "uint2": ("uint2", 0, 3),
    "uint3": ("uint3", 0, 7),
    "uint4": ("uint4", 0, 15),
    "uint6": ("uint6", 0, 63),
    "int4": ("int4", -8, 7),
    "uint8": ("uint8", 0, 255),
    "int8": ("int8", -128, 127),
    "int16": ("int16", -(2**15), 2**15 - 1),
    "uint16": ("uint16", 0, 2**16 - 1),
    "int32": ("int32", -(2**31), 2**31 - 1),
    "uint32": ("uint32", 0, 2**32 - 1),
    "fp16": ("fp16", -1, 1),
    "fp32": ("float", -1, 1),
}
WIDE = {"int16": np.int16, "uint16": np.uint16, "int32": np.int32, "uint32": np.uint32}


@pytest.fixture(scope="session")
def storage() -> Any:
    """coremltools' own writer and reader of weight files."""
    return load_coremltools("coremltools.libmilstoragepython")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blobs")


def _numbers(dtype: str, count: int, seed: int) -> Array:
    random = np.random.default_rng(seed)
    _, low, high = WRITERS[dtype]
    if dtype.startswith("fp"):
        return random.standard_normal(count).astype(np.float16 if dtype == "fp16" else np.float32)
    narrow = np.int8 if dtype.startswith("int") else np.uint8
    return random.integers(low, high, count, endpoint=True).astype(WIDE.get(dtype, narrow))


def _write(writer: Any, dtype: str, numbers: Array) -> int:
    stored = numbers.view(np.uint16) if dtype == "fp16" else numbers
    offset: int = getattr(writer, f"write_{WRITERS[dtype][0]}_data")(np.ascontiguousarray(stored))
    return offset


@settings(deadline=None, max_examples=40)
@given(parts=st.lists(st.tuples(st.sampled_from(sorted(WRITERS)), st.integers(1, 70)), min_size=1, max_size=4))
def test_reads_what_coremltools_writes(parts: list[tuple[str, int]], storage: Any, folder: Path) -> None:
    """Every type and length, several in one file, those of less than a byte across byte borders."""
    path = folder / "weight.bin"
    path.unlink(missing_ok=True)
    writer = storage._BlobStorageWriter(str(path))
    written = [_numbers(dtype, count, seed) for seed, (dtype, count) in enumerate(parts)]
    offsets = [_write(writer, dtype, numbers) for (dtype, _), numbers in zip(parts, written, strict=True)]
    del writer
    file = WeightFile(path)
    assert file.count == len(parts)
    for (dtype, count), numbers, offset in zip(parts, written, offsets, strict=True):
        assert file.entry(offset).elements == count
        assert_array_equal(file.read(offset, TensorType(dtype, (count,))), numbers)
    file.release()
    assert_array_equal(file.read(offsets[0], TensorType(parts[0][0], (1, parts[0][1]))).reshape(-1), written[0])


@settings(deadline=None, max_examples=30)
@given(bits=st.sampled_from([1, 2, 3, 4, 6, 8]), count=st.integers(1, 40), seed=st.integers(0, 9))
def test_unpack_undoes_packing(bits: int, count: int, seed: int) -> None:
    """Numbers laid end to end from the lowest bit up come back."""
    numbers = np.random.default_rng(seed).integers(0, 2**bits, count)
    stream = ((numbers.reshape(-1, 1) >> np.arange(bits)) & 1).reshape(-1).astype(np.uint8)
    assert_array_equal(unpack(np.packbits(stream, bitorder="little"), bits, count), numbers)


def test_wide_types_are_views(storage: Any, tmp_path: Path) -> None:
    """Nothing is copied where a byte holds whole numbers; the view cannot be written."""
    path = tmp_path / "weight.bin"
    writer = storage._BlobStorageWriter(str(path))
    offset = _write(writer, "fp32", np.ones(64, np.float32))
    del writer
    array = WeightFile(path).read(offset, TensorType("fp32", (8, 8)))
    assert not array.flags.owndata
    assert not array.flags.writeable


@pytest.fixture
def damaged(storage: Any, tmp_path: Path) -> Callable[[Callable[[bytearray], Any]], WeightFile]:
    """A file of 50 three-bit numbers at offset 64, its bytes changed."""

    def damage(change: Callable[[bytearray], Any]) -> WeightFile:
        path = tmp_path / "weight.bin"
        writer = storage._BlobStorageWriter(str(path))
        assert _write(writer, "uint3", _numbers("uint3", 50, 0)) == 64
        del writer
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        return WeightFile(path)

    return damage


def _cut(length: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        del data[length:]

    return change


def _put(code: str, offset: int, value: int) -> Callable[[bytearray], None]:
    return lambda data: struct.pack_into(code, data, offset, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut(0), "cannot read the weight file"),
        (_cut(10), "the weight file has 10 bytes"),
        (_put("<I", 4, 1), "version 1"),
        (_cut(64), "no tensor can be stored at offset 64"),
        (_cut(100), "no tensor can be stored at offset 64"),
        (_cut(128), "claims bytes 128 to 147"),
        (_cut(146), "claims bytes 128 to 147"),
        (_put("<I", 64, 0xDEADBEEE), "no tensor starts at offset 64: found 0xdeadbeee"),
        (_put("<I", 68, 99), "unknown type 99"),
        (_put("<I", 68, 3), "is uint8 of 19 bytes"),
        (_put("<Q", 72, 2**63), "claims bytes 128 to"),
        (_put("<Q", 72, 18), "is uint3 of 18 bytes"),
        (_put("<Q", 80, 2**64 - 1), "claims bytes"),
        (_put("<Q", 80, 0), "claims bytes 0 to 19"),
        (_put("<Q", 88, 8), "claims 8 padding bits"),
        (_put("<Q", 88, 1), "is uint3 of 19 bytes"),
    ],
)
def test_damage(change: Callable[[bytearray], Any], message: str, damaged: Callable[..., WeightFile]) -> None:
    """Each kind of damage is named, with the file and what to do."""
    with pytest.raises(InputError, match=message) as error:
        damaged(change).read(64, TensorType("uint3", (50,)))
    assert error.value.where.endswith("weight.bin")
    assert error.value.remedy


@pytest.mark.parametrize("offset", [0, 1, 65, 128, 2**63, 192])
def test_wrong_offsets(offset: int, damaged: Callable[..., WeightFile]) -> None:
    """An offset that is no tensor's is refused, far outside or in the middle of data."""
    with pytest.raises(InputError, match=f"offset {offset}"):
        damaged(lambda data: None).entry(offset)


@pytest.mark.parametrize(
    "declared", [TensorType("uint3", (49,)), TensorType("uint3", (2**40,)), TensorType("uint6", (25,))]
)
def test_size_against_the_declared_shape(declared: TensorType, damaged: Callable[..., WeightFile]) -> None:
    """The program and the file have to agree before anything is read."""
    with pytest.raises(InputError, match="is uint3 of 19 bytes, 50 elements") as error:
        damaged(lambda data: None).read(64, declared)
    assert error.value.expected.startswith(str(declared))


def test_missing_file(tmp_path: Path) -> None:
    """A package without its weights."""
    with pytest.raises(InputError, match="cannot read the weight file"):
        WeightFile(tmp_path / "weight.bin")


def test_every_type_has_bits() -> None:
    """What can be read can be measured."""
    assert set(WRITERS) <= set(BITS)
    assert METADATA_BYTES == 64
