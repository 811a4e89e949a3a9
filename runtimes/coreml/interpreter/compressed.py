"""The ``constexpr_*`` operations: weights as they are stored, restored to floats.

Two families share names. Up to iOS 17 the parameters are attributes (scale per tensor or along one axis, tables with
indices packed in uint8); from iOS 18 they are arguments (scales by blocks of any shape, tables by groups, indices of
sub-byte types).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from vggt_edge.runtimes.coreml.blob import unpack
from vggt_edge.runtimes.coreml.interpreter.call import Call, kernel

PREFIX = "constexpr_"


def _blocks(call: Call, groups: Sequence[int], shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Shapes in which elements and their blocks broadcast: (g0, b0, g1, b1, ...) and (g0, 1, g1, 1, ...)."""
    if len(groups) != len(shape) or any(own < 1 or size % own for own, size in zip(groups, shape, strict=True)):
        raise call.wrong(f"blocks of {list(groups)} over {list(shape)}", "a divisor of each size")
    pairs = list(zip(groups, shape, strict=True))
    elements = [part for own, size in pairs for part in (own, size // own)]
    return elements, [part for own, _ in pairs for part in (own, 1)]


def along_axis(call: Call, value: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A scalar as it is, a vector laid along ``axis``."""
    if value.dim() == 0:
        call.ignore("axis")
        return value
    axis = call.axis("axis", len(shape))
    if value.dim() != 1 or value.shape[0] not in (1, shape[axis]):
        raise call.wrong(f"parameters of shape {list(value.shape)} for axis {axis} of {list(shape)}", "one per element")
    return value.reshape([-1] + [1] * (len(shape) - 1 - axis))


@kernel("constexpr_blockwise_shift_scale")
def blockwise_shift_scale(call: Call) -> torch.Tensor:
    """``scale * (data - offset)``."""
    stored, scale = call.tensor("data"), call.floats("scale")
    elements, blocks = _blocks(call, scale.shape, stored.shape)
    data = stored.to(torch.float32).reshape(elements)
    if call.has("offset"):
        offset = call.tensor("offset").to(torch.float32)
        if offset.shape != scale.shape:
            raise call.wrong(f"offset {list(offset.shape)} and scale {list(scale.shape)}", "the same shape")
        data = data - offset.reshape(blocks)
    return (data * scale.reshape(blocks)).reshape(stored.shape)


@kernel("constexpr_affine_dequantize")
def affine_dequantize(call: Call) -> torch.Tensor:
    """``scale * (quantized_data - zero_point)``, both scalars or along ``axis``."""
    data = call.tensor("quantized_data").to(torch.float32)
    zero, scale = call.tensor("zero_point").to(torch.float32), call.floats("scale")
    return (data - along_axis(call, zero, data.shape)) * along_axis(call, scale, data.shape)


@kernel("constexpr_cast")
def constexpr_cast(call: Call) -> torch.Tensor:
    """FP16 weights as FP32."""
    call.choice("output_dtype", "fp32", {"fp32"})
    return call.floats("source_val")


@kernel("constexpr_lut_to_dense")
def lut_to_dense(call: Call) -> torch.Tensor:
    """Weights out of a table: one of the whole tensor, or one for each group of channels."""
    return _flat_table(call) if call.has("shape") else _grouped_table(call)


def _flat_table(call: Call) -> torch.Tensor:
    """iOS 16: one table, indices packed in bytes."""
    lut, packed = call.tensor("lut"), call.tensor("indices")
    shape = call.reserve(call.integers("shape"))
    count = math.prod(shape)
    bits = lut.numel().bit_length() - 1
    if bits not in (1, 2, 4, 6, 8) or lut.shape != (1 << bits,):
        raise call.wrong(f"a table of shape {list(lut.shape)}", "2, 4, 16, 64 or 256 entries")
    if packed.dtype != torch.uint8 or packed.numel() != -(-count * bits // 8):
        raise call.wrong(f"{packed.numel()} bytes of indices", f"{count} indices of {bits} bits")
    indices = torch.from_numpy(unpack(np.asarray(packed), bits, count).astype(np.int64))
    return lut[indices].reshape(shape)


def _grouped_table(call: Call) -> torch.Tensor:
    """iOS 18: lut (*groups, entries, 1); a group is a block of the indices."""
    indices, lut = call.tensor("indices"), call.tensor("lut")
    if lut.dim() != indices.dim() + 2 or indices.is_floating_point():
        raise call.wrong(f"a table of rank {lut.dim()} for indices of rank {indices.dim()}", "two more")
    if lut.shape[-1] != 1:
        raise call.lacks(f"tables of vectors (of {lut.shape[-1]} elements)", "tables of single values")
    call.ignore("vector_axis")
    entries = lut.shape[-2]
    if indices.numel() and int(indices.max()) >= entries:
        raise call.wrong(f"index {int(indices.max())} of a table of {entries} entries", "smaller indices")
    groups = lut.shape[:-2]
    elements, blocks = _blocks(call, groups, indices.shape)
    starts = torch.arange(math.prod(groups), dtype=torch.int32).reshape(blocks) * entries
    places = indices.to(torch.int32).reshape(elements) + starts
    return lut.reshape(-1)[places].reshape(indices.shape)


@kernel("constexpr_sparse_to_dense")
def sparse_to_dense(call: Call) -> torch.Tensor:
    """The values where the mask is set, zeros elsewhere."""
    values, mask = call.tensor("nonzero_data"), call.tensor("mask")
    if call.has("shape"):
        shape = call.reserve(call.integers("shape"))
        count = math.prod(shape)
        if mask.dtype != torch.uint8 or mask.numel() != -(-count // 8):
            raise call.wrong(f"a mask of {mask.numel()} bytes", f"{count} bits")
        mask = torch.from_numpy(unpack(np.asarray(mask), 1, count)).reshape(shape)
    dense = torch.zeros(mask.shape, dtype=values.dtype)
    if int(torch.count_nonzero(mask)) != values.numel():
        raise call.wrong(f"{values.numel()} values for {int(torch.count_nonzero(mask))} places", "as many")
    dense[mask != 0] = values.reshape(-1)
    return dense
