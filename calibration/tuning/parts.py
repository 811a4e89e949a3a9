"""Parts of tuning, and which of them each effort has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

Tokens: TypeAlias = Literal["all", "filtered", "designed"]


@dataclass(frozen=True)
class Parts:
    """Which parts of tuning are on: all of them, but in ablations and where there is little time.

    smoothing: scales between channels. shift: and means of channels are taken out of what is quantized, which needs
    ``smoothing`` and ``bias``. compensation: rounding that makes up for its errors. task: weights of the task
    objective, else those of layer reconstruction. bias: means of errors go into biases. tokens: which special tokens
    count; ``filtered``: none, as in QVGGT, where a layer sees patches as well; ``designed``: and those that the camera
    head reads are replaced by points of their distribution (tuning/tokens.py). reconstruction: blocks are learned.
    """

    smoothing: bool = True
    shift: bool = True
    compensation: bool = True
    task: bool = True
    bias: bool = True
    tokens: Tokens = "all"
    reconstruction: bool = False


@dataclass(frozen=True)
class Effort:
    """parts: of tuning. scenes: at most so many of the calibration scenes are tuned on; None for all."""

    parts: Parts
    scenes: int | None = None


EFFORTS: Mapping[str, Effort] = MappingProxyType(
    {
        "fast": Effort(Parts(), scenes=4),
        "balanced": Effort(Parts()),
        "max": Effort(Parts(reconstruction=True)),
    }
)
