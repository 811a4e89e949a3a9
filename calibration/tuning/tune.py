"""Tuning of a whole model, stage by stage, in place.

The FP32 model is walked forward, then a probe of the task outputs is pulled back through it (sensitivity/probes.py): in
every layer that tells what each token, and each element of its input, means for poses, depth and points. Tokens enter
the Hessians of error-compensating rounding with that weight, and the scale of an input is the one whose rounding
disturbs the outputs least. So the search is for the task's objective, without a forward for every candidate.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vggt_edge.calibration.apply import check_weights
from vggt_edge.calibration.observation.collect import layers_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.quantization.form import LayerShape
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.sensitivity.probes import Seen, pulled_back
from vggt_edge.calibration.stages.journal import FileJournal, MemoryJournal
from vggt_edge.calibration.stages.walk import IMAGES, Journal, Stage, StageTime
from vggt_edge.calibration.transforms.wiring import Unit, WiredModel
from vggt_edge.calibration.tuning.collected import Collected
from vggt_edge.calibration.tuning.layer import Evidence, tune_layer
from vggt_edge.calibration.tuning.parts import EFFORTS, Parts
from vggt_edge.calibration.tuning.reconstruct import Reconstruction
from vggt_edge.calibration.tuning.smooth import smooth
from vggt_edge.calibration.tuning.tokens import PATCHES_ONLY, design_points, special_of, token_basis
from vggt_edge.devices.errors import InputError


def tune(
    model: WiredModel,
    plan: PrecisionPlan,
    stats: CalibrationStats,
    scenes: Sequence[Scene],
    *,
    seed: int = 0,
    parts: Parts = EFFORTS["balanced"].parts,
    folder: Path | None = None,
    on_tuned: Callable[[int, Stage], None] | None = None,
    on_learned: Callable[[int, Stage], None] | None = None,
    on_stage: Callable[[StageTime], None] | None = None,
) -> None:
    """Tune every layer of every block, in place, for the scheme that ``plan`` gives it, from the last to the first.

    Layers that the plan excludes stay as they are. seed: of the probe. folder: for running values, which else stay in
    memory; a killed tuning goes on there, with a model that has what ``on_tuned`` was told of the stages from
    ``tuned_from`` on. on_tuned: called with each stage once it is tuned. on_learned: after that, in the order in which
    they run, with those that reconstruction was tried on. stats: of ``model``, for ranges and for what is not tuned.
    ``InputError`` without scenes, and for images, weights and activations that are not finite or too large for the
    plan's schemes; what it tuned before it came there stays.
    """
    _check(scenes)
    plan.check_total(model.blocks())
    report = on_stage or (lambda time: None)
    values: Journal = MemoryJournal() if folder is None else FileJournal(folder / "forward", 0)
    tuner = Tuner(model, plan, stats, len(scenes), on_tuned or _ignored, parts)
    substitute = tuner.designed if parts.tokens == "designed" else None
    passes = 3 if parts.reconstruction else 2
    total = passes * len(model.stages())
    with _named_weights(model):
        for time in pulled_back(
            model,
            scenes,
            tuner.seen,
            tuner.finished,
            seed=seed,
            journal_folder=folder,
            substitute=substitute,
            values=values,
        ):
            report(replace(time, total=total))
    if parts.reconstruction:
        learning = Reconstruction(model, plan, stats, scenes, values, _fresh(folder), seed, on_learned or _ignored)
        for time in learning.run():
            report(replace(time, done=total - len(model.stages()) + time.done, total=total))


def tuned_from(folder: Path, stages: int) -> int:
    """From which of the model's ``stages`` on a killed tuning in ``folder`` is done; ``stages`` where it has not begun.

    A stage before it may have been told to ``on_tuned`` all the same: it is tuned again, from its FP32 weights.
    """
    return stages - FileJournal(folder / "backward", 0).stages_done


def _fresh(folder: Path | None) -> Journal:
    """For what the quantized model computes: learning begins anew after a kill."""
    if folder is None:
        return MemoryJournal()
    shutil.rmtree(folder / "quantized", ignore_errors=True)
    return FileJournal(folder / "quantized", 0)


def _check(scenes: Sequence[Scene]) -> None:
    if not scenes:
        raise InputError("no scenes to tune on", expected="at least one scene", remedy="name some with --scenes")
    for scene in scenes:
        if not bool(np.isfinite(scene.images).all()):
            raise InputError(
                f"the images of scene {scene.name} are not finite",
                where=scene.name,
                expected="values in [0, 1]",
                remedy="read the images again, or leave this scene out",
            )


@contextmanager
def _named_weights(model: WiredModel) -> Iterator[None]:
    """Where something is not finite, the weight that is the cause says more than the output that it has reached."""
    try:
        yield
    except InputError:
        for path, module in model.named_modules():
            check_weights(path, module)
        raise


def _ignored(index: int, stage: Stage) -> None:
    """Nobody asked."""


@dataclass
class Tuner:
    """Collects what comes into the layers of one stage, and tunes the stage when all scenes have passed it."""

    model: WiredModel
    plan: PrecisionPlan
    stats: CalibrationStats
    scenes: int
    on_tuned: Callable[[int, Stage], None]
    parts: Parts
    collected: dict[str, Collected] = field(default_factory=dict)

    def seen(self, name: str, layer: nn.Module, seen: Seen) -> None:
        if self.parts.tokens != "all" and seen.x.ndim == 2:
            seen = self._filtered(seen)
        self.collected.setdefault(name, Collected(name, self.scenes, self.parts)).add(layer, seen)

    def _filtered(self, seen: Seen) -> Seen:
        special = special_of(len(seen.x), self.model.shape.tokens, self.model.special_tokens)
        return Seen(*(PATCHES_ONLY.counted(value, special) for value in (seen.x, seen.by_input, seen.by_output)))

    def designed(self, journal: Journal) -> None:
        """Replace camera tokens, of all scenes, by design points of their distribution."""
        known = {IMAGES, *self.model.constants()}
        for stage in self.model.stages():
            for name in stage.reads if stage.blocks else ():
                if name in known:
                    continue
                values = [journal.get(scene, name) for scene in range(self.scenes)]
                if values[0].ndim == 2 and len(values[0]) % self.model.shape.tokens:
                    points = design_points(token_basis(torch.cat(values)))
                    rows = len(values[0])
                    for scene in range(self.scenes):
                        chosen = torch.arange(scene * rows, (scene + 1) * rows) % len(points)
                        journal.put(scene, name, points[chosen])

    def finished(self, index: int, stage: Stage) -> None:
        blocks = self.model.blocks()
        for name in stage.blocks:
            try:
                self._tune_block(name, blocks[name])
            except ValueError as error:
                raise InputError(
                    f"block {name} cannot be tuned for {self.plan.assignment(name).scheme}: {error}",
                    where=name,
                    expected="weights and activations within the FP16 range",
                    remedy=f"keep it out with --exclude {name}, or check the checkpoint",
                ) from error
        self.collected = {}
        self.on_tuned(index, stage)

    def _tune_block(self, name: str, block: nn.Module) -> None:
        layers = self._tuned_layers(name, block)
        forms = {path: self.plan.form_of(name, path, LayerShape.of(layer)) for path, layer in layers.items()}
        evidence = {path: self._evidence(f"{name}.{path}", layer) for path, layer in layers.items()}
        if self.parts.smoothing:
            smooth(block, self.units[id(block)], forms, evidence, self.parts.shift)
        for path, layer in layers.items():
            tune_layer(layer, forms[path], evidence[path], self.parts.compensation)

    def _evidence(self, name: str, layer: nn.Module) -> Evidence:
        check_weights(name, layer)
        evidence = self.collected.pop(name).evidence(layer)
        if evidence.is_finite:
            # The ranges of the few scenes that tuning may look at are too short for the others.
            peaks = torch.from_numpy(self.stats.channel_peaks(name))
            return replace(evidence, channel_absmax=torch.maximum(evidence.channel_absmax, peaks))
        for path, module in self.model.named_modules():  # NaN spreads: any layer may be where it began
            check_weights(path, module)
        raise InputError(
            f"what layer {name} reads, or its gradient, is not finite",
            where=name,
            expected="finite activations from the FP32 model",
            remedy="check the checkpoint and the scenes: the FP32 model itself is broken on them",
        )

    @cached_property
    def units(self) -> dict[int, Unit]:
        """By the identity of the module."""
        return {id(self.model.get_submodule(unit.path)): unit for unit in self.model.wiring().units}

    def _tuned_layers(self, name: str, block: nn.Module) -> dict[str, nn.Module]:
        return {path: layer for path, layer in layers_of(block).items() if not self.plan.is_kept(name, path)}
