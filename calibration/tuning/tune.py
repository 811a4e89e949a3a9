"""Tuning of a whole model, stage by stage, in place.

The FP32 model is walked forward, then a probe of the task outputs is pulled back through it (calibration/probes.py): in
every layer that tells what each token, and each element of its input, means for poses, depth and points. Tokens enter
the Hessians of error-compensating rounding with that weight, and the scale of an input is the one whose rounding
disturbs the outputs least. So the search is for the task's objective, without a forward for every candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from vggt_edge.calibration.apply import realised_scheme
from vggt_edge.calibration.collect import layers_of
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.probes import Seen, pulled_back
from vggt_edge.calibration.scenes import Scene
from vggt_edge.calibration.scheme import Scheme, scheme
from vggt_edge.calibration.transforms.wiring import Unit, WiredModel
from vggt_edge.calibration.tuning.input_scale import Sample
from vggt_edge.calibration.tuning.layer import Evidence, tune_layer
from vggt_edge.calibration.tuning.smooth import smooth
from vggt_edge.calibration.walk import Stage, StageTime
from vggt_edge.devices.errors import InputError

SAMPLED_TOKENS = 2048
SAMPLED_BYTES = 64 << 20  # of maps that come into one convolution


@dataclass
class _Collected:
    """What has come into one layer so far; of tokens and maps a share of each scene is kept, evenly spread."""

    scenes: int
    hessian: Tensor | None = None
    samples: list[Sample] = field(default_factory=list)
    channel_absmax: Tensor | None = None

    def add(self, layer: nn.Module, seen: Seen) -> None:
        peaks = seen.x.transpose(1, -1).abs().flatten(0, -2).amax(dim=0)
        self.channel_absmax = peaks if self.channel_absmax is None else torch.maximum(self.channel_absmax, peaks)
        if isinstance(layer, nn.Linear):
            rows, slopes = seen.x.reshape(-1, seen.x.shape[-1]), seen.by_input.reshape(-1, seen.x.shape[-1])
            product = _weighted_hessian(rows, seen.by_output.reshape(len(rows), -1))
            self.hessian = product if self.hessian is None else self.hessian.add_(product)
            kept = _spread(len(rows), max(1, SAMPLED_TOKENS // self.scenes))
        else:
            rows, slopes = seen.x, seen.by_input
            kept = _spread(len(rows), max(1, SAMPLED_BYTES // (self.scenes * rows[0].nbytes)))
        self.samples.append(Sample(rows[kept].clone(), slopes[kept].clone(), len(kept) / len(rows)))

    def evidence(self) -> Evidence:
        assert self.channel_absmax is not None
        share = sum(one.share for one in self.samples) / len(self.samples)
        x, slopes = (torch.cat([getattr(one, name) for one in self.samples]) for name in ("x", "slopes"))
        return Evidence(self.hessian, Sample(x, slopes, share), self.channel_absmax)


def _weighted_hessian(rows: Tensor, by_output: Tensor) -> Tensor:
    """Sum over tokens of x x^T, each with the mean square of the gradient by its output as its weight."""
    weights = by_output.float().square().mean(dim=1, keepdim=True)
    rows = rows.float()
    return (rows * weights).T @ rows


def _spread(count: int, wanted: int) -> Tensor:
    return torch.linspace(0, count - 1, min(wanted, count)).long()


def tune(
    model: WiredModel,
    plan: PrecisionPlan,
    scenes: Sequence[Scene],
    *,
    seed: int = 0,
    smoothing: bool = True,
    folder: Path | None = None,
    on_tuned: Callable[[int, Stage], None] | None = None,
    on_stage: Callable[[StageTime], None] | None = None,
) -> None:
    """Tune every layer of every block, in place, for the scheme that ``plan`` gives it, from the last to the first.

    Layers that the plan excludes stay as they are. seed: of the probe. folder: for running values, which else stay in
    memory. on_tuned: called with each stage once it is tuned. ``InputError`` without scenes.
    """
    if not scenes:
        raise InputError("no scenes to tune on", expected="at least one scene", remedy="name some with --scenes")
    plan.check_total(model.blocks())
    tuner = _Tuner(model, plan, len(scenes), on_tuned or (lambda index, stage: None), smoothing)
    for time in pulled_back(model, scenes, tuner.seen, tuner.finished, seed=seed, journal_folder=folder):
        if on_stage is not None:
            on_stage(time)


@dataclass
class _Tuner:
    model: WiredModel
    plan: PrecisionPlan
    scenes: int
    on_tuned: Callable[[int, Stage], None]
    smoothing: bool
    collected: dict[str, _Collected] = field(default_factory=dict)

    def seen(self, name: str, layer: nn.Module, seen: Seen) -> None:
        self.collected.setdefault(name, _Collected(self.scenes)).add(layer, seen)

    def finished(self, index: int, stage: Stage) -> None:
        blocks, group_size = self.model.blocks(), self.plan.group_size
        for name in stage.blocks:
            block, layers = blocks[name], self._tuned_layers(name, blocks[name])
            schemes = {path: self._realised(name, layer) for path, layer in layers.items()}
            evidence = {path: self.collected[f"{name}.{path}"].evidence() for path in layers}
            if self.smoothing:
                smooth(block, self.units[id(block)], schemes, group_size, evidence)
            for path, layer in layers.items():
                tune_layer(layer, schemes[path], group_size, evidence[path])
        self.collected = {}
        self.on_tuned(index, stage)

    @cached_property
    def units(self) -> dict[int, Unit]:
        """By the identity of the module."""
        return {id(self.model.get_submodule(unit.path)): unit for unit in self.model.wiring().units}

    def _tuned_layers(self, name: str, block: nn.Module) -> dict[str, nn.Module]:
        excluded = self.plan.assignment(name).excluded
        return {path: layer for path, layer in layers_of(block).items() if path not in excluded}

    def _realised(self, name: str, layer: nn.Module) -> Scheme:
        return scheme(realised_scheme(layer, self.plan.assignment(name).scheme, self.plan.group_size))
