"""Linears and convolutions in a form: what they compute here is what the exported graph computes.

Each holds its weight as it is stored, in buffers, and restores it in ``forward`` with operators that ``torch.export``
keeps (quantization/operators.py). Weights keep torch's layout; biases stay FP32. Only the input of the layer is
quantized, never its output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.quantization.form import Form
from vggt_edge.calibration.quantization.operators import dequantize_palette, restore_channels, restore_groups
from vggt_edge.calibration.quantization.palette import nearest_index, palettize
from vggt_edge.calibration.scheme import FP32, NumberType

Source: TypeAlias = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...]
    transposed: bool

    @classmethod
    def of(cls, source: Source) -> Geometry | None:
        """None for a linear."""
        if isinstance(source, nn.Linear):
            return None
        if isinstance(source.padding, str) or source.padding_mode != "zeros":
            raise ValueError(f"padding {source.padding!r} of mode {source.padding_mode!r} has no quantized form")
        transposed = isinstance(source, nn.ConvTranspose2d)
        return cls(source.stride, source.padding, source.dilation, source.groups, source.output_padding, transposed)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.transposed:
            return functional.conv_transpose2d(
                x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
            )
        return functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class StoredLayer(nn.Module):
    """x (..., in), or (N, C, H, W) of a convolution, through its quantized form, then the layer with stored weights.

    input_scale: of a static input, which has one for all of it.
    """

    def __init__(self, source: Source, form: Form, input_scale: float | None = None) -> None:
        super().__init__()
        self.form, self.input_scale = form, input_scale
        self.bias = source.bias
        self.geometry = Geometry.of(source)

    def dequantized(self) -> Tensor:
        """The weight that the layer computes with, FP32."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.form.fake_quantize_input(x, self.input_scale)
        if self.geometry is None:
            return functional.linear(x, self.dequantized(), self.bias)
        return self.geometry.convolve(x, self.dequantized(), self.bias)


class QuantLayer(StoredLayer):
    """Numbers with scales: (n,) per output channel, or (out, groups) of a linear in groups.

    scale: what tuning found; else it follows from the largest magnitudes. weight_scale: the value of a stored 1.
    """

    weight_q: Tensor
    weight_scale: Tensor

    def __init__(
        self, source: Source, form: Form, *, input_scale: float | None = None, scale: Tensor | None = None
    ) -> None:
        super().__init__(source, form, input_scale)
        weight = source.weight.detach().to(torch.float32)
        scale = form.scale_of(weight) if scale is None else scale
        self.register_buffer("weight_q", form.quantize(weight, scale))
        self.register_buffer("weight_scale", scale * form.range.unit)

    def dequantized(self) -> Tensor:
        stored, scale, form = self.weight_q, self.weight_scale, self.form
        if form.group_size is None:
            return restore_channels(stored, scale, form.axis, form.range)
        return restore_groups(stored, scale, form.group_size, form.range)


class PaletteLayer(StoredLayer):
    """Indices into tables of FP16 values. table: what tuning found; else k-means finds one, by ``importance`` (in,)."""

    weight_index: Tensor
    weight_table: Tensor

    def __init__(
        self, source: Source, form: Form, *, importance: Tensor | None = None, table: Tensor | None = None
    ) -> None:
        super().__init__(source, form)
        if table is None:
            index, table = palettize(source.weight, form.weight.bits, form.axis, importance)
        else:
            index = nearest_index(source.weight, table, form.axis)
        self.register_buffer("weight_index", index)
        self.register_buffer("weight_table", table)

    def dequantized(self) -> Tensor:
        restored: Tensor = dequantize_palette(self.weight_index, self.weight_table, self.form.axis)
        return restored


class HalfLayer(StoredLayer):
    """A weight stored as FP16 and computed with in the precision of the input: the device computes FP16."""

    weight_half: Tensor

    def __init__(self, source: Source, form: Form) -> None:
        super().__init__(source, form)
        weight = source.weight.detach()
        half = weight.to(torch.float16)
        if not bool(torch.isfinite(half).all()):
            raise ValueError(f"absolute maximum {float(weight.abs().max()):g} overflows FP16")
        self.register_buffer("weight_half", half)

    def dequantized(self) -> Tensor:
        return self.weight_half.to(torch.float32)


def stored_layer(
    source: nn.Module,
    form: Form,
    *,
    input_scale: float | None = None,
    importance: Tensor | None = None,
    scale: Tensor | None = None,
    table: Tensor | None = None,
) -> nn.Module:
    """``source`` in its form; ``source`` itself where that is FP32.

    ``ValueError`` where a weight is outside what the form can hold.
    """
    if form.weight == FP32:
        return source
    assert isinstance(source, Source)
    if form.weight.type is NumberType.PALETTE:
        return PaletteLayer(source, form, importance=importance, table=table)
    if form.is_quantized:
        return QuantLayer(source, form, input_scale=input_scale, scale=scale)
    return HalfLayer(source, form)
