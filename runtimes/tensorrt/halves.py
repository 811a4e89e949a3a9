"""FP32 constants as FP16, where that loses nothing that matters; otherwise an error that names the constant."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vggt_edge.devices.errors import LoweringError

FP16_MAX = 65504.0
FP16_TINY = float(np.finfo(np.float16).smallest_subnormal)
# FP16 keeps a constant of normal size to 2**-12 of its norm. Four times that much means that most of it was subnormal.
NORM_ERROR_MAX = 2.0**-10
_REMEDY = "compute the block that this constant belongs to in FP32: name it in the graph's fp32_blocks"


def to_half(name: str, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """``values`` in FP16. ``LoweringError`` for NaN, overflow, and a tensor that as a whole is too small.

    A few entries that round to zero beside large ones are how every trained weight looks, so underflow is judged over
    the whole tensor: the rounding error may be at most ``NORM_ERROR_MAX`` of its norm.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
    if bool(np.isnan(values).any()):
        raise LoweringError(f"constant {name} holds NaN", where=name, expected="finite values")
    overflow = np.isinf(half) & np.isfinite(values)
    if bool(overflow.any()):
        largest = float(np.abs(values[np.isfinite(values)]).max())
        raise LoweringError(
            f"constant {name} overflows FP16: its largest magnitude is {largest:g}",
            where=name,
            expected=f"magnitudes up to {FP16_MAX:g}",
            remedy=_REMEDY,
        )
    error = norm_error(values, half)
    if error > NORM_ERROR_MAX:
        raise LoweringError(
            f"constant {name} underflows FP16: rounding loses {error:.1%} of its norm",
            where=name,
            expected=f"at most {NORM_ERROR_MAX:.2%}",
            remedy=_REMEDY,
        )
    return half


def scale_to_half(name: str, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """A quantization scale in FP16, always above zero, since TensorRT refuses zero.

    The scale of a dead or nearly dead channel becomes the smallest FP16 number. Raises as ``to_half`` does.
    """
    return np.maximum(to_half(name, values), np.float16(FP16_TINY))


def norm_error(values: npt.NDArray[np.floating], half: npt.NDArray[np.float16]) -> float:
    """|half - values| / |values| over the finite entries; 0 for a tensor of zeros."""
    finite = np.isfinite(values)
    exact = values[finite].astype(np.float64)
    norm = float(np.linalg.norm(exact))
    return float(np.linalg.norm(half[finite].astype(np.float64) - exact)) / norm if norm else 0.0
