"""The closed vocabulary of precision schemes: what a block's weights and activations are stored as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from vggt_edge.devices.errors import UnknownNameError


class Activation(StrEnum):
    NONE = "none"
    STATIC_TENSOR = "static_tensor"
    DYNAMIC_TOKEN = "dynamic_token"


@dataclass(frozen=True)
class Scheme:
    """One precision scheme. Integer schemes are symmetric (zero point 0).

    ``group_size`` is None for one scale per output channel; otherwise the number of input channels
    that share a scale (the default; a plan may carry another one). ``palette``: weights are indices of ``weight_bits``
    into tables of FP16 values (calibration/quantization/palette.py).
    """

    name: str
    weight_bits: int
    activation: Activation
    activation_bits: int
    group_size: int | None = None
    palette: bool = False


_ALL = (
    Scheme("fp32", 32, Activation.NONE, 32),
    Scheme("fp16", 16, Activation.NONE, 16),
    Scheme("w8a16", 8, Activation.NONE, 16),
    Scheme("w4a16", 4, Activation.NONE, 16, group_size=64),
    Scheme("p6a16", 6, Activation.NONE, 16, palette=True),
    Scheme("p4a16", 4, Activation.NONE, 16, palette=True),
    Scheme("w8a8", 8, Activation.STATIC_TENSOR, 8),
    Scheme("w8a8d", 8, Activation.DYNAMIC_TOKEN, 8),
    Scheme("w4a8d", 4, Activation.DYNAMIC_TOKEN, 8, group_size=32),
    Scheme("w4a4d", 4, Activation.DYNAMIC_TOKEN, 4, group_size=32),
)
SCHEMES: Mapping[str, Scheme] = MappingProxyType({scheme.name: scheme for scheme in _ALL})
# For comparison with papers: no device profile lists it, no backend lowers it, and no export can be asked for it.
COMPARED_ONLY = frozenset({"w4a4d"})


# Below this many weights a layer has no palette form. The last convolutions of a dense head are as small, and what they
# lose is lost for good: with 8 bits for them (6 kB), vggt-mini in p4a16 keeps points to 22.9 dB, not 12.7, and has a
# cross-head distance of 0.10, not 0.26 (tests/benchmarks/palettes.py).
PALETTE_FROM_WEIGHTS = 4097
_SMALL_FORM = "w8a16"


def form_of(name: str, weights: int) -> str:
    """The scheme that a layer of so many weights gets where its block has ``name``: small layers have no palette."""
    return _SMALL_FORM if scheme(name).palette and weights < PALETTE_FROM_WEIGHTS else name


def scheme(name: str) -> Scheme:
    """Look a scheme up by name; ``UnknownNameError`` lists the known ones."""
    try:
        return SCHEMES[name]
    except KeyError:
        raise UnknownNameError("scheme", name, SCHEMES) from None
