"""The figures by which a model is judged (docs/metrics.md): pose, depth, points, cross-head consistency, drift.

Defined once, used by training, sensitivity, validation and benchmarks. Every function takes numpy arrays, computes
in float64, and raises ``InputError`` where an input is NaN, infinite, misshapen or leaves the figure undefined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from vggt_edge.calibration.metrics.geometry import AnyArray, Array, finite, relative_poses, unproject
from vggt_edge.calibration.metrics.scale import scene_scale
from vggt_edge.devices.errors import InputError

AUC_THRESHOLDS = (30, 15, 5, 3)
# Two cameras nearer to each other than this share of the largest baseline have no direction between them.
ZERO_BASELINE = 1e-6
SQNR_LIMIT_DB = 200.0
# Relative errors are taken against at least this share of the reference's RMS, or zeros would decide them.
RELATIVE_FLOOR = 1e-3
MAX_CLOUD_POINTS = 20_000
CONFIDENT_SHARE = 0.5
# From here on a pixel is sky, as the authors of Depth Anything 3 take their map.
SKY_FROM = 0.3
# A point has a normal where its pixel's neighbours lie no further apart than this many times the usual (median) step:
# beyond that they belong to two surfaces.
NORMAL_JUMP = 5.0

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PoseErrors:
    """Degrees, one per pair i < j. ``rotation`` in [0, 180], ``translation`` (of direction) in [0, 90]."""

    rotation_deg: Array
    translation_deg: Array

    @property
    def worst_deg(self) -> Array:
        return np.maximum(self.rotation_deg, self.translation_deg)

    @staticmethod
    def pooled(parts: list[PoseErrors]) -> PoseErrors:
        """The pairs of several scenes, each pair counting once."""
        return PoseErrors(
            np.concatenate([part.rotation_deg for part in parts]),
            np.concatenate([part.translation_deg for part in parts]),
        )


@dataclass(frozen=True)
class DepthErrors:
    """``abs_rel`` and ``delta125`` are fractions, ``rmse`` has the unit of the reference; ``scale`` was divided out."""

    abs_rel: float
    rmse: float
    delta125: float
    scale: float


@dataclass(frozen=True)
class PointErrors:
    """``accuracy``, ``completeness``: mean distances in the unit of the reference; ``normal_consistency``: 0 to 1."""

    accuracy: float
    completeness: float
    normal_consistency: float


@dataclass(frozen=True)
class Similarity:
    """``x -> scale * rotation @ x + translation``."""

    scale: float
    rotation: Array
    translation: Array

    def __call__(self, points: AnyArray) -> Array:
        return np.asarray(self.scale * (np.asarray(points, dtype=np.float64) @ self.rotation.T) + self.translation)


@dataclass(frozen=True)
class Drift:
    """How far an output is from its reference. ``sqnr_db`` is kept within +-200 (equal arrays give 200)."""

    cosine: float
    sqnr_db: float
    max_abs: float
    p99_abs: float
    max_rel: float
    p99_rel: float


def angle_deg(first: AnyArray, second: AnyArray) -> Array:
    """Angle between vectors ``(..., 3)``, exact also near 0 and 180 degrees, where the arc cosine is not."""
    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.asarray(np.degrees(np.arctan2(sine, np.sum(np.asarray(first) * np.asarray(second), axis=-1))))


def rotation_angle_deg(first: AnyArray, second: AnyArray) -> Array:
    """Angle of ``first^T second`` for rotations ``(..., 3, 3)``."""
    delta = np.swapaxes(first, -1, -2) @ second
    axis = np.stack(
        [delta[..., 2, 1] - delta[..., 1, 2], delta[..., 0, 2] - delta[..., 2, 0], delta[..., 1, 0] - delta[..., 0, 1]],
        axis=-1,
    )
    return np.asarray(np.degrees(np.arctan2(np.linalg.norm(axis, axis=-1), np.trace(delta, axis1=-2, axis2=-1) - 1)))


def pose_errors(predicted: AnyArray, reference: AnyArray) -> PoseErrors:
    """Relative pose errors of all pairs i < j, from world-to-camera extrinsics ``(S, 3, 4)``.

    The translation error is ``min(theta, 180 - theta)``. Where the reference's two cameras stand in the same place
    there is no direction to get wrong: the error is 0. Where only the predicted ones do, it is 90.
    """
    ours, truth = finite(predicted, "predicted extrinsics"), finite(reference, "reference extrinsics")
    _same_shape(ours, truth, "extrinsics")
    if len(ours) < 2:
        raise InputError("relative poses of a single frame", where="extrinsics", expected="at least two frames")
    moved, wanted = relative_poses(ours), relative_poses(truth)
    rotation = rotation_angle_deg(wanted[..., :3], moved[..., :3])
    theta = angle_deg(wanted[..., 3], moved[..., 3])
    translation = np.minimum(theta, 180 - theta)
    translation = np.where(_standing(moved), 90.0, translation)
    return PoseErrors(rotation, np.where(_standing(wanted), 0.0, translation))


def _standing(relative: Array) -> Mask:
    baseline = np.linalg.norm(relative[..., 3], axis=-1)
    return np.asarray(baseline <= ZERO_BASELINE * max(float(baseline.max()), ZERO_BASELINE))


def auc(errors_deg: AnyArray, threshold_deg: int) -> float:
    """Mean over the thresholds 1, 2 .. ``threshold_deg`` of the share of errors below it, in points of 100."""
    errors = finite(errors_deg, "pose errors")
    if not errors.size:
        raise InputError("no pose errors to average", where="pose errors", expected="at least one pair of frames")
    below = sum(int(np.count_nonzero(errors < limit)) for limit in range(1, threshold_deg + 1))
    return 100 * below / (errors.size * threshold_deg)


def depth_errors(predicted: AnyArray, reference: AnyArray, valid: AnyArray | None = None) -> DepthErrors:
    """AbsRel, RMSE and delta < 1.25 of depth ``(S, H, W)``, after the medians are made equal over the whole scene.

    Pixels whose reference is not above 0, or that ``valid`` leaves out, do not count.
    """
    ours, truth = np.asarray(predicted, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    _same_shape(ours, truth, "depth")
    with np.errstate(invalid="ignore"):
        mask = (truth > 0) if valid is None else np.asarray(valid, dtype=bool) & (truth > 0)
    if not mask.any():
        raise InputError("no pixel has a reference depth above 0", where="depth", expected="at least one")
    ours, truth = finite(ours[mask], "predicted depth"), finite(truth[mask], "reference depth")
    median = float(np.median(ours))
    if median <= 0:
        raise InputError(f"the median depth is {median:g}", where="predicted depth", expected="a median above 0")
    scale = float(np.median(truth)) / median
    aligned = ours * scale
    error = aligned - truth
    within = (aligned < 1.25 * truth) & (truth < 1.25 * aligned)
    return DepthErrors(
        abs_rel=float(np.mean(np.abs(error) / truth)),
        rmse=float(np.sqrt(np.mean(error**2))),
        delta125=float(np.mean(within)),
        scale=scale,
    )


def umeyama(source: AnyArray, target: AnyArray) -> Similarity:
    """The Sim(3) that best maps ``source`` ``(N, 3)`` onto ``target`` ``(N, 3)`` (Umeyama, PAMI 1991)."""
    ours, truth = finite(source, "source points"), finite(target, "target points")
    _same_shape(ours, truth, "points to align")
    center_ours, center_truth = ours.mean(axis=0), truth.mean(axis=0)
    spread = float(np.mean(np.sum((ours - center_ours) ** 2, axis=1)))
    if spread <= 1e-18 * max(float(np.mean(np.sum(ours**2, axis=1))), 1e-300):
        raise InputError("all points coincide: they fix no scale", where="source points", expected="distinct points")
    covariance = (truth - center_truth).T @ (ours - center_ours) / len(ours)
    left, singular, right = np.linalg.svd(covariance)
    signs = np.array([1.0, 1.0, float(np.sign(np.linalg.det(left) * np.linalg.det(right)))])
    rotation = left @ np.diag(signs) @ right
    scale = float(np.sum(singular * signs)) / spread
    return Similarity(scale, rotation, center_truth - scale * rotation @ center_ours)


def point_errors(predicted: AnyArray, reference: AnyArray, valid: AnyArray | None = None) -> PointErrors:
    """Point maps ``(S, H, W, 3)`` after Sim(3) alignment over the pixels that ``valid`` ``(S, H, W)`` keeps.

    Accuracy is the mean distance from a predicted point to the nearest reference point, completeness the other way
    round, normal consistency the mean ``|n . n'|`` over both. Large clouds are thinned evenly to 20 000 points.
    """
    ours, truth = np.asarray(predicted, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    _same_shape(ours, truth, "points")
    mask = np.ones(truth.shape[:-1], dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
    if np.count_nonzero(mask) < 3:
        raise InputError(f"{np.count_nonzero(mask)} valid points", where="points", expected="at least three")
    alignment = umeyama(ours[mask], truth[mask])
    aligned = alignment(np.where(mask[..., None], ours, 0))
    return _cloud_errors(_Cloud.of(aligned, mask), _Cloud.of(np.where(mask[..., None], truth, 0), mask))


@dataclass(frozen=True)
class _Cloud:
    """``points`` (N, 3); ``normals`` (N, 3), zero where a surface has none."""

    points: Array
    normals: Array

    @staticmethod
    def of(points: Array, mask: Mask) -> _Cloud:
        kept = np.flatnonzero(mask)
        kept = kept[np.linspace(0, len(kept) - 1, min(len(kept), MAX_CLOUD_POINTS)).astype(np.int64)]
        return _Cloud(points.reshape(-1, 3)[kept], point_normals(points, mask).reshape(-1, 3)[kept])


def point_normals(points: Array, mask: Mask) -> Array:
    """Unit normals of a point map ``(S, H, W, 3)`` from the neighbours of each pixel; 0 at borders and jumps."""
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    crossed = np.cross(across, down)
    length = np.linalg.norm(crossed, axis=-1)
    step = np.maximum(np.linalg.norm(across, axis=-1), np.linalg.norm(down, axis=-1))
    whole = mask[:, 1:-1, 2:] & mask[:, 1:-1, :-2] & mask[:, 2:, 1:-1] & mask[:, :-2, 1:-1]
    usual = float(np.median(step[whole])) if whole.any() else 0.0
    keep = whole & (length > 0) & (step <= NORMAL_JUMP * usual)
    normals = np.zeros_like(points)
    normals[:, 1:-1, 1:-1] = np.where(keep[..., None], crossed / np.where(keep, length, 1)[..., None], 0)
    return normals


def _cloud_errors(ours: _Cloud, truth: _Cloud) -> PointErrors:
    to_truth, nearest_truth = cKDTree(truth.points).query(ours.points)
    to_ours, nearest_ours = cKDTree(ours.points).query(truth.points)
    agreement = np.concatenate(
        [
            _normal_agreement(ours.normals, truth.normals[nearest_truth]),
            _normal_agreement(truth.normals, ours.normals[nearest_ours]),
        ]
    )
    return PointErrors(
        accuracy=float(np.mean(to_truth)),
        completeness=float(np.mean(to_ours)),
        # Without a single pair of normals (no smooth surface in either map) nothing agrees.
        normal_consistency=float(np.mean(agreement)) if agreement.size else 0.0,
    )


def _normal_agreement(first: Array, second: Array) -> Array:
    both = np.any(first != 0, axis=1) & np.any(second != 0, axis=1)
    return np.asarray(np.abs(np.sum(first[both] * second[both], axis=1)))


def confident_pixels(*confidences: AnyArray) -> Mask:
    """True for the half of the pixels with the highest product of confidences ``(S, H, W)`` (ties included)."""
    joint = np.sum([np.log(np.maximum(finite(each, "confidence"), 1e-12)) for each in confidences], axis=0)
    return np.asarray(joint >= np.quantile(joint, 1 - CONFIDENT_SHARE))


def cross_head_error(
    cameras: tuple[AnyArray, AnyArray],
    depth: AnyArray,
    points: AnyArray,
    confidences: tuple[AnyArray, ...] = (),
    valid: AnyArray | None = None,
) -> float:
    """Median ``||P - unproject(D, K, E)||`` over confident pixels, as a share of the scene scale of ``points``.

    cameras: extrinsics ``(S, 3, 4)`` and intrinsics ``(S, 3, 3)``. depth and each confidence: ``(S, H, W)``. points:
    ``(S, H, W, 3)``. valid: ``(S, H, W)``, False for pixels that do not count.
    """
    direct, z = finite(points, "points"), finite(depth, "depth")
    _same_shape(direct[..., 0], z, "depth and points")
    extrinsics, intrinsics = cameras
    keep = np.ones(z.shape, dtype=bool) if valid is None else np.array(valid, dtype=bool)
    if confidences:
        keep[keep] = confident_pixels(*(each[keep] for each in confidences))
    distance = np.linalg.norm(direct - unproject(z, intrinsics, extrinsics), axis=-1)
    return float(np.median(distance[keep])) / scene_scale(np.linalg.norm(direct[keep], axis=-1))


def points_relative_error(predicted: AnyArray, reference: AnyArray, confidences: tuple[AnyArray, ...] = ()) -> float:
    """Median distance between the two points of a pixel, as a share of the reference's scene scale; no alignment.

    For a model against its own FP32 form: both must share one coordinate frame and scale.
    """
    ours, truth = finite(predicted, "points"), finite(reference, "reference points")
    _same_shape(ours, truth, "points")
    keep = confident_pixels(*confidences) if confidences else np.ones(truth.shape[:-1], dtype=bool)
    distance = np.linalg.norm(ours - truth, axis=-1)
    return float(np.median(distance[keep])) / scene_scale(np.linalg.norm(truth[keep], axis=-1))


def relative_error(value: AnyArray, reference: AnyArray) -> float:
    """Median of ``|value - reference| / |reference|``, for quantities that are never 0."""
    ours, truth = finite(value, "value"), finite(reference, "reference")
    _same_shape(ours, truth, "arrays to compare")
    return float(np.median(np.abs(ours - truth) / np.maximum(np.abs(truth), 1e-12)))


def vector_error(value: AnyArray, reference: AnyArray) -> float:
    """Median of ``|value - reference| / |reference|`` over vectors along the last axis, none of which is 0."""
    ours, truth = finite(value, "value"), finite(reference, "reference")
    _same_shape(ours, truth, "arrays to compare")
    lengths = np.maximum(np.linalg.norm(truth, axis=-1), 1e-12)
    return float(np.median(np.linalg.norm(ours - truth, axis=-1) / lengths))


def sky_changed(value: AnyArray, reference: AnyArray) -> float:
    """Share of the pixels that are sky in one of two maps and not in the other."""
    ours, truth = finite(value, "value"), finite(reference, "reference")
    _same_shape(ours, truth, "arrays to compare")
    return float(np.mean((ours >= SKY_FROM) != (truth >= SKY_FROM)))


def drift(value: AnyArray, reference: AnyArray) -> Drift:
    """Cosine, SQNR and absolute and relative errors of any array against its reference of the same shape.

    A relative error is taken against ``max(|reference|, 0.001 rms(reference))``, or, where the reference is zero
    everywhere, is the absolute error.
    """
    ours, truth = finite(value, "value").ravel(), finite(reference, "reference").ravel()
    _same_shape(ours, truth, "arrays to compare")
    if not truth.size:
        raise InputError("an empty array", where="arrays to compare", expected="at least one element")
    error = np.abs(ours - truth)
    rms = float(np.sqrt(np.mean(truth**2)))
    relative = error / np.maximum(np.abs(truth), RELATIVE_FLOOR * rms if rms > 0 else 1.0)
    return Drift(
        cosine=_cosine(ours, truth),
        sqnr_db=_sqnr_db(float(np.sum(truth**2)), float(np.sum(error**2))),
        max_abs=float(error.max()),
        p99_abs=float(np.percentile(error, 99)),
        max_rel=float(relative.max()),
        p99_rel=float(np.percentile(relative, 99)),
    )


def _cosine(first: Array, second: Array) -> float:
    """1 for two zero vectors (they agree), 0 for one."""
    lengths = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    if 0.0 in lengths:
        return float(lengths[0] == lengths[1])
    return float(np.dot(first / lengths[0], second / lengths[1]))


def _sqnr_db(signal: float, noise: float) -> float:
    if noise == 0:
        return SQNR_LIMIT_DB
    if signal == 0:
        return -SQNR_LIMIT_DB
    return float(np.clip(10 * (np.log10(signal) - np.log10(noise)), -SQNR_LIMIT_DB, SQNR_LIMIT_DB))


def _same_shape(first: AnyArray, second: AnyArray, what: str) -> None:
    if np.shape(first) != np.shape(second):
        raise InputError(
            f"shapes {np.shape(first)} and {np.shape(second)} differ", where=what, expected="two arrays of one shape"
        )
