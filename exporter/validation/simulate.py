"""Runs a model over scenes one stage at a time: in FP32, or as a plan would quantize it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from vggt_edge.calibration.apply import quantized_stage
from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.stages.journal import FileJournal
from vggt_edge.calibration.stages.walk import Stage, StagedModel, StageTime, walk
from vggt_edge.exporter.validation.outputs import Outputs


def simulated(
    model: StagedModel, plan: PrecisionPlan, stats: CalibrationStats
) -> Callable[[Stage], AbstractContextManager[None]]:
    """What to put ``around`` the stages of a walk so that they compute with quantized weights and activations."""
    return partial(quantized_stage, model, plan=plan, stats=stats)


def run_stagewise(
    model: StagedModel,
    scenes: Sequence[Scene],
    folder: Path,
    on_stage: Callable[[StageTime], None],
    around: Callable[[Stage], AbstractContextManager[object]] = lambda stage: nullcontext(),
) -> list[Outputs]:
    """The outputs for each scene, by name, each (1, S, ...). ``folder`` keeps what a killed run has done."""
    journal = FileJournal(folder)
    images = [images_of(scene) for scene in scenes]
    for time in walk(model, images, journal, around=around, kept=model.output_names):
        on_stage(time)
    return [{name: journal.get(scene, name).numpy() for name in model.output_names} for scene in range(len(scenes))]
