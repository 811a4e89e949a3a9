"""Quantized linears and convolutions: what they compute here is what the exported graph computes.

Each holds its integer (or FP16) weight as a buffer and restores it in ``forward`` with the operators that
``torch.export`` keeps and every backend knows: ``quantized_decomposed.{quantize,dequantize}_per_tensor``,
``quantized_decomposed.dequantize_per_channel`` and ``torchao.dequantize_affine`` (groups); palettes with
``vggt_edge.dequantize_palette``, which is defined here. Inputs that are quantized at run time go through
``torchao.{choose_qparams,quantize,dequantize}_affine``. Weights keep torch's layout; biases stay FP32. Only the input
of the layer is quantized, never its output.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import torch
import torch.ao.quantization.fx._decomposed  # registers the quantized_decomposed operators
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.palette import nearest_index, palettize


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

ACTIVATION_LOW, ACTIVATION_HIGH = q.ACTIVATION_RANGE.low, q.ACTIVATION_RANGE.high


class Dynamic(Enum):
    """In place of a scale: it is taken from the values at run time."""

    SCALE = "dynamic"


DYNAMIC = Dynamic.SCALE
InputScale: TypeAlias = float | Dynamic | None
"""Of a layer's int8 input: a number for all of it, ``DYNAMIC``, or None for an input that stays as it is."""


def fake_quantize_input(x: Tensor, scale: InputScale, block: Sequence[int], bits: int = 8) -> Tensor:
    """Integers of an activation and back. block: the shape of what shares a scale where that is ``DYNAMIC``.

    bits: of dynamic ones; static ones have 8.
    """
    if scale is None:
        return x
    if isinstance(scale, Dynamic):
        return _fake_quantize_dynamic(x, list(block), q.ACTIVATION_RANGES[bits])
    limits = (scale, 0, ACTIVATION_LOW, ACTIVATION_HIGH, torch.int8)
    integers = torch.ops.quantized_decomposed.quantize_per_tensor(x, *limits)
    return torch.ops.quantized_decomposed.dequantize_per_tensor(integers, *limits)  # type: ignore[no-any-return]


def _fake_quantize_dynamic(x: Tensor, block: list[int], integers: q.IntRange) -> Tensor:
    """Asymmetric, as XNNPACK computes it: from the smallest to the largest value of a block, zero always included."""
    limits = (torch.int8, integers.low, integers.high)
    scale, zero_point = torch.ops.torchao.choose_qparams_affine(
        x, "ASYMMETRIC", block, *limits, q.DYNAMIC_SCALE_MIN, torch.float32, torch.int8
    )
    rounded = torch.ops.torchao.quantize_affine(x, block, scale, zero_point, *limits)
    return torch.ops.torchao.dequantize_affine(  # type: ignore[no-any-return]
        rounded, block, scale, zero_point, *limits
    )


def token_block(x: Tensor) -> tuple[int, ...]:
    """Of x (..., features): one token."""
    return (*(1 for _ in x.shape[:-1]), x.shape[-1])


def image_block(x: Tensor) -> tuple[int, ...]:
    """Of x (N, C, H, W): one image."""
    return (1, *x.shape[1:])


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...]

    @classmethod
    def of(cls, source: nn.Conv2d | nn.ConvTranspose2d) -> Geometry:
        if isinstance(source.padding, str) or source.padding_mode != "zeros":
            raise ValueError(f"padding {source.padding!r} of mode {source.padding_mode!r} has no quantized form")
        return cls(source.stride, source.padding, source.dilation, source.groups, source.output_padding)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def convolve_transposed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv_transpose2d(
            x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


def default_scale(weight: Tensor, bits: int, group_size: int | None, axis: int = 0, *, dynamic: bool) -> Tensor:
    """The scale that the largest magnitude of each channel or group asks for. dynamic: see ``QuantWeight``."""
    if group_size:
        return q.group_scale(weight, bits, group_size, group_rounding(dynamic))
    return q.channel_scale(weight, bits, axis)


def group_rounding(dynamic: bool) -> Callable[[Tensor], Tensor]:
    """To the numbers that scales of groups are stored as."""
    return q.bfloat16_nearest if dynamic else q.fp16_ceil


class QuantWeight(nn.Module):
    """Integer weight with its scale: (n,) per output channel, or (out, groups) for a grouped linear.

    bits: 8 or 4. axis: the dimension of the output channels (1 in a transposed convolution). input_scale: with
    ``DYNAMIC``, scales of groups are bfloat16 numbers, since XNNPACK stores them so. scale: what tuning found; else it
    follows from the largest magnitudes.
    """

    weight_q: Tensor
    weight_scale: Tensor

    def __init__(
        self,
        weight: Tensor,
        bits: int,
        group_size: int | None = None,
        axis: int = 0,
        input_scale: InputScale = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.bits, self.group_size, self.axis, self.input_scale = bits, group_size, axis, input_scale
        weight = weight.detach().to(torch.float32)
        if scale is None:
            scale = default_scale(weight, bits, group_size, axis, dynamic=isinstance(input_scale, Dynamic))
        self.register_buffer("weight_q", q.quantize(weight, q.spread(scale, weight, axis), q.WEIGHT_RANGES[bits]))
        self.register_buffer("weight_scale", scale)

    def dequantized(self) -> Tensor:
        limits = q.WEIGHT_RANGES[self.bits]
        if self.group_size is None:
            return torch.ops.quantized_decomposed.dequantize_per_channel(  # type: ignore[no-any-return]
                self.weight_q, self.weight_scale, None, self.axis, limits.low, limits.high, torch.int8
            )
        return torch.ops.torchao.dequantize_affine(  # type: ignore[no-any-return]
            self.weight_q, [1, self.group_size], self.weight_scale, None, torch.int8, limits.low, limits.high
        )


class QuantLinear(QuantWeight):
    """x (..., in) to (..., out); weights of 8 bits per channel or 4 bits per group, input int8 when it has a scale.

    A ``DYNAMIC`` one is taken anew for every token, which is all but the last dimension of x.
    """

    def __init__(
        self,
        source: nn.Linear,
        *,
        bits: int,
        group_size: int | None = None,
        input_scale: InputScale = None,
        input_bits: int = 8,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__(source.weight, bits, group_size, input_scale=input_scale, scale=scale)
        self.bias, self.input_bits = source.bias, input_bits

    def forward(self, x: Tensor) -> Tensor:
        x = fake_quantize_input(x, self.input_scale, token_block(x), self.input_bits)
        return functional.linear(x, self.dequantized(), self.bias)


class QuantConv2d(QuantWeight):
    """x (N, C, H, W); 8-bit weights per output channel, input int8 when it has a scale, a ``DYNAMIC`` one per image."""

    def __init__(self, source: nn.Conv2d, *, input_scale: InputScale = None, scale: Tensor | None = None) -> None:
        super().__init__(source.weight, 8, input_scale=input_scale, scale=scale)
        self.bias = source.bias
        self.geometry = Geometry.of(source)

    def forward(self, x: Tensor) -> Tensor:
        x = fake_quantize_input(x, self.input_scale, image_block(x))
        return self.geometry.convolve(x, self.dequantized(), self.bias)


class QuantConvTranspose2d(QuantWeight):
    """x (N, C, H, W); 8-bit weights per output channel, which is the weight's second dimension."""

    def __init__(
        self, source: nn.ConvTranspose2d, *, input_scale: InputScale = None, scale: Tensor | None = None
    ) -> None:
        super().__init__(source.weight, 8, axis=1, input_scale=input_scale, scale=scale)
        self.bias = source.bias
        self.geometry = Geometry.of(source)

    def forward(self, x: Tensor) -> Tensor:
        x = fake_quantize_input(x, self.input_scale, image_block(x))
        return self.geometry.convolve_transposed(x, self.dequantized(), self.bias)


@torch.library.custom_op("vggt_edge::dequantize_palette", mutates_args=())
def dequantize_palette(index: Tensor, table: Tensor, axis: int) -> Tensor:
    """uint8 indices, any shape, to float32: row t of ``table`` serves the t-th equal share of ``axis``."""
    moved = index.movedim(axis, 0)
    chosen = table.gather(1, moved.reshape(len(table), -1).long())
    return chosen.reshape(moved.shape).movedim(0, axis).contiguous()


@dequantize_palette.register_fake
def _(index: Tensor, table: Tensor, axis: int) -> Tensor:
    return table.new_empty(index.shape)


class PaletteWeight(nn.Module):
    """Indices of ``bits`` into FP16 values. axis: that of the output channels (1 in a transposed convolution).

    table: what tuning found; else k-means finds one.
    """

    weight_index: Tensor
    weight_table: Tensor

    def __init__(
        self,
        weight: Tensor,
        bits: int,
        axis: int = 0,
        importance: Tensor | None = None,
        table: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.bits, self.axis = bits, axis
        if table is None:
            index, table = palettize(weight, bits, axis, importance)
        else:
            index = nearest_index(weight, table, axis)
        self.register_buffer("weight_index", index)
        self.register_buffer("weight_table", table)

    def dequantized(self) -> Tensor:
        restored: Tensor = dequantize_palette(self.weight_index, self.weight_table, self.axis)
        return restored


class PaletteLinear(PaletteWeight):
    def __init__(
        self, source: nn.Linear, *, bits: int, importance: Tensor | None = None, table: Tensor | None = None
    ) -> None:
        super().__init__(source.weight, bits, importance=importance, table=table)
        self.bias = source.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.dequantized(), self.bias)


class PaletteConv2d(PaletteWeight):
    def __init__(self, source: nn.Conv2d, *, bits: int) -> None:
        super().__init__(source.weight, bits)
        self.bias = source.bias
        self.geometry = Geometry.of(source)

    def forward(self, x: Tensor) -> Tensor:
        return self.geometry.convolve(x, self.dequantized(), self.bias)


class PaletteConvTranspose2d(PaletteWeight):
    def __init__(self, source: nn.ConvTranspose2d, *, bits: int) -> None:
        super().__init__(source.weight, bits, axis=1)
        self.bias = source.bias
        self.geometry = Geometry.of(source)

    def forward(self, x: Tensor) -> Tensor:
        return self.geometry.convolve_transposed(x, self.dequantized(), self.bias)


class HalfWeight(nn.Module):
    """A weight stored as FP16 and computed with in the precision of the input: the device computes FP16."""

    weight_half: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        weight = weight.detach()
        half = weight.to(torch.float16)
        if not bool(torch.isfinite(half).all()):
            raise ValueError(f"absolute maximum {float(weight.abs().max()):g} overflows FP16")
        self.register_buffer("weight_half", half)


class HalfLinear(HalfWeight):
    def __init__(self, source: nn.Linear) -> None:
        super().__init__(source.weight)
        self.bias = source.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight_half.to(torch.float32), self.bias)


class HalfConv2d(HalfWeight):
    def __init__(self, source: nn.Conv2d) -> None:
        super().__init__(source.weight)
        self.bias = source.bias
        self.geometry = Geometry.of(source)

    def forward(self, x: Tensor) -> Tensor:
        return self.geometry.convolve(x, self.weight_half.to(torch.float32), self.bias)


class HalfConvTranspose2d(HalfWeight):
    def __init__(self, source: nn.ConvTranspose2d) -> None:
        super().__init__(source.weight)
        self.bias = source.bias
        self.geometry = Geometry.of(source)

    def forward(self, x: Tensor) -> Tensor:
        return self.geometry.convolve_transposed(x, self.weight_half.to(torch.float32), self.bias)
