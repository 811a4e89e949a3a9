"""Sensitivity of the task outputs to every block under every scheme, from one backward pass instead of many forwards.

``sensitivity/ablation.py`` measures the error of one block in one scheme with a forward of its own: weeks for a
model of a billion parameters. Here a random vector v is put on the outputs and pulled back through the FP32 model once.

For small deviations the error is sum_i w_i (J d)_i^2 / 2, J being the Jacobian of the outputs, d the deviation that
quantization causes inside the block, and w_i the weight of residual i. With v_i = +-sqrt(w_i), signs at random,
E <v, J d>^2 = sum_i w_i (J d)_i^2: one pull-back g = J^T v gives an unbiased sample of twice the error of any d. That
sample alone scatters over decades. But rounding errors of different weights, and of different activations, are as good
as uncorrelated and have mean zero, so the cross terms of <g, d>^2 cancel and its diagonal remains:

    error of (block, scheme) = 1/2 * sum over its layers of [ sum (G_W * dW)^2 + sum (g_x * dx)^2 ]

G_W and g_x are the gradients of <v, outputs> by the weight (over all tokens and calls) and by the input of the layer,
dW and dx what quantization really changes in them. Thousands of terms stand in for thousands of probes: with a single
probe the ranks agree with those of the ablation about as well as an ablation on another scene does (vggt-mini, 86 pairs
of block and scheme, Spearman; tests/benchmarks/sensitivity.py)::

                             all    fp16   w8a16  w8a8   w4a16
    ablation, another scene  0.994  0.975  0.994  0.951  0.964
    diagonal, 1 probe        0.987  0.968  0.955  0.974  0.976
    <g, d>^2, 1 probe        0.938  0.632  0.848  0.679  0.848
    <g, d>^2, 8 probes       0.993  0.938  0.982  0.963  0.950

Holds while deviations are small: beyond residuals of about 0.1 the error grows more slowly than predicted (Huber).

Pulled back stage by stage, each recomputed from its journalled inputs, so memory holds the gradients of one stage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggt_edge.calibration.metrics.output import Output
from vggt_edge.calibration.observation.collect import images_of, layers_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import scheme
from vggt_edge.calibration.sensitivity.ablation import Sensitivity, tensor_scale
from vggt_edge.calibration.sensitivity.probe_layers import (
    ProbeArithmetic,
    layer_errors,
    quantized_forms,
    sampled,
    seeded,
)
from vggt_edge.calibration.stages.journal import FileJournal, MemoryJournal
from vggt_edge.calibration.stages.walk import IMAGES, Journal, Stage, StagedModel, StageTime, walk
from vggt_edge.devices.errors import InputError, UnknownNameError, UsageError

PROBES = 1
Errors = dict[tuple[str, str], float]
"""By block and scheme: 1/2 * sum of squared deviations, of one stage, averaged over scenes and probes."""


@dataclass(frozen=True)
class Seen:
    """What one probe of one scene tells of a layer: its input, and the gradients by its input and its output.

    The calls of a layer that runs several times are joined along the first dimension.
    """

    x: Tensor
    by_input: Tensor
    by_output: Tensor


Finish = Callable[[str, nn.Module, Seen], None]
"""Called with the name of a layer, the layer, and what was seen of it, once for each scene and probe."""


def estimate(
    model: StagedModel,
    stats: CalibrationStats,
    scenes: Sequence[Scene],
    candidates: Mapping[str, Sequence[str]],
    group_size: int,
    *,
    seed: int,
    probes: int = PROBES,
    journal_folder: Path | None = None,
    values: Journal | None = None,
    on_stage: Callable[[StageTime], None] | None = None,
) -> tuple[Sensitivity, ...]:
    """Predict what ``sensitivity.measure`` would measure, in the same unit; the model is left as it was.

    candidates: schemes by block name; returned in that order. probes: random vectors per scene. journal_folder: for
    running values and what was found so far, so that a killed estimate goes on there; it must belong to these very
    arguments. values: a forward walk over these scenes, or over more of which these are the first, that kept every
    value; it is then not walked again. on_stage: called for each stage of the forward walk, then of the backward one,
    ``total`` being twice the stages. ``per_output`` is given for blocks that reach a single weighted output (those in a
    head); what the others do to each output is not told apart.
    ``InputError`` without scenes, ``UnknownNameError`` for a block that the model does not have.
    """
    _check(model, scenes, candidates, probes)
    journals = _Journals.open(journal_folder, values)
    stages = model.stages()
    report = on_stage or (lambda time: None)
    images = [images_of(scene) for scene in scenes]
    everything = [name for stage in stages for name in stage.writes]
    for time in walk(model, images, journals.forward, kept=everything):
        report(replace(time, total=2 * len(stages)))
    found: Errors = {}

    def finish(name: str, layer: nn.Module, seen: Seen) -> None:
        block = next(block for block in candidates if name.startswith(f"{block}."))
        sample = sampled(layer, seen.by_output, name)
        forms = quantized_forms(name, sample.layer, candidates[block], group_size, stats)
        for wanted, error in layer_errors(sample, seen.x, seen.by_input, forms).items():
            share = error / (len(scenes) * probes)
            found[block, wanted] = found.get((block, wanted), 0.0) + share

    def finished(index: int, stage: Stage) -> None:
        journals.put_errors(index, dict(found))
        found.clear()

    backward = _Backward(model, frozenset(candidates), seed, probes, images, journals, finish, finished)
    for time in backward.run():
        report(time)
    errors = journals.all_errors(len(stages))
    weights = {output.name: output.quantity.weight for output in model.outputs}
    reached = _reached_outputs(stages, [name for name, weight in weights.items() if weight > 0])
    return tuple(
        _sensitivity(block, name, errors.get((block, name), 0.0), {each: weights[each] for each in reached[block]})
        for block, names in candidates.items()
        for name in names
    )


def pulled_back(
    model: StagedModel,
    scenes: Sequence[Scene],
    finish: Finish,
    finished: Callable[[int, Stage], None],
    *,
    seed: int,
    journal_folder: Path | None = None,
    substitute: Callable[[Journal], None] | None = None,
    values: Journal | None = None,
) -> Iterator[StageTime]:
    """Walk the FP32 model forward, then one probe per scene back; yields after each stage of both.

    finish: given what was seen of each layer of each block. finished: called with a stage, from the last to the first,
    once all scenes have passed it; from then on it is not run again, so it may be changed. values: keeps those of the
    forward walk. substitute: may replace
    values of the forward walk before the way back, on which every stage is computed again from what it reads. A killed
    walk goes on in ``journal_folder`` after the stage that was finished last.
    """
    journals = _Journals.open(journal_folder, values)
    stages = model.stages()
    images = [images_of(scene) for scene in scenes]
    everything = [name for stage in stages for name in stage.writes]
    for time in walk(model, images, journals.forward, kept=everything):
        yield replace(time, total=2 * len(stages))
    if substitute is not None:
        substitute(journals.forward)
    yield from _Backward(model, frozenset(model.blocks()), seed, 1, images, journals, finish, finished).run()


def _check(model: StagedModel, scenes: Sequence[Scene], candidates: Mapping[str, Sequence[str]], probes: int) -> None:
    if not scenes:
        raise InputError("no probe scenes", expected="at least one scene", remedy="name some with --scenes")
    if probes < 1:
        raise UsageError(f"{probes} probes per scene", expected="at least one")
    blocks = model.blocks()
    for block, names in candidates.items():
        if block not in blocks:
            raise UnknownNameError("block", block, blocks)
        for name in names:
            scheme(name)


def _sensitivity(block: str, name: str, error: float, weights: Mapping[str, float]) -> Sensitivity:
    """weights: of the outputs that the block reaches."""
    per_output = {output: error / weight for output, weight in weights.items()} if len(weights) == 1 else {}
    return Sensitivity(block, name, error, per_output)


def _reached_outputs(stages: Sequence[Stage], outputs: Sequence[str]) -> dict[str, frozenset[str]]:
    """By block: which of the outputs it has any influence on."""
    reached: dict[str, frozenset[str]] = {name: frozenset({name}) for name in outputs}
    blocks: dict[str, frozenset[str]] = {}
    for stage in reversed(stages):
        found = frozenset[str]().union(*(reached.get(name, frozenset()) for name in stage.writes))
        reached |= {name: reached.get(name, frozenset()) | found for name in stage.reads}
        blocks |= dict.fromkeys(stage.blocks, found)
    return blocks


def cotangent(output: Output, reference: Tensor, scale: float, key: str) -> Tensor:
    """A random vector on one output, its signs drawn from ``key``: E <v, d>^2 is twice the error of a small d.

    reference: the output of the FP32 model. scale: of the scene.
    """
    slopes, count = output.quantity.slopes(reference, scale)
    signs = torch.randint(0, 2, slopes.shape, generator=seeded(key)) * 2 - 1
    return slopes.mul_(signs).mul_((output.quantity.weight / count) ** 0.5)


@dataclass(frozen=True)
class _Journals:
    """forward: every value of the FP32 model. backward: contributions to cotangents, named ``value@stage index``.

    A contribution has a name of its own, and is not added to what others left: a stage that a kill cut short can then
    be done again.
    """

    forward: Journal
    backward: Journal
    folder: Path | None
    errors: dict[int, Errors] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | None, values: Journal | None) -> _Journals:
        if folder is None:
            return cls(values or MemoryJournal(), MemoryJournal(), None)
        # Nothing is held in memory: each value is read once, and the system caches the files.
        return cls(values or FileJournal(folder / "forward", 0), FileJournal(folder / "backward", 0), folder)

    def put_errors(self, index: int, errors: Errors) -> None:
        self.errors[index] = errors
        if self.folder is not None:
            path = self._path(index)
            scratch = path.with_suffix(".partial")
            scratch.write_text(json.dumps([[*pair, error] for pair, error in errors.items()]))
            scratch.replace(path)

    def all_errors(self, stages: int) -> Errors:
        """Of all stages, those that an earlier, killed run did included."""
        found: Errors = {}
        for index in range(stages):
            if index not in self.errors and self.folder is not None and self._path(index).is_file():
                stored = json.loads(self._path(index).read_text())
                self.errors[index] = {(block, name): error for block, name, error in stored}
            found |= self.errors.get(index, {})
        return found

    def _path(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"errors-{index:03}.json"


@dataclass
class _Backward:
    """The walk from the last stage to the first."""

    model: StagedModel
    watched: frozenset[str]
    seed: int
    probes: int
    images: Sequence[Tensor]
    journals: _Journals
    finish: Finish
    finished: Callable[[int, Stage], None]

    def __post_init__(self) -> None:
        self.stages = self.model.stages()
        self.constants = self.model.constants()
        self.outputs = {output.name: output for output in self.model.outputs}
        self.readers: dict[str, list[int]] = {}
        for index, stage in enumerate(self.stages):
            for name in stage.reads:
                self.readers.setdefault(name, []).append(index)
        # Values that a block of interest has an influence on: only these are worth a cotangent.
        self.moved: set[str] = set()
        for stage in self.stages:
            if self.watched & set(stage.blocks) or self.moved & set(stage.reads):
                self.moved.update(stage.writes)

    def run(self) -> Iterator[StageTime]:
        count = len(self.stages)
        for done in range(self.journals.backward.stages_done, count):
            index = count - 1 - done
            stage = self.stages[index]
            if self.moved & set(stage.writes):
                self._stage(index, stage)
            self.model.release(stage)
            used = [f"{name}@{reader}" for name in stage.writes for reader in self.readers.get(name, ())]
            self.journals.backward.finish(done + 1, used)
            yield StageTime(stage.name, count + done + 1, 2 * count, 0.0)  # no forward of the model's own

    def _stage(self, index: int, stage: Stage) -> None:
        for scene in range(len(self.images)):
            watch = _Watch(self.model, stage, self.watched, self.finish)
            pulled = self._pull_back(scene, stage, watch)
            for name, value in pulled.items():
                self.journals.backward.put(scene, f"{name}@{index}", value)
        self.finished(index, stage)

    def _pull_back(self, scene: int, stage: Stage, watch: _Watch) -> dict[str, Tensor]:
        """Cotangents (probes, ...) of what the stage reads, from those of what it writes."""
        given = [self._cotangents(scene, name) for name in stage.writes]
        moved = [name for name in dict.fromkeys(stage.reads) if name in self.moved]
        read = {name: self._read(scene, name).requires_grad_(name in moved) for name in stage.reads}
        with _frozen(stage.module), torch.enable_grad(), watch.hooks(), ProbeArithmetic():
            written = stage(read)
        pairs = zip((written[name] for name in stage.writes), given, strict=True)
        # Of what a stage writes, some may be out of reach of the blocks of interest.
        used = [(output, value) for output, value in pairs if value is not None and output.requires_grad]
        pulled: dict[str, list[Tensor]] = {name: [] for name in moved}
        for probe in range(self.probes):
            torch.autograd.backward(
                [output for output, _ in used],
                [value[probe] for _, value in used],
                retain_graph=probe + 1 < self.probes,
                inputs=[*(read[name] for name in moved), *watch.leaves],
            )
            for name in moved:
                gradient = read[name].grad
                pulled[name].append(torch.zeros_like(read[name]) if gradient is None else gradient)
            for leaf in (*read.values(), *watch.leaves):
                leaf.grad = None
        return {name: torch.stack(values) for name, values in pulled.items()}

    def _read(self, scene: int, name: str) -> Tensor:
        """A copy that autograd may use: values of the forward walk are inference tensors."""
        if name == IMAGES:
            return self.images[scene].clone()
        return (self.constants[name] if name in self.constants else self.journals.forward.get(scene, name)).clone()

    def _cotangents(self, scene: int, name: str) -> Tensor | None:
        """(probes, ...): the seed of an output, and what every stage that reads the value pulled back to it."""
        if name not in self.moved:
            return None
        parts = [self.journals.backward.get(scene, f"{name}@{reader}") for reader in self.readers.get(name, ())]
        if name in self.outputs:
            parts.append(self._seeds(scene, self.outputs[name]))
        return torch.stack(parts).sum(dim=0) if parts else None

    def _seeds(self, scene: int, output: Output) -> Tensor:
        """Zeros for an output without weight: what only that depends on is seen all the same."""
        outputs = self.model.outputs
        if not output.quantity.weight:
            return torch.zeros(self.probes, *self.journals.forward.get(scene, output.name).shape)
        reference = {each.name: self.journals.forward.get(scene, each.name) for each in outputs}
        scale = tensor_scale(outputs, reference)
        keys = (f"{self.seed} {scene} {probe} {output.name}" for probe in range(self.probes))
        return torch.stack([cotangent(output, reference[output.name], scale, key) for key in keys])


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient of its own: autograd would keep what only that needs."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@dataclass
class _Call:
    """One call of a layer: its input, and the gradients that a probe has brought so far."""

    x: Tensor
    by_input: Tensor | None = None
    by_output: Tensor | None = None


class _Watch:
    """Takes the gradients of one stage's layers as they come, and turns them into errors at once.

    A layer that runs several times (the camera trunk) is done when the gradients of all its calls are there: its
    weight error is the same in each.
    """

    def __init__(self, model: StagedModel, stage: Stage, watched: frozenset[str], finish: Finish) -> None:
        every = model.blocks()
        self.blocks = {name: every[name] for name in stage.blocks if name in watched}
        self.finish = finish
        self.calls: dict[str, list[_Call]] = {}
        self.leaves: list[Tensor] = []

    @contextmanager
    def hooks(self) -> Iterator[None]:
        handles: list[Any] = []
        for block, module in self.blocks.items():
            for path, layer in layers_of(module).items():
                handles += self._watch(f"{block}.{path}", layer)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _watch(self, name: str, layer: nn.Module) -> list[Any]:
        calls = self.calls[name] = []

        def enter(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            with torch._C.DisableTorchFunction():
                x = self._own(args[0])
                call = _Call(x.detach())
            calls.append(call)

            def taken(gradient: Tensor) -> None:
                call.by_input = gradient
                if all(each.by_input is not None for each in calls):
                    self._finish(name, layer, calls)

            x.register_hook(taken)  # type: ignore[no-untyped-call]
            return (x, *args[1:])

        def leave(module: nn.Module, args: Any, output: Tensor) -> None:
            call = calls[-1]

            def taken(gradient: Tensor) -> None:
                call.by_output = gradient

            output.register_hook(taken)  # type: ignore[no-untyped-call]

        return [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]

    def _own(self, x: Tensor) -> Tensor:
        """The layer's input as a tensor that only this layer reads, so that its gradient is this layer's alone."""
        if x.requires_grad:
            return x.view_as(x)
        leaf = x.detach().requires_grad_(True)
        self.leaves.append(leaf)
        return leaf

    def _finish(self, name: str, layer: nn.Module, calls: list[_Call]) -> None:
        seen = Seen(
            x=_joined([call.x for call in calls]),
            by_input=_joined([call.by_input for call in calls]),
            by_output=_joined([call.by_output for call in calls]),
        )
        for call in calls:
            call.by_input = call.by_output = None
        self.finish(name, layer, seen)


def _joined(parts: Sequence[Tensor | None]) -> Tensor:
    """Along the first dimension; a single one as it is, since maps of a head are large."""
    found = [part for part in parts if part is not None]
    assert len(found) == len(parts)
    return found[0] if len(found) == 1 else torch.cat(found)
