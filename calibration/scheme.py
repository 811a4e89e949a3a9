"""The closed vocabulary of precision schemes: what a block's weights and activations are stored as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from vggt_edge.devices.errors import UnknownNameError


class Activation(StrEnum):
    """How the input of a layer is quantized.

    - NONE: not at all.
    - STATIC_TENSOR: with one scale, which calibration found.
    - DYNAMIC_TOKEN: with a scale for each token, found at run time.
    - DYNAMIC_BLOCK: with a scale for each 16 channels of a token, found at run time. Block scales are E4M3 numbers in
      units of one scale for the whole tensor, which calibration found.
    """

    NONE = "none"
    STATIC_TENSOR = "static_tensor"
    DYNAMIC_TOKEN = "dynamic_token"
    DYNAMIC_BLOCK = "dynamic_block"

    @property
    def is_calibrated(self) -> bool:
        """Whether it needs a scale that calibration found."""
        return self in (Activation.STATIC_TENSOR, Activation.DYNAMIC_BLOCK)

    @property
    def is_dynamic(self) -> bool:
        """Whether it finds scales at run time."""
        return self in (Activation.DYNAMIC_TOKEN, Activation.DYNAMIC_BLOCK)


class NumberType(StrEnum):
    """``palette``: indices into tables of FP16 values (calibration/quantization/palette.py)."""

    INTEGER = "integer"
    FLOAT = "float"
    PALETTE = "palette"


@dataclass(frozen=True)
class Numbers:
    """What one value is stored as."""

    type: NumberType
    bits: int


FP32, FP16 = Numbers(NumberType.FLOAT, 32), Numbers(NumberType.FLOAT, 16)
INT8, INT4 = Numbers(NumberType.INTEGER, 8), Numbers(NumberType.INTEGER, 4)
# E4M3 and E2M1: OCP 8-bit Floating Point Specification 1.0, and Microscaling Formats (MX) 1.0.
FP8, FP4 = Numbers(NumberType.FLOAT, 8), Numbers(NumberType.FLOAT, 4)
PALETTE6, PALETTE4 = Numbers(NumberType.PALETTE, 6), Numbers(NumberType.PALETTE, 4)


@dataclass(frozen=True)
class Scheme:
    """One precision scheme, as it is asked for; what a layer then gets is its ``Form``. Integers have zero point 0.

    weight, input: the numbers that a layer's weight is stored as and its input goes through. activation: where the
    scale of a quantized input comes from. group_size: input channels that share a scale (a plan may carry another
    one); None for one scale per output channel. otherwise: name of the scheme of layers that cannot have this one; None
    where every layer can. convolutions: name of the scheme that those get; None for this one. attention: what both
    products of an attention multiply; None for floats.
    """

    name: str
    weight: Numbers
    activation: Activation
    input: Numbers
    group_size: int | None = None
    otherwise: str | None = None
    convolutions: str | None = None
    attention: Numbers | None = None

    @property
    def weight_bits(self) -> int:
        return self.weight.bits

    @property
    def activation_bits(self) -> int:
        return self.input.bits


_ALL = (
    Scheme("fp32", FP32, Activation.NONE, FP32),
    Scheme("fp16", FP16, Activation.NONE, FP16),
    Scheme("w8a16", INT8, Activation.NONE, FP16),
    Scheme("w4a16", INT4, Activation.NONE, FP16, group_size=64, otherwise="w8a16"),
    Scheme("p6a16", PALETTE6, Activation.NONE, FP16, otherwise="w8a16"),
    Scheme("p4a16", PALETTE4, Activation.NONE, FP16, otherwise="w8a16"),
    Scheme("w8a8", INT8, Activation.STATIC_TENSOR, INT8),
    Scheme("w8a8-mha", INT8, Activation.STATIC_TENSOR, INT8, attention=INT8),
    # Maps of the dense heads suffer: vggt-mini keeps points to 20 dB with convolutions in FP8, to 34 dB in FP16, and is
    # 3 dB better in NVFP4 with FP16 there (tests/benchmarks/floats.py).
    Scheme("fp8", FP8, Activation.STATIC_TENSOR, FP8, convolutions="fp16"),
    Scheme("fp8-mha", FP8, Activation.STATIC_TENSOR, FP8, convolutions="fp16", attention=FP8),
    Scheme("w8a8d", INT8, Activation.DYNAMIC_TOKEN, INT8),
    Scheme("w4a8d", INT4, Activation.DYNAMIC_TOKEN, INT8, group_size=32, otherwise="w8a8d"),
    Scheme("w4a4d", INT4, Activation.DYNAMIC_TOKEN, INT4, group_size=32, otherwise="w8a8d"),
    Scheme("nvfp4", FP4, Activation.DYNAMIC_BLOCK, FP4, group_size=16, otherwise="fp8", convolutions="fp16"),
    Scheme("nvfp4a16", FP4, Activation.NONE, FP16, group_size=16, otherwise="w8a16"),
)
SCHEMES: Mapping[str, Scheme] = MappingProxyType({scheme.name: scheme for scheme in _ALL})
# For comparison with papers: no device profile lists it, no backend lowers it, and no export can be asked for it.
COMPARED_ONLY = frozenset({"w4a4d"})


def scheme_of_layers(name: str) -> str:
    """The scheme that treats linears and convolutions as ``name`` does, and attention in floats."""
    asked = replace(scheme(name), name="", attention=None)
    return next(one.name for one in SCHEMES.values() if replace(one, name="") == asked)


def scheme(name: str) -> Scheme:
    """Look a scheme up by name; ``UnknownNameError`` lists the known ones."""
    try:
        return SCHEMES[name]
    except KeyError:
        raise UnknownNameError("scheme", name, SCHEMES) from None
