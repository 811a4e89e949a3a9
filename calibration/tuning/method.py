"""Our whole recipe on a model that fits in memory, for comparison with others; an export runs the same passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from vggt_edge.calibration.apply import apply_plan
from vggt_edge.calibration.collect import calibrate
from vggt_edge.calibration.cost import conv_scheme
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.scenes import Scene
from vggt_edge.calibration.scheme import Scheme
from vggt_edge.calibration.transforms.prepare import prepare
from vggt_edge.calibration.transforms.wiring import WiredModel
from vggt_edge.calibration.tuning.tune import tune

M = TypeVar("M", bound=WiredModel)
GROUP_SIZE = 64  # recorded in plans whose scheme has no groups


def quantize(
    model: M,
    scenes: Sequence[Scene],
    scheme: Scheme,
    seed: int,
    effort: str,
    *,
    rotate: bool = True,
    heads: bool = True,
    tuned: bool = True,
) -> M:
    """A quantized copy of ``model``, every block in ``scheme``. seed: of the rotations."""
    ours = prepare(model, seed, rotate=rotate, heads=heads)
    stats = calibrate(ours, scenes)
    plan = uniform(ours, scheme, stats.model_digest, stats.digest)
    if tuned:
        tune(ours, plan, scenes, seed=seed)
    apply_plan(ours, plan, stats)
    return ours


def uniform(model: WiredModel, scheme: Scheme, model_digest: str, stats_digest: str) -> PrecisionPlan:
    """One scheme for all blocks; heads of convolutions get the form that those have."""
    names = {
        name: conv_scheme(scheme.name) if name.endswith("_head") else scheme.name for name in model.blocks()
    }
    assignments = tuple(Assignment(name, wanted, "uniform", 0.0, 0, 0.0) for name, wanted in names.items())
    group_size = scheme.group_size or GROUP_SIZE
    return PrecisionPlan(model_digest, stats_digest, "comparison", group_size, assignments, rest_scheme="fp16")


ABLATIONS: Mapping[str, Callable[..., WiredModel]] = MappingProxyType({
    "ours-rotation": partial(quantize, rotate=False),
    "ours-heads": partial(quantize, heads=False),
    "ours-transforms": partial(quantize, rotate=False, heads=False),
    "ours-tuning": partial(quantize, tuned=False),
})
