"""Tuning of a whole model, stage by stage: the FP32 model is walked once, and each block is tuned after it has run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vggt_edge.calibration.activations import MemoryJournal
from vggt_edge.calibration.apply import realised_scheme
from vggt_edge.calibration.collect import images_of, layers_of
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scenes import Scene
from vggt_edge.calibration.scheme import scheme
from vggt_edge.calibration.tuning.layer import Evidence, tune_layer
from vggt_edge.calibration.walk import Journal, Stage, StagedModel, StageTime, walk
from vggt_edge.devices.errors import InputError

SAMPLED_TOKENS = 2048
SAMPLED_MAPS = 4


@dataclass
class _Seen:
    """What has come into one layer so far. Of tokens and maps a share of each call is kept, evenly spread."""

    calls: int
    hessian: Tensor | None = None
    samples: list[Tensor] = field(default_factory=list)
    absmax: float = 0.0

    def add(self, layer: nn.Module, x: Tensor) -> None:
        self.absmax = max(self.absmax, float(x.abs().max()))
        if isinstance(layer, nn.Linear):
            rows = x.reshape(-1, x.shape[-1]).float()
            product = rows.T @ rows
            self.hessian = product if self.hessian is None else self.hessian.add_(product)
            self.samples.append(_spread(rows, max(1, SAMPLED_TOKENS // self.calls)))
        elif sum(map(len, self.samples)) < SAMPLED_MAPS:
            self.samples.append(x[:1].clone())

    def evidence(self) -> Evidence:
        return Evidence(self.hessian, torch.cat(self.samples), self.absmax)


def _spread(rows: Tensor, count: int) -> Tensor:
    index = torch.linspace(0, len(rows) - 1, min(count, len(rows))).long()
    return rows[index].clone()


def tune(
    model: StagedModel,
    plan: PrecisionPlan,
    scenes: Sequence[Scene],
    *,
    journal: Journal | None = None,
    on_stage: Callable[[StageTime], None] | None = None,
) -> None:
    """Tune every layer of every block, in place, for the scheme that ``plan`` gives it.

    Inputs are those of the FP32 model. Layers that the plan excludes stay as they are. ``InputError`` without scenes.
    """
    if not scenes:
        raise InputError("no scenes to tune on", expected="at least one scene", remedy="name some with --scenes")
    plan.check_total(model.blocks())
    tuner = _Tuner(model, plan, len(scenes))
    images = [images_of(scene) for scene in scenes]
    for time in walk(model, images, journal or MemoryJournal(), around=tuner.around, finished=tuner.finished):
        if on_stage is not None:
            on_stage(time)


@dataclass
class _Tuner:
    model: StagedModel
    plan: PrecisionPlan
    scenes: int
    seen: dict[str, _Seen] = field(default_factory=dict)

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        self.seen = {}
        handles = [layer.register_forward_pre_hook(self._hook(name)) for name, layer in self._layers(stage)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def finished(self, index: int, stage: Stage) -> None:
        for name, layer in self._layers(stage):
            if name not in self.seen:
                continue
            real = scheme(realised_scheme(layer, self._wanted(name, stage), self.plan.group_size))
            tune_layer(layer, real, self.plan.group_size, self.seen[name].evidence())

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.seen.setdefault(name, _Seen(self.scenes)).add(module, inputs[0])

        return observe

    def _layers(self, stage: Stage) -> list[tuple[str, nn.Module]]:
        blocks = self.model.blocks()
        return [
            (f"{block}.{path}", layer)
            for block in stage.blocks
            for path, layer in layers_of(blocks[block]).items()
            if path not in self.plan.assignment(block).excluded
        ]

    def _wanted(self, name: str, stage: Stage) -> str:
        block = next(block for block in stage.blocks if name.startswith(f"{block}."))
        return self.plan.scheme_of(block).name

