"""What every session checks before native code sees its inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.base import Arrays


def check_inputs(inputs: Arrays, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """``InputError`` for other names, shapes or types than ``shapes`` says (all float32), and for NaN or Inf."""
    if set(inputs) != set(shapes):
        given, known = ", ".join(sorted(inputs)) or "none", ", ".join(sorted(shapes))
        raise InputError(f"wrong inputs: {given}", where=where, expected=f"exactly: {known}")
    for name, shape in shapes.items():
        array = inputs[name]
        if array.dtype != np.float32 or array.shape != shape:
            what = f"input {name} is {array.dtype} {array.shape}"
            raise InputError(what, where=where, expected=f"{name}: float32 {shape}")
        if not bool(np.isfinite(array).all()):
            raise InputError(f"input {name} holds NaN or Inf", where=where, expected="numbers")
