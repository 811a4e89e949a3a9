"""Angles, in operators that every backend has."""

from __future__ import annotations

from torch import Tensor

# Coefficients of arctan(x) / x in powers of x^2, fitted to 5e-8 where |x| <= tan(pi / 8).
_ARCTANGENT = (0.99999999, -0.33332914, 0.19978354, -0.13893065, 0.08119418)


def twice_arctangent(y: Tensor, x: Tensor) -> Tensor:
    """2 * atan2(y, x) for positive y and x."""
    quarter = y / ((y * y + x * x).sqrt() + x)
    eighth = quarter / (1 + (1 + quarter * quarter).sqrt())
    square = eighth * eighth
    series = square * _ARCTANGENT[-1] + _ARCTANGENT[-2]
    for coefficient in _ARCTANGENT[-3::-1]:
        series = series * square + coefficient
    return 8 * eighth * series
