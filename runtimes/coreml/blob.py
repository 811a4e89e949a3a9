"""The weight file of a Core ML package (MIL blob storage, version 2), read through a memory map.

A header of 64 bytes (count, version), then for each tensor 64 bytes of metadata and its data, both aligned to 64 bytes.
Numbers are little-endian. Types of less than a byte are packed from the lowest bit up, across byte borders; the
metadata say how many bits at the end are padding. Source: MILBlob/Blob/StorageFormat.hpp and BlobDataType.hpp of
coremltools 9, and files written by it.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.coreml.mil import BITS, NUMPY_TYPES, TensorType

HEADER_BYTES = METADATA_BYTES = ALIGNMENT = 64
VERSION = 2
SENTINEL = 0xDEADBEEF
_HEADER = struct.Struct("<II")
_METADATA = struct.Struct("<IIQQQ")
_TYPES = {
    1: "fp16", 2: "fp32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1", 10: "uint2",
    11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32",
}  # fmt: skip
_REMEDY = "write the package again, or copy it again: the weight file is damaged or cut short"


@dataclass(frozen=True)
class BlobEntry:
    """One tensor's metadata. size: bytes, padding included. start: offset of the data in the file."""

    dtype: str
    size: int
    start: int
    padding_bits: int

    @property
    def elements(self) -> int:
        return (self.size * 8 - self.padding_bits) // BITS[self.dtype]


def unpack(packed: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """``count`` unsigned numbers of ``bits`` (1, 2, 3, 4, 6 or 8) each, packed from the lowest bit up."""
    shared = math.gcd(bits, 8)
    group_bytes, group_values = bits // shared, 8 // shared
    groups = -(-packed.size // group_bytes)
    padded = np.zeros((groups, group_bytes), np.uint8)
    padded.reshape(-1)[: packed.size] = packed
    words: npt.NDArray[Any] = np.zeros(groups, np.uint8 if group_bytes == 1 else np.uint32)
    for index in range(group_bytes):
        words |= padded[:, index].astype(words.dtype) << 8 * index
    values = np.empty((groups, group_values), np.uint8)
    for index in range(group_values):
        values[:, index] = (words >> bits * index) & (2**bits - 1)
    return values.reshape(-1)[:count]


class WeightFile:
    """One weight file, mapped and not loaded. ``InputError`` names what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise self._error(f"cannot read the weight file: {error}") from error
        if len(self._map) < HEADER_BYTES:
            raise self._error(f"the weight file has {len(self._map)} bytes", f"a header of {HEADER_BYTES}")
        self.count, version = _HEADER.unpack_from(self._map)
        if version != VERSION:
            raise self._error(f"the weight file has version {version}", f"version {VERSION}")

    def entry(self, offset: int) -> BlobEntry:
        """The metadata at ``offset``, checked against the file's length."""
        if offset % ALIGNMENT or not HEADER_BYTES <= offset <= len(self._map) - METADATA_BYTES:
            raise self._error(f"no tensor can be stored at offset {offset}", self._range())
        sentinel, code, size, start, padding = _METADATA.unpack_from(self._map, offset)
        if sentinel != SENTINEL:
            raise self._error(f"no tensor starts at offset {offset}: found 0x{sentinel:08x}", f"0x{SENTINEL:08X}")
        if code not in _TYPES:
            raise self._error(f"the tensor at offset {offset} has the unknown type {code}", f"one of {_TYPES}")
        if start < offset + METADATA_BYTES or start + size > len(self._map):
            raise self._error(f"the tensor at offset {offset} claims bytes {start} to {start + size}", self._range())
        if padding >= 8 or padding > size * 8:
            raise self._error(f"the tensor at offset {offset} claims {padding} padding bits", "less than a byte")
        return BlobEntry(_TYPES[code], size, start, padding)

    def check(self, offset: int, declared: TensorType) -> BlobEntry:
        """The metadata at ``offset``, which has to agree with what the program declares."""
        entry = self.entry(offset)
        bits = declared.elements * BITS[declared.dtype]
        if entry.dtype != declared.dtype or bits != entry.size * 8 - entry.padding_bits:
            raise self._error(
                f"the tensor at offset {offset} is {entry.dtype} of {entry.size} bytes, {entry.elements} elements",
                f"{declared}, as the program says",
            )
        return entry

    def read(self, offset: int, declared: TensorType) -> npt.NDArray[Any]:
        """The tensor at ``offset``: a read-only view, or a copy where its type has less than a byte."""
        entry = self.check(offset, declared)
        target = np.dtype(NUMPY_TYPES[entry.dtype])
        bits = BITS[entry.dtype]
        if bits >= 8:
            flat = np.frombuffer(self._map, target.newbyteorder("<"), declared.elements, entry.start)
            return flat.reshape(declared.shape)
        packed = np.frombuffer(self._map, np.uint8, entry.size, entry.start)
        values = unpack(packed, bits, declared.elements)
        if entry.dtype == "int4":
            return ((values ^ 8).astype(np.int8) - np.int8(8)).reshape(declared.shape)
        return values.reshape(declared.shape)

    def release(self) -> None:
        """Give the mapped pages back; what is read later is mapped again, views stay valid."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _range(self) -> str:
        return f"a multiple of {ALIGNMENT} inside the file's {len(self._map)} bytes"

    def _error(self, what: str, expected: str = "the weight file of a Core ML package") -> InputError:
        return InputError(what, where=str(self.path), expected=expected, remedy=_REMEDY)
