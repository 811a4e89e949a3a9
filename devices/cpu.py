"""What an Arm CPU can compute at best, from its cores, their clocks and its instruction set.

A core starts one vector instruction of 128 bits per pipe and cycle. One instruction multiplies and accumulates:

* 4 FP32 values with FMLA;
* 16 int8 values with SDOT (feature ``dotprod``, part of every Armv8.4 core);
* 32 int8 values with SMMLA (feature ``i8mm``, part of every Armv8.6 core);
* without either, 16 int8 values with three instructions (SMULL, SMLAL, SADALP).

Source of the widths: Arm Architecture Reference Manual. (M) That every pipe starts one of them in every cycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FP32_MACS = 4.0
INT8_MACS = {"i8mm": 32.0, "dotprod": 16.0}
INT8_MACS_WITHOUT = 16 / 3


@dataclass(frozen=True)
class Cores:
    """``count`` equal cores. pipes: vector instructions of 128 bits that one of them starts in a cycle."""

    name: str
    count: int
    clock_hz: float
    pipes: int


def int8_macs(features: Iterable[str]) -> float:
    """int8 multiply-accumulates of one vector instruction: the best that the features allow."""
    return max((INT8_MACS[one] for one in features if one in INT8_MACS), default=INT8_MACS_WITHOUT)


def peak_ops_per_s(cores: Sequence[Cores], features: Iterable[str]) -> dict[str, float]:
    """Operations per second by dtype, a MAC being two: the sum over the cores, as a pool that shares work has it."""
    instructions_per_s = sum(one.count * one.clock_hz * one.pipes for one in cores)
    macs = {"fp32": FP32_MACS, "int8": int8_macs(features)}
    return {dtype: 2 * count * instructions_per_s for dtype, count in macs.items()}
