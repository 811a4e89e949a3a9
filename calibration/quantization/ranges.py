"""The numbers that a weight and an input may be, and those that their scales are stored as. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from vggt_edge.calibration.scheme import FP4, FP8, INT4, INT8, Numbers

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 16  # values of FP4 that share a scale (NVFP4)
_LEAST_EXPONENT = -126  # of a normal FP32 number


class ScaleNumbers(StrEnum):
    """The numbers that a scale is stored as.

    - FP16: rounded up, so that the largest value stays in range.
    - BFLOAT16: rounded to nearest.
    - E4M3: rounded to nearest, in units of one power of two for the whole tensor.
    """

    FP16 = "fp16"
    BFLOAT16 = "bfloat16"
    E4M3 = "e4m3"


@dataclass(frozen=True)
class Range:
    """The integers from ``low`` to ``high``, both included. ``levels`` is what the largest magnitude is divided by.

    dtype: name of the torch type that holds them. unit: what a stored 1 stands for.
    """

    low: int
    high: int
    dtype: str = "int8"
    unit: float = 1.0

    @property
    def levels(self) -> int:
        return self.high

    @property
    def stored_limits(self) -> tuple[int, int]:
        """The lowest and the highest stored number."""
        return round(self.low / self.unit), round(self.high / self.unit)

    def nearest(self, steps: Tensor) -> Tensor:
        """Values that were divided by their scale, rounded to nearest (ties to even, as ONNX and torch do)."""
        return steps.round().clamp(self.low, self.high)

    def stored(self, steps: Tensor) -> Tensor:
        """The nearest numbers as they are stored."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return (self.nearest(steps) / self.unit).to(dtype)


@dataclass(frozen=True)
class E4M3(Range):
    """Floats of 8 bits with 3 bits behind the point; there is no infinity, and what is too large is clipped."""

    low: int = -448
    high: int = 448
    dtype: str = "float8_e4m3fn"

    def nearest(self, steps: Tensor) -> Tensor:
        import torch

        return steps.clamp(self.low, self.high).to(torch.float8_e4m3fn).to(steps.dtype)


@dataclass(frozen=True)
class E2M1(Range):
    """Floats of 4 bits: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives. torch has no such type: kept as halves."""

    low: int = -6
    high: int = 6
    unit: float = 0.5

    def nearest(self, steps: Tensor) -> Tensor:
        import torch

        magnitude = steps.abs()
        # How far apart the numbers lie there. Ties fall to the even code, since its number is an even multiple.
        apart = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0)).to(steps.dtype)
        return ((steps / apart).round() * apart).clamp(self.low, self.high)


WEIGHT_RANGES: Mapping[Numbers, Range] = MappingProxyType(
    {INT8: Range(-127, 127), INT4: Range(-8, 7), FP8: E4M3(), FP4: E2M1()}
)
INPUT_RANGES: Mapping[Numbers, Range] = MappingProxyType({**WEIGHT_RANGES, INT8: Range(-128, 127)})


def e4m3_unit(largest: float) -> float:
    """The power of two in units of which E4M3 reaches ``largest``: a second scale that costs no rounding."""
    exponent = math.ceil(math.log2(largest / E4M3().high)) if largest > 0 else 0
    return 2.0 ** max(exponent, _LEAST_EXPONENT)
