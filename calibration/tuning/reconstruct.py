"""Block reconstruction: what a quantized block computes is learned to be what the FP32 block computes.

As in BRECQ (Li et al., ICLR 2021), block after block. Learned are weights (by which way each is rounded), scales,
static input scales (by which ranges are clipped), biases and the affine of LayerNorms; the inputs are those that the
quantized blocks before it hand over, the targets those of the FP32 model, so that errors do not add up on the way.

A quarter of the scenes is not learned from (of fewer than four, none). A block keeps what it has learned only if it is
better on those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from vggt_edge.calibration.apply import replacement, swapped
from vggt_edge.calibration.observation.collect import images_of, layers_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.tuned import any_tuned
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import NumberType
from vggt_edge.calibration.sensitivity.probe_layers import seeded
from vggt_edge.calibration.stages.walk import IMAGES, Journal, Stage, StagedModel, StageTime, last_readers
from vggt_edge.calibration.tuning.learned import LearnedLayer

STEPS = 100
BATCH = 4  # scenes
RATE = 5e-5  # of Adam; falls to 0 along a cosine
HELD_OUT_SHARE = 4


@dataclass(frozen=True)
class Reconstruction:
    """fp: values of the FP32 model by scene and name, all of them kept. journal: for those of the quantized model.

    on_learned: called with every learned stage.
    """

    model: StagedModel
    plan: PrecisionPlan
    stats: CalibrationStats
    scenes: Sequence[Scene]
    fp: Journal
    journal: Journal
    seed: int
    on_learned: Callable[[int, Stage], None]

    def run(self) -> Iterator[StageTime]:
        """Learn the blocks of the model in place, in the order in which they run."""
        journal, stages = self.journal, self.model.stages()
        last = last_readers(stages)
        for index, stage in enumerate(stages):
            start = perf_counter()
            if stage.blocks and self._learnable(stage):
                self._learn(index, stage, journal)
                self.on_learned(index, stage)
            with torch.inference_mode(), self._quantized(stage):
                for scene in range(len(self.scenes)):
                    for name, value in stage(self._given(stage, scene, journal)).items():
                        journal.put(scene, name, value)
            self.model.release(stage)
            gone = [name for name in (*stage.reads, *stage.writes) if last.get(name) == index]
            journal.finish(index + 1, gone)
            yield StageTime(stage.name, index + 1, len(stages), perf_counter() - start)

    def _given(self, stage: Stage, scene: int, journal: Journal) -> dict[str, Tensor]:
        known = {IMAGES: images_of(self.scenes[scene]), **self.model.constants()}
        return {name: (known[name] if name in known else journal.get(scene, name)).clone() for name in stage.reads}

    def _layers(self, stage: Stage) -> Iterator[tuple[str, str, nn.Module, Form]]:
        """Name in the statistics, path in the stage's module, layer and form of all that is quantized."""
        blocks, paths = self.model.blocks(), {id(module): path for path, module in stage.module.named_modules()}
        for name in stage.blocks:
            prefix = paths[id(blocks[name])]
            for path, layer in layers_of(blocks[name]).items():
                if not self.plan.is_kept(name, path):
                    form = self.plan.form_of(name, path, LayerShape.of(layer))
                    yield f"{name}.{path}", f"{prefix}.{path}".lstrip("."), layer, form

    def _learnable(self, stage: Stage) -> bool:
        """Palettes are no grid of steps, and what is not quantized has nothing to learn."""
        forms = [form for _, _, _, form in self._layers(stage)]
        palettes = any(form.weight.type is NumberType.PALETTE for form in forms)
        return not palettes and any(form.is_quantized for form in forms)

    @contextmanager
    def _quantized(self, stage: Stage) -> Iterator[None]:
        forms = {path: replacement(layer, name, form, self.stats) for name, path, layer, form in self._layers(stage)}
        with swapped(stage.module, forms):
            yield

    def _learn(self, index: int, stage: Stage, journal: Journal) -> None:
        every = range(len(self.scenes))
        taught = every[: len(every) - len(every) // HELD_OUT_SHARE]
        held_out = every[len(taught) :] or every
        pairs = _Pairs(
            stage, lambda scene: self._given(stage, scene, journal), lambda scene: self._targets(stage, scene)
        )
        learned = {
            path: (layer, LearnedLayer(layer, form, _input_scale(layer)))
            for _, path, layer, form in self._layers(stage)
            if form.is_quantized
        }
        blocks = self.model.blocks()
        inside = [module for name in stage.blocks for module in blocks[name].modules()]
        affine = _affine([module for module in inside if isinstance(module, nn.LayerNorm)])
        before = [parameter.detach().clone() for parameter in affine]
        with swapped(stage.module, {path: form for path, (_, form) in learned.items()}):
            error = pairs.error(held_out)
            _descend(pairs, taught, [form for _, form in learned.values()], affine, f"{self.seed} {index}")
            improved = pairs.error(held_out) < error
        for parameter, old in zip(affine, before, strict=True):
            parameter.requires_grad_(False)
            if not improved:
                parameter.copy_(old)
        if improved:
            for layer, form in learned.values():
                form.put_into(layer)

    def _targets(self, stage: Stage, scene: int) -> dict[str, Tensor]:
        return {name: self.fp.get(scene, name).clone() for name in stage.writes}


def _input_scale(layer: nn.Module) -> float | None:
    found = any_tuned(layer)
    return None if found is None else found.input_scale


def _affine(norms: Sequence[nn.LayerNorm]) -> list[nn.Parameter]:
    """Own copies, in place: mapped weights must not be written to."""
    for norm in norms:
        for name in ("weight", "bias"):
            if getattr(norm, name) is not None:
                setattr(norm, name, nn.Parameter(getattr(norm, name).detach().clone(), requires_grad=False))
    return [parameter for norm in norms for parameter in norm.parameters()]


@dataclass(frozen=True)
class _Pairs:
    """What a quantized stage is given of a scene, and what it should compute: read when asked, not held."""

    stage: Stage
    given: Callable[[int], Mapping[str, Tensor]]
    targets: Callable[[int], Mapping[str, Tensor]]

    def loss(self, scenes: Sequence[int]) -> Tensor:
        """Mean over scenes and outputs of the squared error, as a share of the output's mean square."""
        losses = []
        for scene in scenes:
            written = self.stage(self.given(scene))
            for name, target in self.targets(scene).items():
                scale = target.square().mean().clamp(min=1e-12)
                losses.append((written[name] - target).square().mean() / scale)
        return torch.stack(losses).mean()

    def error(self, scenes: Sequence[int]) -> float:
        with torch.no_grad():
            return float(self.loss(scenes))


def _descend(
    pairs: _Pairs, scenes: Sequence[int], forms: Sequence[LearnedLayer], affine: Sequence[nn.Parameter], key: str
) -> None:
    parameters = [*(parameter for form in forms for parameter in form.parameters()), *affine]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = seeded(key)
    for _ in range(STEPS):
        order = torch.randperm(len(scenes), generator=generator)[:BATCH]
        optimizer.zero_grad()
        pairs.loss([scenes[place] for place in order.tolist()]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
