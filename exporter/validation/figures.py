"""Figures of one subject over a set of scenes; each is a float or the reason why it has none.

What is measured, and by which gate it is judged, is declared by the quantities of the model's outputs
(``calibration/metrics/quantities.py``). Drift is computed over all elements of all scenes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import numpy as np

from vggt_edge.calibration.metrics import figures as metrics
from vggt_edge.calibration.metrics.geometry import AnyArray
from vggt_edge.calibration.metrics.output import Output, first_of
from vggt_edge.calibration.metrics.quantities import (
    Camera,
    Depth,
    Measure,
    NothingToMeasureError,
    Pair,
    Points,
    shown_cells,
)
from vggt_edge.calibration.scenes.scene import GroundTruth, Scene
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.validation.outputs import Outputs

GROUND_TRUTH: Final = "ground_truth"
Against: TypeAlias = Literal["fp32", "ground_truth"]


@dataclass(frozen=True)
class Figure:
    """One figure of one output.

    - value: None where ``fault`` (the subject gave something unusable) or ``missing`` (no input) says why.
    - gate: the field of ``devices.profile.Tolerances`` that limits it; empty for a figure without a gate.
    """

    output: str
    metric: str
    value: float | None = None
    fault: str = ""
    missing: str = ""
    gate: str = ""


@dataclass(frozen=True)
class Sample:
    """One scene with one subject's outputs and those of FP32, none with a batch axis."""

    scene: Scene
    ours: Outputs
    reference: Outputs

    @property
    def size(self) -> tuple[int, int]:
        return self.scene.images.shape[2], self.scene.images.shape[3]

    @property
    def truth(self) -> GroundTruth | None:
        return self.scene.ground_truth

    @property
    def valid(self) -> AnyArray | None:
        """(S, H, W): False for pixels that show nothing, or whose ground truth is unknown; None where all count."""
        known = None if self.truth is None else self.truth.valid
        both = [each for each in (known, self.scene.shown) if each is not None]
        return np.logical_and.reduce(both) if both else None

    def against_fp32(self, output: Output) -> Pair:
        """``KeyError`` where the subject lacks the output."""
        trusted = (output.confidence,) if output.confidence in self.reference else ()
        confidences = tuple(self.reference[name] for name in trusted)
        return Pair(self.ours[output.name], self.reference[output.name], self.size, confidences, self.scene.shown)

    def against_truth(self, output: Output) -> Pair | None:
        """None where the scene has no such ground truth; ``KeyError`` where the subject lacks the output."""
        wanted = None if self.truth is None else output.quantity.truth(self.truth)
        if self.truth is None or wanted is None:
            return None
        return Pair(self.ours[output.name], wanted, self.size, valid=self.valid)


Samples = Sequence[Sample]


def against_fp32(declared: Sequence[Output], samples: Samples) -> list[Figure]:
    """What the quantities measure against the FP32 outputs, over all scenes."""
    return list(_measured(declared, samples, "fp32"))


def against_ground_truth(declared: Sequence[Output], samples: Samples) -> list[Figure]:
    """What the quantities measure against ground truth, over the scenes that have it."""
    return list(_measured(declared, samples, GROUND_TRUTH))


def _measured(declared: Sequence[Output], samples: Samples, against: Against) -> Iterator[Figure]:
    for output in declared:
        if output.name in samples[0].reference:
            quantity = output.quantity
            for measure in quantity.against_fp32 if against == "fp32" else quantity.against_truth:
                compute = partial(_computed, measure, output, samples, against)
                yield from _figures(output.name, measure.metrics, compute, measure.gates)


def _computed(measure: Measure, output: Output, samples: Samples, against: Against) -> Sequence[float]:
    return measure.compute(_pairs(output, samples, against))


def _pairs(output: Output, samples: Samples, against: Against) -> list[Pair]:
    if against == "fp32":
        return [sample.against_fp32(output) for sample in samples]
    found = [pair for sample in samples if (pair := sample.against_truth(output)) is not None]
    if not found:
        raise NothingToMeasureError("no scene has this ground truth")
    return found


def cross_head(declared: Sequence[Output], samples: Samples) -> list[Figure]:
    """How far the heads disagree with each other; needs cameras, depth and points, and neither FP32 nor truth."""
    given = [output for output in declared if output.name in samples[0].reference]
    camera, depth, points = (first_of(given, kind) for kind in (Camera, Depth, Points))
    if camera is None or depth is None or points is None:
        return []
    apart = partial(_heads_apart, camera, depth, points)
    return list(_figures(points.name, ("cross_head",), lambda: [float(np.mean([apart(one) for one in samples]))]))


def _heads_apart(camera: Output, depth: Output, points: Output, sample: Sample) -> float:
    assert isinstance(camera.quantity, Camera)
    ours = sample.ours
    confidences = tuple(ours[head.confidence] for head in (depth, points) if head.confidence in ours)
    cameras = camera.quantity.cameras(ours[camera.name], sample.size)
    return metrics.cross_head_error(cameras, ours[depth.name], ours[points.name], confidences, sample.scene.shown)


def drifts(
    declared: Sequence[Output],
    ours: Sequence[Outputs],
    reference: Sequence[Outputs],
    scenes: Sequence[Scene],
) -> list[Figure]:
    """``metrics.Drift`` of every declared output that the reference has; pixels filled up with white do not count."""
    names = tuple(field.name for field in fields(metrics.Drift))
    found: list[Figure] = []
    for output in declared:
        if output.name in reference[0]:
            found += _figures(output.name, names, partial(_drift, output, ours, reference, scenes))
    return found


def _drift(
    output: Output, ours: Sequence[Outputs], reference: Sequence[Outputs], scenes: Sequence[Scene]
) -> list[float]:
    pairs = [(mine[output.name], theirs[output.name]) for mine, theirs in zip(ours, reference, strict=True)]
    pairs = [(output.quantity.aligned(mine, theirs), theirs) for mine, theirs in pairs]
    shown = [scene.shown for scene in scenes]
    mine, theirs = (
        np.concatenate([shown_cells(each, mask).ravel() for each, mask in zip(side, shown, strict=True)])
        for side in zip(*pairs, strict=True)
    )
    drift = metrics.drift(mine, theirs)
    return [getattr(drift, field.name) for field in fields(drift)]


def _figures(
    output: str,
    metrics: Sequence[str],
    compute: Callable[[], Sequence[float]],
    gates: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Figure]:
    """Named figures from one computation, or the one reason why there are none under each name."""
    values: Sequence[float | None] = [None] * len(metrics)
    fault = missing = ""
    try:
        values = [float(value) for value in compute()]
    except NothingToMeasureError as error:
        missing = str(error)
    except KeyError as error:
        fault = f"the output {error} is missing"
    except InputError as error:
        fault = f"{error.where}: {error.what}"
    for metric, value in zip(metrics, values, strict=True):
        yield Figure(output, metric, value, fault, missing, gates.get(metric, ""))
