"""The outputs of one subject on one scene, checked against what the model declares, and without the batch axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vggt_edge.calibration.metrics.geometry import AnyArray
from vggt_edge.calibration.metrics.output import Output
from vggt_edge.devices.errors import InputError

Outputs = Mapping[str, AnyArray]


def without_batch(
    declared: Sequence[Output], outputs: Outputs, size: tuple[int, int, int], where: str
) -> dict[str, AnyArray]:
    """``(1, S, ...)`` to ``(S, ...)``, in declared order; ``InputError`` for any other shape.

    size: ``(S, H, W)`` of the scene. Names that are not declared are left out.
    """
    result = {}
    for output in declared:
        if output.name not in outputs:
            continue
        value, expected = np.asarray(outputs[output.name]), output.shape(*size)
        if value.shape != expected:
            raise InputError(f"{output.name} has the shape {value.shape}", where=where, expected=f"{expected}")
        result[output.name] = value[0]
    return result
