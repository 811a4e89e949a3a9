"""How numbers of the program become torch tensors, and what an operation's result is rounded to."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from vggt_edge.runtimes.coreml.mil import NUMPY_TYPES, TensorType

Precision: TypeAlias = Literal["fp16", "fp32"]

_TORCH_TYPES = {
    np.bool_: torch.bool,
    np.int8: torch.int8,
    np.uint8: torch.uint8,
    np.int16: torch.int16,
    np.uint16: torch.int32,  # torch has next to no kernels for uint16
    np.int32: torch.int32,
    np.uint32: torch.int64,
    np.int64: torch.int64,
    np.uint64: torch.int64,
}


def torch_type(dtype: str) -> torch.dtype:
    """The type in which the interpreter holds a declared type; float32 for every float."""
    return _TORCH_TYPES.get(NUMPY_TYPES[dtype], torch.float32)


def held_type(dtype: str) -> np.dtype[Any]:
    """``torch_type`` in numpy."""
    return torch.empty(0, dtype=torch_type(dtype)).numpy().dtype


def to_torch(array: npt.NDArray[Any], declared: TensorType) -> torch.Tensor:
    """A tensor of its own: the array may be a view of a mapped file."""
    return torch.from_numpy(np.array(array, dtype=held_type(declared.dtype), order="C"))


def settle(value: torch.Tensor, declared: TensorType, precision: Precision) -> torch.Tensor | None:
    """The result as its declared type holds it; None where kind or shape contradict the declaration."""
    if value.dim() != len(declared.shape) or any(
        size not in (-1, actual) for size, actual in zip(declared.shape, value.shape, strict=True)
    ):
        return None
    target = torch_type(declared.dtype)
    if value.is_floating_point() != (target is torch.float32) or (value.dtype is torch.bool) != (target is torch.bool):
        return None
    if target is torch.float32 and declared.dtype == "fp16" and precision == "fp16":
        return value.to(torch.float16).to(torch.float32)
    return value.to(target)
