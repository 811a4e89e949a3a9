"""The operators that restore weights and quantize inputs: torch.export keeps them, and every backend knows them.

``quantized_decomposed.{quantize,dequantize}_per_tensor``, ``quantized_decomposed.dequantize_per_channel``,
``torchao.dequantize_affine`` (groups), ``torchao.{choose_qparams,quantize,dequantize}_affine`` (inputs that are
quantized at run time), and those of ``vggt_edge``, which are defined here: palettes, and floats of 8 and 4 bits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.ao.quantization.fx._decomposed  # registers the quantized_decomposed operators
from torch import Tensor

from vggt_edge.calibration.quantization.ranges import BLOCK, E2M1, E4M3, Range


@contextmanager
def _quiet() -> Iterator[None]:
    """torchao logs about GPU kernels that do not matter here when it is imported."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(previous)


with _quiet():
    import torchao.quantization.quant_primitives  # noqa: F401  registers torchao.dequantize_affine

# Below every scale that an activation can have at run time: a row of zeros must not divide by zero.
DYNAMIC_SCALE_MIN = torch.finfo(torch.float32).smallest_normal


def restore_channels(stored: Tensor, scale: Tensor, axis: int, integers: Range) -> Tensor:
    """The weight that ``stored`` and a scale for each channel of ``axis`` stand for."""
    if isinstance(integers, E4M3):
        restored: Tensor = dequantize_float8(stored, scale, axis)
        return restored
    return torch.ops.quantized_decomposed.dequantize_per_channel(  # type: ignore[no-any-return]
        stored, scale, None, axis, integers.low, integers.high, torch.int8
    )


def restore_groups(stored: Tensor, scale: Tensor, group_size: int, integers: Range) -> Tensor:
    """The weight that ``stored`` and a scale for each group of input channels stand for.

    scale: the value of a stored 1.
    """
    return torch.ops.torchao.dequantize_affine(  # type: ignore[no-any-return]
        stored, [1, group_size], scale, None, torch.int8, *integers.stored_limits
    )


def fake_quantize_static(x: Tensor, scale: float, integers: Range) -> Tensor:
    """The numbers of an activation and back."""
    if isinstance(integers, E4M3):
        rounded: Tensor = float8_input(x, scale)
        return rounded
    limits = (scale, 0, integers.low, integers.high, torch.int8)
    stored = torch.ops.quantized_decomposed.quantize_per_tensor(x, *limits)
    return torch.ops.quantized_decomposed.dequantize_per_tensor(stored, *limits)  # type: ignore[no-any-return]


def fake_quantize_dynamic(x: Tensor, block: list[int], integers: Range) -> Tensor:
    """Asymmetric, as XNNPACK computes it: from the smallest to the largest value of a block, zero always included.

    block: the shape of what shares a scale.
    """
    limits = (torch.int8, integers.low, integers.high)
    scale, zero_point = torch.ops.torchao.choose_qparams_affine(
        x, "ASYMMETRIC", block, *limits, DYNAMIC_SCALE_MIN, torch.float32, torch.int8
    )
    rounded = torch.ops.torchao.quantize_affine(x, block, scale, zero_point, *limits)
    return torch.ops.torchao.dequantize_affine(  # type: ignore[no-any-return]
        rounded, block, scale, zero_point, *limits
    )


@torch.library.custom_op("vggt_edge::dequantize_palette", mutates_args=())
def dequantize_palette(index: Tensor, table: Tensor, axis: int) -> Tensor:
    """uint8 indices, any shape, to float32: row t of ``table`` serves the t-th equal share of ``axis``."""
    moved = index.movedim(axis, 0)
    chosen = table.gather(1, moved.reshape(len(table), -1).long())
    return chosen.reshape(moved.shape).movedim(0, axis).contiguous()


@dequantize_palette.register_fake
def _(index: Tensor, table: Tensor, axis: int) -> Tensor:
    return table.new_empty(index.shape)


@torch.library.custom_op("vggt_edge::dequantize_float8", mutates_args=())
def dequantize_float8(stored: Tensor, scale: Tensor, axis: int) -> Tensor:
    """float8 of any shape to float32, with one scale for each slice along ``axis``."""
    return stored.to(torch.float32) * scale.reshape([-1 if dim == axis else 1 for dim in range(stored.ndim)])


@dequantize_float8.register_fake
def _(stored: Tensor, scale: Tensor, axis: int) -> Tensor:
    return scale.new_empty(stored.shape)


@torch.library.custom_op("vggt_edge::float8_input", mutates_args=())
def float8_input(x: Tensor, scale: float) -> Tensor:
    """An activation to float8 and back."""
    return E4M3().nearest(x / scale) * scale


@float8_input.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape)


def fp4_blocks(x: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """(E2M1 numbers of the shape of x (..., in), E4M3 scales (..., in / 16) of their blocks, in units of ``unit``)."""
    numbers, blocks = E2M1(), x.reshape(*x.shape[:-1], -1, BLOCK)
    scales = E4M3().nearest(blocks.abs().amax(dim=-1) / (numbers.high * unit))
    steps = (scales * unit).unsqueeze(-1)
    # A block whose scale is 0 has values that all round to 0.
    return numbers.nearest(blocks / steps.masked_fill(steps == 0, 1.0)).flatten(-2), scales


@torch.library.custom_op("vggt_edge::float4_input", mutates_args=())
def float4_input(x: Tensor, scale: float) -> Tensor:
    """An activation (..., in) to E2M1 in blocks of 16 channels and back. Blocks' scales are E4M3, times ``scale``."""
    values, scales = fp4_blocks(x, torch.tensor(scale))
    return values * (scales * scale).repeat_interleave(BLOCK, dim=-1)


@float4_input.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape)
