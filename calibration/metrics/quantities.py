"""What a model can put out: one class for each quantity, which knows its shape, its residual and its figures.

``output.py`` gives a quantity a name in a model. A quantity that only one architecture has may be defined in the file
of that architecture; nothing else needs to know it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from vggt_edge.calibration.metrics import figures
from vggt_edge.calibration.metrics.geometry import AnyArray, Array, decode_pose

_LEAST = 1e-12


class NothingToMeasureError(Exception):
    """The scenes cannot give this figure, whatever the model does; the text says why."""


class Truth(Protocol):
    """The ground truth of a scene, as ``scenes.scene.GroundTruth`` holds it."""

    @property
    def extrinsics(self) -> AnyArray: ...

    @property
    def depth(self) -> AnyArray | None: ...

    @property
    def points(self) -> AnyArray | None: ...


@dataclass(frozen=True)
class Pair:
    """One output on one scene beside what it is compared with, both without a batch axis.

    - ours: (S, ...), the judged output.
    - reference: FP32's output of the same shape, or what ``Quantity.truth`` took from the ground truth.
    - size: (H, W) of the frames.
    - confidences: (S, H, W) of the reference, where the model says how far to trust a pixel.
    - valid: (S, H, W), False for pixels that were filled up with white or have no ground truth; None where all count.
    """

    ours: AnyArray
    reference: AnyArray
    size: tuple[int, int]
    confidences: tuple[AnyArray, ...] = ()
    valid: AnyArray | None = None

    def shown(self, values: AnyArray) -> AnyArray:
        """A map (S, rows, columns, ...) without the cells whose middle is not valid, (N, ...)."""
        return shown_cells(values, self.valid)


def shown_cells(values: AnyArray, valid: AnyArray | None) -> AnyArray:
    """The cells of a map (S, rows, columns, ...) whose middle ``valid`` (S, H, W) keeps, (N, ...).

    All of ``values``, as they are, where ``valid`` is None or ``values`` are no map of these frames.
    """
    if valid is None or values.ndim < 3 or len(values) != len(valid):
        return values
    rows, columns = (
        ((np.arange(cells) + 0.5) * pixels / cells).astype(np.int64)
        for cells, pixels in zip(values.shape[1:3], valid.shape[1:], strict=True)
    )
    return values[valid[:, rows[:, None], columns]]


@dataclass(frozen=True)
class Measure:
    """Figures that one computation gives.

    - metrics: their names, in the order of the values.
    - compute: from the pairs of all scenes to the values. ``InputError``: the output is unusable.
      ``NothingToMeasureError``: these scenes cannot give the figures.
    - gates: by metric, the field of ``devices.profile.Tolerances`` that limits it. The suffix of the field says which
      way: ``_min``, ``_max``; against ground truth ``_drop..._max`` and ``_increase_max`` limit the loss from FP32.
    """

    metrics: tuple[str, ...]
    compute: Callable[[Sequence[Pair]], Sequence[float]]
    gates: Mapping[str, str] = field(default_factory=dict)


class Quantity(ABC):
    """What one output means.

    - kind: its name in ``kit.json``, by which an app knows how to decode it.
    - unit: of its values, for people.
    - weight: of its error in sensitivity and tuning; 0 for what is only reported.
    - varies: whether FP32 giving one value for every pixel means that the model is broken.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]
    weight: ClassVar[float] = 0.0
    varies: ClassVar[bool] = False

    @abstractmethod
    def shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        """The shape of the output for one scene, without a batch axis."""

    @property
    @abstractmethod
    def against_fp32(self) -> tuple[Measure, ...]:
        """Figures against FP32's output. At least one has a gate and can be computed for every scene."""

    @property
    def against_truth(self) -> tuple[Measure, ...]:
        """Figures against what ``truth`` gives."""
        return ()

    def residual(self, output: Tensor, reference: Tensor, scale: float) -> Tensor:
        """Dimensionless residuals of ``output`` (..., as ``shape``), differentiable everywhere.

        scale: of the scene. This one: the difference as a share of the root mean square of the reference.
        """
        return (output - reference) / _rms(reference)

    def slopes(self, reference: Tensor, scale: float) -> tuple[Tensor, int]:
        """How fast the residuals grow with the output, element by element, and how many residuals there are.

        For a small difference d the mean of r^2 is that of sum((slopes * d)^2) / count.
        """
        return torch.ones_like(reference) / _rms(reference), reference.numel()

    def distances(self, reference: AnyArray) -> AnyArray | None:
        """Distances that tell the size of the scene; None where the quantity holds none."""
        return None

    def truth(self, scene: Truth) -> AnyArray | None:
        """The same quantity as ground truth; None where the scene has none."""
        return None

    def aligned(self, ours: AnyArray, reference: AnyArray) -> AnyArray:
        """``ours`` in the representation of ``reference``, where one value has several; as it is for all others."""
        return ours


def _rms(reference: Tensor) -> Tensor:
    return reference.square().mean().sqrt().clamp(min=_LEAST)


def _mean_over_scenes(measure: Callable[[Pair], tuple[float, ...]]) -> Callable[[Sequence[Pair]], list[float]]:
    return lambda pairs: [float(np.mean(column)) for column in zip(*map(measure, pairs), strict=True)]


def _relative_error(pair: Pair) -> tuple[float, ...]:
    return (figures.relative_error(pair.shown(pair.ours), pair.shown(pair.reference)),)


# --- camera -----------------------------------------------------------------------------------------------------------


def _aucs(pairs: Sequence[Pair], ours: Callable[[Pair], Array], reference: Callable[[Pair], AnyArray]) -> list[float]:
    """AUC at every threshold; pairs of frames are pooled over the scenes."""
    several = [pair for pair in pairs if len(pair.ours) > 1]
    if not several:
        raise NothingToMeasureError("relative poses need scenes of two frames or more")
    errors = [figures.pose_errors(ours(pair), reference(pair)) for pair in several]
    worst = figures.PoseErrors.pooled(errors).worst_deg
    return [figures.auc(worst, threshold) for threshold in figures.AUC_THRESHOLDS]


class Camera(Quantity):
    """What tells where each camera stands and how it sees: any encoding of extrinsics and intrinsics."""

    weight = 1.0

    @abstractmethod
    def cameras(self, value: AnyArray, size: tuple[int, int]) -> tuple[Array, Array]:
        """Extrinsics (S, 3, 4), world to camera, and intrinsics (S, 3, 3) in pixels of frames of ``size`` (H, W)."""

    @property
    def against_fp32(self) -> tuple[Measure, ...]:
        """Relative poses need two frames; focal lengths are judged for a single one as well."""
        poses, focal = {"auc30": "pose_auc30_vs_fp32_min"}, {"focal_error": "pose_focal_vs_fp32_max"}
        return (
            Measure(("auc30",), lambda pairs: _aucs(pairs, self._ours, self._reference)[:1], poses),
            Measure(("focal_error",), _mean_over_scenes(self._focal_error), focal),
        )

    @property
    def against_truth(self) -> tuple[Measure, ...]:
        metrics = tuple(f"auc{threshold}" for threshold in figures.AUC_THRESHOLDS)
        drop = {"auc30": "auc30_drop_points_max"}
        return (Measure(metrics, lambda pairs: _aucs(pairs, self._ours, lambda pair: pair.reference), drop),)

    def truth(self, scene: Truth) -> AnyArray | None:
        return scene.extrinsics

    def _ours(self, pair: Pair) -> Array:
        return self.cameras(pair.ours, pair.size)[0]

    def _reference(self, pair: Pair) -> Array:
        return self.cameras(pair.reference, pair.size)[0]

    def _focal_error(self, pair: Pair) -> tuple[float, ...]:
        ours, reference = (self.cameras(each, pair.size)[1] for each in (pair.ours, pair.reference))
        axes = [0, 1]
        return (figures.relative_error(ours[:, axes, axes], reference[:, axes, axes]),)


class PoseEncoding(Camera):
    """(S, 9): translation 3, quaternion xyzw 4, vertical and horizontal field of view; world to camera."""

    kind = "pose_encoding"
    unit = "scene units, unit quaternion xyzw, radians"

    def shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        return (frames, 9)

    def residual(self, output: Tensor, reference: Tensor, scale: float) -> Tensor:
        """Translation difference / scene scale, quaternion difference (sign aligned), field-of-view difference."""
        difference = output - reference
        quaternion, wanted = output[..., 3:7], reference[..., 3:7]
        # q and -q are the same rotation.
        sign = torch.where((quaternion * wanted).sum(dim=-1, keepdim=True) < 0, -1.0, 1.0)
        return torch.cat([difference[..., :3] / scale, sign * quaternion - wanted, difference[..., 7:]], dim=-1)

    def slopes(self, reference: Tensor, scale: float) -> tuple[Tensor, int]:
        slopes = torch.ones_like(reference)
        slopes[..., :3] /= scale
        return slopes, reference.numel()

    def cameras(self, value: AnyArray, size: tuple[int, int]) -> tuple[Array, Array]:
        return decode_pose(value, size)

    def aligned(self, ours: AnyArray, reference: AnyArray) -> AnyArray:
        """Quaternions on the reference's side: q and -q are one rotation, and must not look like drift."""
        flip = np.sum(ours[:, 3:7] * reference[:, 3:7], axis=-1, keepdims=True) < 0
        result = np.array(ours)
        result[:, 3:7] = np.where(flip, -result[:, 3:7], result[:, 3:7])
        return result


# --- maps -------------------------------------------------------------------------------------------------------------


def _depth_errors(pair: Pair) -> tuple[float, ...]:
    errors = figures.depth_errors(pair.ours, pair.reference, pair.valid)
    return errors.abs_rel, errors.rmse, errors.delta125


def _depth_drift(pair: Pair) -> tuple[float, ...]:
    """AbsRel after the medians are made equal, and how far apart the medians were: AbsRel alone does not see that."""
    errors = figures.depth_errors(pair.ours, pair.reference, pair.valid)
    return errors.abs_rel, abs(1 / errors.scale - 1)


class Depth(Quantity):
    """(S, H, W): depth of every pixel along the optical axis, in the unit of the scene."""

    kind = "depth"
    unit = "scene units"
    weight = 1.0
    varies = True
    against_fp32 = (
        Measure(
            ("abs_rel", "scale_error"),
            _mean_over_scenes(_depth_drift),
            {"abs_rel": "depth_abs_rel_vs_fp32_max", "scale_error": "depth_abs_rel_vs_fp32_max"},
        ),
    )
    against_truth = (
        Measure(
            ("abs_rel", "rmse", "delta125"),
            _mean_over_scenes(_depth_errors),
            {"abs_rel": "abs_rel_increase_max", "delta125": "delta125_drop_max"},
        ),
    )

    def shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        return (frames, height, width)

    def residual(self, output: Tensor, reference: Tensor, scale: float) -> Tensor:
        """Difference / FP32 depth, per pixel."""
        return (output - reference) / reference.clamp(min=1e-6 * scale)

    def slopes(self, reference: Tensor, scale: float) -> tuple[Tensor, int]:
        return torch.ones_like(reference) / reference.clamp(min=1e-6 * scale), reference.numel()

    def distances(self, reference: AnyArray) -> AnyArray | None:
        return reference

    def truth(self, scene: Truth) -> AnyArray | None:
        return scene.depth


def _point_errors(pair: Pair) -> tuple[float, ...]:
    errors = figures.point_errors(pair.ours, pair.reference, pair.valid)
    return errors.accuracy, errors.completeness, errors.normal_consistency


def _points_relative(pair: Pair) -> tuple[float, ...]:
    trusted = tuple(pair.shown(each) for each in pair.confidences)
    return (figures.points_relative_error(pair.shown(pair.ours), pair.shown(pair.reference), trusted),)


class Points(Quantity):
    """(S, H, W, 3): the point of every pixel, in the coordinates of frame 0's camera."""

    kind = "points"
    unit = "scene units"
    weight = 1.0
    varies = True
    against_fp32 = (
        Measure(
            ("relative_error",),
            _mean_over_scenes(_points_relative),
            {"relative_error": "points_rel_vs_fp32_max"},
        ),
    )
    # Completeness can improve under damage, and accuracy has the unit of the scene: neither can be a gate.
    against_truth = (Measure(("accuracy", "completeness", "normal_consistency"), _mean_over_scenes(_point_errors)),)

    def shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        return (frames, height, width, 3)

    def residual(self, output: Tensor, reference: Tensor, scale: float) -> Tensor:
        """||difference|| / scene scale, per pixel."""
        # Unlike the root of a sum of squares, this norm has a finite gradient where the difference is 0.
        return torch.linalg.vector_norm(output - reference, dim=-1) / scale  # type: ignore[no-any-return]

    def slopes(self, reference: Tensor, scale: float) -> tuple[Tensor, int]:
        """The three coordinates of a pixel make one residual."""
        return torch.ones_like(reference) / scale, reference.numel() // reference.shape[-1]

    def distances(self, reference: AnyArray) -> AnyArray | None:
        return np.asarray(np.linalg.norm(reference, axis=-1))

    def truth(self, scene: Truth) -> AnyArray | None:
        return scene.points


class Confidence(Quantity):
    """(S, H, W): how far to trust each pixel of another map; without a unit, it only orders the pixels."""

    kind = "confidence"
    unit = "from 1, no unit"
    against_fp32 = (
        Measure(
            ("relative_error",),
            _mean_over_scenes(_relative_error),
            {"relative_error": "confidence_rel_vs_fp32_max"},
        ),
    )

    def shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        return (frames, height, width)


def _sky_changed(pair: Pair) -> tuple[float, ...]:
    return (figures.sky_changed(pair.shown(pair.ours), pair.shown(pair.reference)),)


class Sky(Quantity):
    """(S, H, W): how much a pixel is of the sky, from 0; sky from ``figures.SKY_FROM`` on."""

    kind = "sky"
    unit = "from 0, no unit"
    weight = 1.0
    against_fp32 = (Measure(("changed",), _mean_over_scenes(_sky_changed), {"changed": "sky_changed_vs_fp32_max"}),)

    def shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        return (frames, height, width)

    def residual(self, output: Tensor, reference: Tensor, scale: float) -> Tensor:
        """The difference itself: a picture without sky is 0 everywhere."""
        return output - reference

    def slopes(self, reference: Tensor, scale: float) -> tuple[Tensor, int]:
        return torch.ones_like(reference), reference.numel()


# --- maps of coarser cells --------------------------------------------------------------------------------------------


def _vector_error(pair: Pair) -> tuple[float, ...]:
    return (figures.vector_error(pair.shown(pair.ours), pair.shown(pair.reference)),)


@dataclass(frozen=True)
class Rays(Quantity):
    """(S, rows, columns, 6): for each cell of the image a direction (3) and an origin (3), in the world.

    The point at depth d is origin + d * direction. cells, pixels: so many cells lie along so many pixels.
    """

    cells: int
    pixels: int

    kind = "rays"
    unit = "direction: per unit of depth; origin: scene units"
    weight = 1.0
    varies = True
    against_fp32 = (
        Measure(("relative_error",), _mean_over_scenes(_vector_error), {"relative_error": "rays_rel_vs_fp32_max"}),
    )

    def shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        return (frames, *(side * self.cells // self.pixels for side in (height, width)), 6)


@dataclass(frozen=True)
class RayConfidence(Confidence):
    """(S, rows, columns): how far to trust each ray. cells, pixels: as of ``Rays``."""

    cells: int
    pixels: int

    kind = "ray_confidence"

    def shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        return Rays(self.cells, self.pixels).shape(frames, height, width)[:-1]


KINDS: Mapping[str, Quantity] = MappingProxyType(
    {
        quantity.kind: quantity
        for quantity in (PoseEncoding(), Depth(), Points(), Confidence(), Sky(), Rays(8, 14), RayConfidence(8, 14))
    }
)
"""The quantities that the apps of the device kits know, by kind; of rays, eight cells along 14 pixels."""
