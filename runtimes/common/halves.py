"""FP32 constants as FP16, where that loses nothing that matters; otherwise an error that names the constant."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vggt_edge.devices.errors import LoweringError

FP16_MAX = 65504.0
FP16_TINY = float(np.finfo(np.float16).smallest_subnormal)
# FP16 keeps a constant of normal size to 2**-12 of its norm. Four times that much means that most of it was subnormal.
NORM_ERROR_MAX = 2.0**-10
_PIECE = 1 << 18
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
    infinite = np.isinf(half)
    if bool(infinite.any()) and bool(np.isfinite(values[infinite]).any()):
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
    flat, flat_half = values.reshape(-1), half.reshape(-1)
    peak = _magnitude(flat)
    if not np.isfinite(peak):
        finite = np.isfinite(flat)
        flat, flat_half = flat[finite], flat_half[finite]
        peak = _magnitude(flat)
    if peak == 0:
        return 0.0
    squares = [0.0, 0.0]
    # In pieces that stay in the cache, and relative to the largest entry, so that no square underflows.
    for start in range(0, flat.size, _PIECE):
        exact = flat[start : start + _PIECE]
        error = flat_half[start : start + _PIECE].astype(exact.dtype) - exact
        for index, part in enumerate((error, exact)):
            squares[index] += float(np.square(part / peak).sum(dtype=np.float64))
    return float(np.sqrt(squares[0] / squares[1]))


def _magnitude(flat: npt.NDArray[np.floating]) -> np.floating:
    """The largest absolute value, in the type of the entries; NaN where there is one."""
    return np.maximum(flat.max(), -flat.min()) if flat.size else flat.dtype.type(0)
