"""Figures of one subject over a set of scenes; each is a float or the reason why it has none.

Pose pairs are pooled over the scenes; other geometry figures are computed per scene and averaged; drift is computed
over all elements of all scenes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from vggt_edge.calibration.metrics import figures as metrics
from vggt_edge.calibration.metrics.geometry import AnyArray, decode_pose
from vggt_edge.calibration.scenes.scene import GroundTruth, Scene
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.validation.outputs import Outputs, with_quaternion_sign_of

GROUND_TRUTH = "ground_truth"


@dataclass(frozen=True)
class Figure:
    """``value`` is None where ``fault`` (the subject gave something unusable) or ``missing`` (no input) says why."""

    output: str
    metric: str
    value: float | None = None
    fault: str = ""
    missing: str = ""


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
    def truth(self) -> GroundTruth:
        assert self.scene.ground_truth is not None
        return self.scene.ground_truth


Samples = Sequence[Sample]


def against_ground_truth(samples: Samples) -> list[Figure]:
    """AUC, depth and point errors; every sample's scene has ground truth."""
    figures = []
    if "pose_enc" in samples[0].reference:
        names = [f"auc{threshold}" for threshold in metrics.AUC_THRESHOLDS]
        figures += _figures("pose_enc", names, lambda: _aucs(samples, _true_pose_errors))
    if "depth" in samples[0].reference:
        with_depth = [sample for sample in samples if sample.truth.depth is not None]
        figures += _figures("depth", ["abs_rel", "rmse", "delta125"], lambda: _mean(with_depth, _true_depth))
    if "points" in samples[0].reference:
        with_points = [sample for sample in samples if sample.truth.points is not None]
        names = ["accuracy", "completeness", "normal_consistency"]
        figures += _figures("points", names, lambda: _mean(with_points, _true_points))
    return figures


def cross_head(samples: Samples) -> list[Figure]:
    """How far the heads disagree with each other; needs all three, and neither FP32 nor ground truth."""
    if not {"pose_enc", "depth", "points"} <= set(samples[0].reference):
        return []
    return _figures("points", ["cross_head"], lambda: _mean(samples, _heads_apart))


def against_fp32(samples: Samples) -> list[Figure]:
    """The same quantities with the FP32 outputs in the place of ground truth."""
    figures = []
    if "pose_enc" in samples[0].reference:
        figures += _figures("pose_enc", ["auc30"], lambda: _aucs(samples, _fp32_pose_errors)[:1])
    if "depth" in samples[0].reference:
        figures += _figures("depth", ["abs_rel"], lambda: _mean(samples, _fp32_depth))
    if "points" in samples[0].reference:
        figures += _figures("points", ["relative_error"], lambda: _mean(samples, _fp32_points))
    return figures


def drifts(ours: Sequence[Outputs], reference: Sequence[Outputs]) -> list[Figure]:
    """``metrics.Drift`` of every output that the reference has."""
    names = [field.name for field in fields(metrics.Drift)]
    return [
        figure
        for output in reference[0]
        for figure in _figures(output, names, lambda output=output: _drift(output, ours, reference))  # type: ignore[misc]
    ]


def _figures(output: str, names: Sequence[str], compute: Callable[[], Sequence[float]]) -> list[Figure]:
    """Named figures from one computation, or the one reason why there are none under each name."""
    try:
        values = compute()
    except _NothingToMeasureError as error:
        return [Figure(output, name, missing=str(error)) for name in names]
    except KeyError as error:
        return [Figure(output, name, fault=f"the output {error} is missing") for name in names]
    except InputError as error:
        return [Figure(output, name, fault=f"{error.where}: {error.what}") for name in names]
    return [Figure(output, name, float(value)) for name, value in zip(names, values, strict=True)]


class _NothingToMeasureError(Exception):
    """The scenes cannot give this figure, whatever the subject does."""


def _mean(samples: Samples, measure: Callable[[Sample], tuple[float, ...]]) -> list[float]:
    if not samples:
        raise _NothingToMeasureError("no scene has this ground truth")
    return [float(np.mean(column)) for column in zip(*map(measure, samples), strict=True)]


def _aucs(samples: Samples, measure: Callable[[Sample], metrics.PoseErrors]) -> list[float]:
    several = [sample for sample in samples if len(sample.scene.images) > 1]
    if not several:
        raise _NothingToMeasureError("relative poses need scenes of two frames or more")
    worst = metrics.PoseErrors.pooled([measure(sample) for sample in several]).worst_deg
    return [metrics.auc(worst, threshold) for threshold in metrics.AUC_THRESHOLDS]


def _true_pose_errors(sample: Sample) -> metrics.PoseErrors:
    return metrics.pose_errors(decode_pose(sample.ours["pose_enc"], sample.size)[0], sample.truth.extrinsics)


def _fp32_pose_errors(sample: Sample) -> metrics.PoseErrors:
    ours, reference = (decode_pose(each["pose_enc"], sample.size)[0] for each in (sample.ours, sample.reference))
    return metrics.pose_errors(ours, reference)


def _true_depth(sample: Sample) -> tuple[float, ...]:
    assert sample.truth.depth is not None
    errors = metrics.depth_errors(sample.ours["depth"], sample.truth.depth, sample.truth.valid)
    return errors.abs_rel, errors.rmse, errors.delta125


def _fp32_depth(sample: Sample) -> tuple[float, ...]:
    return (metrics.depth_errors(sample.ours["depth"], sample.reference["depth"]).abs_rel,)


def _true_points(sample: Sample) -> tuple[float, ...]:
    assert sample.truth.points is not None
    errors = metrics.point_errors(sample.ours["points"], sample.truth.points, sample.truth.valid)
    return errors.accuracy, errors.completeness, errors.normal_consistency


def _fp32_points(sample: Sample) -> tuple[float, ...]:
    confidences = _confidences(sample.reference, "points_conf")
    return (metrics.points_relative_error(sample.ours["points"], sample.reference["points"], confidences),)


def _heads_apart(sample: Sample) -> tuple[float, ...]:
    ours = sample.ours
    confidences = _confidences(ours, "depth_conf", "points_conf")
    return (metrics.cross_head_error(ours["pose_enc"], ours["depth"], ours["points"], confidences),)


def _confidences(outputs: Outputs, *names: str) -> tuple[AnyArray, ...]:
    return tuple(outputs[name] for name in names if name in outputs)


def _drift(output: str, ours: Sequence[Outputs], reference: Sequence[Outputs]) -> list[float]:
    pairs = [(mine[output], theirs[output]) for mine, theirs in zip(ours, reference, strict=True)]
    if output == "pose_enc":
        pairs = [(with_quaternion_sign_of(mine, theirs), theirs) for mine, theirs in pairs]
    mine, theirs = (np.concatenate([each.ravel() for each in side]) for side in zip(*pairs, strict=True))
    drift = metrics.drift(mine, theirs)
    return [getattr(drift, field.name) for field in fields(drift)]
