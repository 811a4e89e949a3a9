"""A saved MIL program as frozen types: what the file says, nothing loaded and nothing run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

# Bits of one stored element.
BITS: Mapping[str, int] = {
    "fp16": 16, "fp32": 32, "fp64": 64,
    "int4": 4, "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6, "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64,
    "bool": 8,
}  # fmt: skip
# What an element becomes in numpy; strings have no fixed size.
NUMPY_TYPES: Mapping[str, type[np.generic]] = {
    "fp16": np.float16, "fp32": np.float32, "fp64": np.float64,
    "int4": np.int8, "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint1": np.uint8, "uint2": np.uint8, "uint3": np.uint8, "uint4": np.uint8, "uint6": np.uint8, "uint8": np.uint8,
    "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "bool": np.bool_, "string": np.str_,
}  # fmt: skip
FLOATS = frozenset({"fp16", "fp32", "fp64"})


@dataclass(frozen=True)
class TensorType:
    """dtype: a key of ``NUMPY_TYPES``. shape: -1 stands for a dimension that only the run knows."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class Source(Protocol):
    """Where the values of a constant lie."""

    @property
    def stored_bytes(self) -> int:
        """Size in the file."""
        ...

    def read(self, declared: TensorType) -> npt.NDArray[Any]:
        """The values, in the declared type."""
        ...


@dataclass(frozen=True)
class Constant:
    """A value of the program. Its numbers are read when ``numpy`` is called, and are not kept."""

    type: TensorType
    source: Source = field(repr=False)

    @property
    def stored_bytes(self) -> int:
        """What it takes in the package."""
        return self.source.stored_bytes

    def numpy(self) -> npt.NDArray[Any]:
        """The values in the declared shape; int4 as int8, other types of less than a byte as uint8. Read-only."""
        return self.source.read(self.type)


class Weights(Protocol):
    """A weight file of the package; ``release`` gives back the memory of what was read."""

    path: Path

    def release(self) -> None:
        """Give back the memory of the mapped file."""
        ...


Argument: TypeAlias = str | Constant


@dataclass(frozen=True)
class Output:
    """Name and type of one result of an operation."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Operation:
    """inputs: by parameter; each is the name of an earlier value or a constant, several for lists such as concat's."""

    type: str
    name: str
    inputs: Mapping[str, tuple[Argument, ...]]
    outputs: tuple[Output, ...]
    attributes: Mapping[str, Constant]

    def reads(self) -> Iterator[str]:
        """The names of the values it reads, repeated as often as they are read."""
        for arguments in self.inputs.values():
            yield from (argument for argument in arguments if isinstance(argument, str))


@dataclass(frozen=True)
class Feature:
    """An input or output as the app sees it.

    kind: ``tensor`` or ``image``. layout: of an image, ``RGB``, ``BGR`` or ``GRAYSCALE``, else empty; its dtype is
    uint8 and its shape (1, channels, height, width).
    """

    name: str
    kind: str
    type: TensorType
    layout: str = ""
    description: str = ""


@dataclass(frozen=True)
class Description:
    """What the model says of itself. user: the free key-value part of the metadata."""

    specification_version: int
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    user: Mapping[str, str]
    short_description: str = ""
    author: str = ""
    license: str = ""
    version: str = ""


@dataclass(frozen=True)
class MilProgram:
    """The ``main`` function of a package: one block in execution order.

    opset: ``CoreML8`` is iOS 18, ``CoreML7`` iOS 17. weights: the files that the constants lie in.
    """

    package: Path
    inputs: Mapping[str, TensorType]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    opset: str
    description: Description
    weights: tuple[Weights, ...]

    def value_types(self) -> dict[str, TensorType]:
        """The type of every value, inputs first."""
        types = dict(self.inputs)
        for operation in self.operations:
            types.update((output.name, output.type) for output in operation.outputs)
        return types
