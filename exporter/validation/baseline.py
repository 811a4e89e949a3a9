"""Is the FP32 model itself worth comparing with? A wrong reference makes every later figure meaningless."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vggt_edge.calibration.metrics.output import Output
from vggt_edge.exporter.validation import figures
from vggt_edge.exporter.validation.outputs import Outputs
from vggt_edge.exporter.validation.rows import FP32, Row, Status

# A trained VGGT's heads agree to a few percent of the scene's scale; at half of it they describe different scenes.
SUSPECT_CROSS_HEAD = 0.5
_HEADS_DISAGREE = (
    "the depth, pose and point heads contradict each other: the checkpoint, or the preprocessing of the scenes, is"
    " probably wrong"
)


def check_baseline(declared: Sequence[Output], samples: figures.Samples) -> list[Row]:
    """FP32 outputs are finite and not constant (gates), and agree across heads (a warning)."""
    reference = [sample.reference for sample in samples]
    rows = []
    for output in declared:
        if output.name in reference[0]:
            rows.append(_finite(output.name, reference))
            # One frame's pose, or confidences of an easy scene, may be constant; a depth or point map may not.
            if output.quantity.varies:
                rows.append(_varied(output.name, reference))
    return rows + _heads_agree(declared, samples)


def _finite(output: str, reference: Sequence[Outputs]) -> Row:
    total = sum(each[output].size for each in reference)
    share = sum(int(np.count_nonzero(np.isfinite(each[output]))) for each in reference) / total
    ok = share == 1
    reason = "" if ok else "FP32 gives NaN or infinite values: check the checkpoint's weights and the input images"
    return Row(FP32, output, "finite_share", "", Status.PASSED if ok else Status.FAILED, share, 1.0, reason=reason)


def _varied(output: str, reference: Sequence[Outputs]) -> Row:
    """The smallest relative spread of any frame."""
    spread = min(_spread(frame) for each in reference for frame in each[output])
    ok = spread > 1e-6
    reason = "" if ok else "FP32 gives the same value for every pixel: the weights were probably not loaded"
    return Row(FP32, output, "relative_spread", "", Status.PASSED if ok else Status.FAILED, spread, 1e-6, reason=reason)


def _spread(frame: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    values = np.where(np.isfinite(frame), frame, 0).astype(np.float64)
    size = float(np.abs(values).max())
    return float(values.reshape(-1, values.shape[-1] if values.ndim == 3 else 1).std(axis=0).max()) / max(size, 1e-12)


def _heads_agree(declared: Sequence[Output], samples: figures.Samples) -> list[Row]:
    rows = []
    for figure in figures.cross_head(declared, samples):
        suspect = figure.value is not None and figure.value > SUSPECT_CROSS_HEAD
        reason = _HEADS_DISAGREE if suspect else figure.fault or figure.missing
        rows.append(Row(FP32, figure.output, figure.metric, "", Status.INFO, figure.value, reason=reason))
    return rows
