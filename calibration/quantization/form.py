"""What one layer really gets. Whoever rounds, stores, counts, learns or checks a layer asks its ``Form``.

A scheme is what a block is asked to be. A layer of it may have no such form: no group divides its inputs, it is a
convolution, it is too small for a palette, or the user keeps it as it is. ``Form.of`` decides that, and nobody else.
The module imports no torch, so that reading a file back needs none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING

from vggt_edge.calibration.quantization.ranges import (
    BLOCK,
    INPUT_RANGES,
    WEIGHT_RANGES,
    Range,
    ScaleNumbers,
    e4m3_unit,
)
from vggt_edge.calibration.scheme import FP4, SCHEMES, Activation, Numbers, NumberType, Scheme

if TYPE_CHECKING:
    from torch import Tensor, nn

GROUP_SIZES = (32, 64, 128)
TABLE_ROWS = 16  # output channels that share a table of a palette
# Below this many weights a layer has no palette form. The last convolutions of a dense head are as small, and what they
# lose is lost for good: with 8 bits for them (6 kB), vggt-mini in p4a16 keeps points to 22.9 dB, not 12.7, and has a
# cross-head distance of 0.10, not 0.26 (tests/benchmarks/palettes.py).
PALETTE_FROM_WEIGHTS = 4097
_CHANNEL_SCALE_BYTES, _INPUT_SCALE_BYTES, _UNIT_BYTES, _TABLE_VALUE_BYTES = 4, 4, 4, 2
_GROUP_SCALE_BYTES = {ScaleNumbers.FP16: 2, ScaleNumbers.BFLOAT16: 2, ScaleNumbers.E4M3: 1}


class Kind(StrEnum):
    """What a layer does with its weight."""

    LINEAR = "linear"
    CONVOLUTION = "convolution"
    TRANSPOSED = "transposed convolution"


@dataclass(frozen=True)
class LayerShape:
    """A linear or convolution by its weight. in_channels: inputs of a linear's row. weights: how many there are."""

    kind: Kind
    in_channels: int
    out_channels: int
    weights: int

    @classmethod
    def of(cls, layer: nn.Module) -> LayerShape:
        from torch import nn

        weight = layer.get_parameter("weight")
        if isinstance(layer, nn.Linear):
            return cls.of_weight(tuple(weight.shape))
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        kind = Kind.TRANSPOSED if isinstance(layer, nn.ConvTranspose2d) else Kind.CONVOLUTION
        return cls(kind, layer.in_channels, layer.out_channels, weight.numel())

    @classmethod
    def of_weight(cls, shape: tuple[int, ...]) -> LayerShape:
        """Of a linear's weight (out, in), or a convolution's (out, in, ...), by how many dimensions it has."""
        kind = Kind.LINEAR if len(shape) == 2 else Kind.CONVOLUTION
        return cls(kind, shape[1], shape[0], prod(shape))


@dataclass(frozen=True)
class Form:
    """How one layer is stored and what its input goes through.

    scheme: name of the scheme that has these numbers. weight: numbers of the weight. group_size: input channels that
    share a scale; None for one scale per output channel. scale: what scales are stored as; None for a weight without.
    activation: where the scale of a quantized input comes from. input: numbers of the input.
    """

    scheme: str
    kind: Kind
    weight: Numbers
    group_size: int | None
    scale: ScaleNumbers | None
    activation: Activation
    input: Numbers

    @classmethod
    def of(cls, scheme: Scheme, shape: LayerShape, group_size: int | None = None, kept: Scheme | None = None) -> Form:
        """What a layer of this shape gets in a block of ``scheme``.

        group_size: asked for; the scheme's own by default. kept: what the layer stays at, whatever its block gets.
        """
        asked = kept or scheme
        if asked.convolutions is not None and shape.kind is not Kind.LINEAR:
            asked = SCHEMES[asked.convolutions]
        group = _usable_group(asked, shape, group_size)
        is_too_small = asked.weight.type is NumberType.PALETTE and shape.weights < PALETTE_FROM_WEIGHTS
        if is_too_small or (asked.group_size is not None and group is None):
            assert asked.otherwise is not None
            asked = SCHEMES[asked.otherwise]
        return cls(
            scheme=asked.name,
            kind=shape.kind,
            weight=asked.weight,
            group_size=group,
            scale=_scale_numbers(asked, group) if asked.weight in WEIGHT_RANGES else None,
            activation=asked.activation,
            input=asked.input,
        )

    @property
    def is_quantized(self) -> bool:
        """Whether the weight is narrower than the floating-point numbers that layers compute with."""
        return self.weight.bits < 16

    @property
    def range(self) -> Range:
        """The numbers of the weight."""
        return WEIGHT_RANGES[self.weight]

    @property
    def input_range(self) -> Range:
        """Of the quantized input."""
        return INPUT_RANGES[self.input]

    @property
    def axis(self) -> int:
        """The dimension of the output channels in the weight."""
        return 1 if self.kind is Kind.TRANSPOSED else 0

    @property
    def storage(self) -> Form:
        """Equal for forms that store a weight alike, whatever their inputs go through."""
        return replace(self, scheme="", activation=Activation.NONE, input=self.weight)

    def matches(self, weight: Numbers | None, activation: Activation) -> bool:
        """Whether a file that holds these numbers, with inputs quantized so, holds this form."""
        return (weight, activation) == (self.weight, self.activation)

    def stored_bytes(self, shape: LayerShape) -> int:
        """Size of the weight, of its scales, and of an input scale that calibration found."""
        scales = 0
        if self.weight.type is NumberType.PALETTE:
            scales = _TABLE_VALUE_BYTES * table_count(shape.out_channels) << self.weight.bits
        elif self.group_size is not None:
            scales = _GROUP_SCALE_BYTES[self._scale] * shape.weights // self.group_size
            scales += _UNIT_BYTES if self._scale is ScaleNumbers.E4M3 else 0
        elif self.is_quantized:
            scales = _CHANNEL_SCALE_BYTES * shape.out_channels
        if self.activation.is_calibrated:
            scales += _INPUT_SCALE_BYTES
        return (shape.weights * self.weight.bits + 7) // 8 + scales

    def scale_of(self, weight: Tensor, clip: Tensor | float = 1.0) -> Tensor:
        """The scales that the largest magnitudes ask for: (out,) per channel, or (out, groups).

        clip: factor on the largest magnitude that is reached, one number or one per scale.
        """
        from vggt_edge.calibration.quantization import quantize as q

        peaks = q.peaks(weight.detach().float(), self.group_size, self.axis)
        if self._scale is ScaleNumbers.E4M3:
            return q.block_scale_of(weight, peaks * clip)
        return q.scale_of(peaks * clip, self.range.levels, q.ROUNDED[self._scale])

    def stored_scale(self, scale: Tensor) -> Tensor:
        """``scale`` rounded to what is stored."""
        from vggt_edge.calibration.quantization import quantize as q

        return q.ROUNDED[self._scale](scale)

    def spread(self, scale: Tensor, weight: Tensor) -> Tensor:
        """Scales laid out so that they broadcast over ``weight``."""
        from vggt_edge.calibration.quantization import quantize as q

        return q.spread(scale, weight, self.axis)

    def quantize(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The stored numbers of ``weight``; integers of 4 bits are not packed."""
        from vggt_edge.calibration.quantization import quantize as q

        return q.quantize(weight, self.spread(scale, weight), self.range)

    def fake_quantize(self, weight: Tensor, scale: Tensor) -> Tensor:
        """``weight`` rounded to what is stored and restored."""
        spread = self.spread(scale, weight)
        return self.range.nearest(weight / spread) * spread

    def input_scale(self, peak: float) -> float:
        """The scale that calibration gives an input that reaches ``peak``."""
        from vggt_edge.calibration.quantization import quantize as q

        if self.activation is Activation.DYNAMIC_BLOCK:
            return e4m3_unit(peak / self.input_range.high)
        return q.activation_scale(peak, self.input_range)

    def fake_quantize_input(self, x: Tensor, scale: float | None) -> Tensor:
        """x (..., in), or (N, C, H, W) of a convolution, through what it is quantized to and back.

        scale: what calibration found; None leaves an input that needs one as it is. A dynamic input has one for each
        token, each block of it, or each image.
        """
        from vggt_edge.calibration.quantization import operators

        if self.activation is Activation.DYNAMIC_TOKEN:
            return operators.fake_quantize_dynamic(x, self._input_block(x), self.input_range)
        if self.activation is Activation.NONE or scale is None:
            return x
        if self.activation is Activation.DYNAMIC_BLOCK:
            rounded: Tensor = operators.float4_input(x, scale)
            return rounded
        return operators.fake_quantize_static(x, scale, self.input_range)

    def _input_block(self, x: Tensor) -> list[int]:
        """The shape of what shares a dynamic scale."""
        if self.kind is Kind.LINEAR:
            return [*(1 for _ in x.shape[:-1]), x.shape[-1]]
        return [1, *x.shape[1:]]

    @property
    def _scale(self) -> ScaleNumbers:
        if self.scale is None:
            raise ValueError(f"a weight in {self.scheme} has no scale")
        return self.scale


def scheme_with(weight: Numbers | None, activation: Activation) -> str:
    """Name of the scheme with these numbers; a description where there is none. None: weights of something else."""
    if weight is None:
        return "other weights"
    for scheme in SCHEMES.values():
        if (scheme.weight, scheme.activation) == (weight, activation):
            return scheme.name
    return f"{'p' if weight.type is NumberType.PALETTE else 'w'}{weight.bits}{_INPUT_NAMES[activation]}"


def weight_numbers(low: int, high: int) -> Numbers:
    """The numbers of weights that are stored as integers from ``low`` to ``high``."""
    return next(numbers for numbers, limits in WEIGHT_RANGES.items() if limits.stored_limits == (low, high))


_INPUT_NAMES = {
    Activation.NONE: "",
    Activation.STATIC_TENSOR: "a8",
    Activation.DYNAMIC_TOKEN: "a8d",
    Activation.DYNAMIC_BLOCK: "a4",
}


def table_count(channels: int) -> int:
    """How many tables ``channels`` output channels get: one for each ``TABLE_ROWS``, or one where that is uneven."""
    return channels // TABLE_ROWS if channels % TABLE_ROWS == 0 else 1


def _scale_numbers(scheme: Scheme, group: int | None) -> ScaleNumbers:
    if group is not None and scheme.weight == FP4:
        return ScaleNumbers.E4M3
    # XNNPACK multiplies groups with dynamic inputs, and stores their scales so.
    narrow = group is not None and scheme.activation is Activation.DYNAMIC_TOKEN
    return ScaleNumbers.BFLOAT16 if narrow else ScaleNumbers.FP16


def _usable_group(scheme: Scheme, shape: LayerShape, group_size: int | None) -> int | None:
    """The group that a layer gets: the asked one, else the largest smaller one that divides a linear's inputs.

    A block of FP4 has one size. None for a scheme without groups, and where no size fits.
    """
    if scheme.group_size is None or shape.kind is not Kind.LINEAR:
        return None
    largest = group_size or scheme.group_size
    candidates = [size for size in sorted(GROUP_SIZES, reverse=True) if size <= largest]
    if scheme.weight == FP4:
        candidates = [BLOCK]
    return next((size for size in candidates if shape.in_channels % size == 0), None)
