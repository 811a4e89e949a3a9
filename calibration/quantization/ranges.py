"""The integers that a weight and an input may be, and the numbers that their scales are stored as. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from vggt_edge.calibration.scheme import INT4, INT8, Numbers

if TYPE_CHECKING:
    from torch import Tensor


class ScaleNumbers(StrEnum):
    """The numbers that a scale is stored as.

    - FP16: rounded up, so that the largest value stays in range.
    - BFLOAT16: rounded to nearest.
    """

    FP16 = "fp16"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Range:
    """The integers from ``low`` to ``high``, both included. ``levels`` is what the largest magnitude is divided by.

    dtype: name of the torch type that holds them.
    """

    low: int
    high: int
    dtype: str = "int8"

    @property
    def levels(self) -> int:
        return self.high

    def nearest(self, steps: Tensor) -> Tensor:
        """Values that were divided by their scale, rounded to nearest (ties to even, as ONNX and torch do)."""
        return steps.round().clamp(self.low, self.high)


WEIGHT_RANGES: Mapping[Numbers, Range] = MappingProxyType({INT8: Range(-127, 127), INT4: Range(-8, 7)})
INPUT_RANGES: Mapping[Numbers, Range] = MappingProxyType({INT8: Range(-128, 127), INT4: Range(-8, 7)})
