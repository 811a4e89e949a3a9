"""vggt-mini on held-out rooms, for benchmarks that change its weights: models, their outputs, figures against FP32."""

from __future__ import annotations

import math
from functools import cached_property
from statistics import mean

from torch import nn

from vggt_edge.calibration import apply
from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.calibration.tuning.method import quantize
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.models.vggt import ARCHITECTURE, VGGT
from vggt_edge.exporter.steps.inputs import (
    BENCH_SEED,
    CALIBRATION_SCENES,
    CALIBRATION_SEED,
    Outputs,
    run_model,
    synthetic,
)
from vggt_edge.exporter.validation import figures
from vggt_edge.exporter.validation.figures import Sample
from vggt_edge.exporter.validation.outputs import without_batch

HEADER = "| AUC@30 | AUC@5 | AbsRel | cross-head | points against FP32, dB |\n|---|---|---|---|---|---|"


class Rooms:
    """``count`` synthetic rooms of ``shape``, and the checkpoint that is run on them."""

    def __init__(self, shape: InputShape, count: int) -> None:
        self.shape, self.checkpoint = shape, open_model("vggt-mini")
        self._shown = (shape.frames, shape.height, shape.width)
        self.scenes = synthetic(BENCH_SEED, count, 0, *self._shown)

    def model(self) -> VGGT:
        """A model of its own, in FP32."""
        return build_model(self.checkpoint, self.shape, OUTPUTS)

    @cached_property
    def stats(self) -> CalibrationStats:
        """Statistics of the rooms that an export calibrates on."""
        scenes = synthetic(CALIBRATION_SEED, 8, 0, *self._shown)
        return calibrate(self.model(), scenes, digest=self.checkpoint.digest)

    @cached_property
    def fp32(self) -> list[Outputs]:
        """Outputs of the unchanged model."""
        return self.outputs(self.model())

    def outputs(self, model: nn.Module) -> list[Outputs]:
        """Outputs of ``model`` on every room."""
        return [
            without_batch(ARCHITECTURE.outputs, run_model(model, scene), self._shown, scene.name)  # type: ignore[arg-type]
            for scene in self.scenes
        ]

    def rounded(self, name: str) -> list[Outputs]:
        """Outputs with all blocks in the scheme ``name``, rounded to nearest."""
        model = self.model()
        assignments = tuple(Assignment(block, name, "benchmark", 0.0, 0, 0.0) for block in model.blocks())
        plan = PrecisionPlan("model", self.stats.digest, "none", 64, assignments, rest_scheme="w8a16")
        apply.apply_plan(model, plan, self.stats)
        return self.outputs(model)

    def tuned(self, name: str, effort: str, seed: int) -> list[Outputs]:
        """Outputs with all blocks in the scheme ``name``, prepared and tuned as an export does it."""
        scenes = synthetic(CALIBRATION_SEED, CALIBRATION_SCENES, 0, *self._shown)
        return self.outputs(quantize(self.model(), scenes, SCHEMES[name], seed, effort))

    def row(self, title: str, *ours: list[Outputs]) -> str:
        """A line of the table under ``HEADER``, which follows a cell for titles. ours: of each seed, for means."""
        figures = [self._figures(each) for each in ours]
        cells = (f"{mean(column):.3g}" for column in zip(*figures, strict=True))
        return f"| {title} | " + " | ".join(cells) + " |"

    def _figures(self, ours: list[Outputs]) -> tuple[float, ...]:
        samples = [Sample(*each) for each in zip(self.scenes, ours, self.fp32, strict=True)]
        declared = ARCHITECTURE.outputs
        truth = {(one.output, one.metric): one.value for one in figures.against_ground_truth(declared, samples)}
        (cross,) = (one.value for one in figures.cross_head(declared, samples) if one.metric == "cross_head")
        drifts = figures.drifts(declared, ours, self.fp32, self.scenes)
        points = next(one.value for one in drifts if (one.output, one.metric) == ("points", "sqnr_db"))
        found = (truth["pose_enc", "auc30"], truth["pose_enc", "auc5"], truth["depth", "abs_rel"], cross, points)
        return tuple(math.nan if one is None else one for one in found)
