"""One operation with its arguments resolved, and the table of the kernels that compute it.

A kernel gets floats as float32 whatever the program declares, int8/int4 as int8, unsigned types of up to a byte as
uint8, int16 as int16, uint16 and int32 as int32, the rest as int64, bool as bool. What it returns is brought to the
declared type by ``numbers.settle``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from vggt_edge.devices.errors import InputError, LoweringError, ResourceError
from vggt_edge.runtimes.coreml.mil import Operation, TensorType

Value: TypeAlias = torch.Tensor | str
Result: TypeAlias = torch.Tensor | Sequence[torch.Tensor]

# Bytes that one value may take: far above what our models need, far below what would bring a machine down.
MAX_VALUE_BYTES = 1 << 33


@dataclass
class Call:
    """What a kernel sees. ``arguments``: by parameter, attributes of constexpr operations included."""

    operation: Operation
    arguments: Mapping[str, tuple[Value, ...]]
    where: str
    used: set[str] = field(default_factory=set)

    @property
    def declared(self) -> tuple[TensorType, ...]:
        """The types that the program declares for the results."""
        return tuple(output.type for output in self.operation.outputs)

    def has(self, name: str) -> bool:
        """Whether the operation has this argument."""
        return name in self.arguments

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor argument."""
        value = self._single(name)
        if isinstance(value, str):
            raise self.wrong(f"{name} is the string {value!r}", "a tensor")
        return value

    def optional(self, name: str) -> torch.Tensor | None:
        """One tensor argument, or None where it is not given."""
        return self.tensor(name) if self.has(name) else None

    def floats(self, name: str) -> torch.Tensor:
        """One tensor argument, which has to hold floats."""
        value = self.tensor(name)
        if not value.is_floating_point():
            raise self.wrong(f"{name} is {value.dtype}", "floats")
        return value

    def tensors(self, name: str) -> list[torch.Tensor]:
        """A list of tensor arguments."""
        values = self._all(name)
        if any(isinstance(value, str) for value in values):
            raise self.wrong(f"{name} holds strings", "tensors")
        return [value for value in values if not isinstance(value, str)]

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """A list of whole numbers."""
        if not self.has(name) and default is not None:
            return list(default)
        value = self.tensor(name)
        if value.is_floating_point():
            raise self.wrong(f"{name} is {value.dtype}", "integers")
        return [int(number) for number in value.reshape(-1).tolist()]

    def integer(self, name: str, default: int | None = None) -> int:
        """One whole number."""
        values = self.integers(name, None if default is None else (default,))
        if len(values) != 1:
            raise self.wrong(f"{name} has {len(values)} values", "one")
        return values[0]

    def number(self, name: str, default: float | None = None) -> float:
        """One number."""
        if not self.has(name) and default is not None:
            return default
        value = self.tensor(name)
        if value.numel() != 1:
            raise self.wrong(f"{name} has {value.numel()} values", "one")
        return float(value.item())

    def flag(self, name: str, default: bool) -> bool:
        """One truth value."""
        return bool(self.integer(name, int(default)))

    def text(self, name: str, default: str | None = None) -> str:
        """One text."""
        if not self.has(name) and default is not None:
            return default
        value = self._single(name)
        if not isinstance(value, str):
            raise self.wrong(f"{name} is a tensor", "a string")
        return value

    def choice(self, name: str, default: str, known: Iterable[str]) -> str:
        """A string of a closed set; ``LoweringError`` for another one, since Core ML may know more than we do."""
        value = self.text(name, default)
        if value not in known:
            raise self.lacks(f"{name} = {value!r}", f"one of {', '.join(sorted(known))}")
        return value

    def axis(self, name: str, rank: int, default: int | None = None) -> int:
        """One axis of a tensor of this rank, counted from the front."""
        return self.dimension(self.integer(name, default), rank)

    def axes(self, name: str, rank: int, default: Sequence[int] | None = None) -> list[int]:
        """Different axes of a tensor of this rank, counted from the front."""
        axes = [self.dimension(axis, rank) for axis in self.integers(name, default)]
        if len(set(axes)) != len(axes):
            raise self.wrong(f"{name} repeats an axis: {axes}", "different axes")
        return axes

    def dimension(self, axis: int, rank: int) -> int:
        """An axis that may count from the end, as one that counts from the front."""
        if not -rank <= axis < rank:
            raise self.wrong(f"axis {axis} of a tensor of rank {rank}", f"{-rank} to {rank - 1}")
        return axis % rank

    def ignore(self, *names: str) -> None:
        """Parameters that change nothing here."""
        self.used.update(names)

    def reserve(self, shape: Sequence[int]) -> list[int]:
        """The shape, once it is known that a tensor of it can be made."""
        if any(size < 0 for size in shape):
            raise self.wrong(f"a tensor of shape {list(shape)}", "sizes of 0 or more")
        if 4 * math.prod(shape) > MAX_VALUE_BYTES:
            raise ResourceError(
                f"{self.operation.type} {self.operation.name} makes a tensor of shape {list(shape)}",
                where=self.where,
                expected=f"at most {MAX_VALUE_BYTES >> 30} GiB for one value",
                remedy="use a package for fewer or smaller images",
            )
        return list(shape)

    def wrong(self, what: str, expected: str) -> InputError:
        """The program breaks the rules of MIL."""
        return InputError(
            f"{self.operation.type} {self.operation.name}: {what}",
            where=self.where,
            expected=expected,
            remedy="convert the model again",
        )

    def lacks(self, what: str, expected: str) -> LoweringError:
        """The program may be sound, but the interpreter cannot run it."""
        return LoweringError(
            f"{self.operation.type} {self.operation.name}: the MIL interpreter lacks {what}",
            where=self.where,
            expected=expected,
            remedy="lower the model to operations it has, or run the package on a Mac",
        )

    def _all(self, name: str) -> tuple[Value, ...]:
        self.used.add(name)
        if name not in self.arguments:
            raise self.wrong(f"{name} is missing", "all required parameters")
        return self.arguments[name]

    def _single(self, name: str) -> Value:
        values = self._all(name)
        if len(values) != 1:
            raise self.wrong(f"{name} has {len(values)} values", "one")
        return values[0]


Kernel: TypeAlias = Callable[[Call], Result]
KERNELS: dict[str, Kernel] = {}


def kernel(*types: str) -> Callable[[Kernel], Kernel]:
    """Register a function as the kernel of these operation types."""

    def register(function: Kernel) -> Kernel:
        for name in types:
            if name in KERNELS:
                raise ValueError(f"two kernels for {name}")
            KERNELS[name] = function
        return function

    return register
