"""The table of kernels: one for each operator of a serialized graph, by the operator's name.

A kernel gets the operator's arguments in their order, without what it writes. Floats are float32 whatever the graph
declares, whole numbers are int64; lists of values are lists of tensors. The session rounds what a kernel returns to the
declared type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.vulkan.graph import Call, TensorValue

Result: TypeAlias = torch.Tensor | Sequence[torch.Tensor]
Kernel: TypeAlias = Callable[..., Result]
KERNELS: dict[str, Kernel] = {}
# Kernels that also want to know what they write: where a value lies decides how wide it is computed.
NEEDS_OUTPUT: set[str] = set()


def kernel(*names: str, needs_output: bool = False) -> Callable[[Kernel], Kernel]:
    """Register a function as the kernel of these operators. needs_output: its first argument is a ``TensorValue``."""

    def register(function: Kernel) -> Kernel:
        for name in names:
            if name in KERNELS:
                raise ValueError(f"two kernels for {name}")
            KERNELS[name] = function
            if needs_output:
                NEEDS_OUTPUT.add(name)
        return function

    return register


def compute(call: Call, arguments: Sequence[Any], written: TensorValue, where: str) -> list[torch.Tensor]:
    """What a call makes of its arguments, with torch's complaints turned into an error that names the call."""
    given = (written, *arguments) if call.name in NEEDS_OUTPUT else tuple(arguments)
    try:
        result = KERNELS[call.name](*given)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise wrong(call, f"cannot be computed: {str(error).splitlines()[0]}", "arguments that fit", where) from error
    return [result] if isinstance(result, torch.Tensor) else list(result)


def wrong(call: Call, what: str, expected: str, where: str) -> LoweringError:
    """The graph contradicts itself."""
    return LoweringError(
        f"operation {call.number}, {call.name}: {what}", where=where, expected=expected, remedy="export it again"
    )
