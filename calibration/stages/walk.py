"""A model's forward as a list of stages, so that a model larger than memory can be walked one block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vggt_edge.calibration.metrics.output import Output


@dataclass(frozen=True)
class Stage:
    """One step of a forward: ``writes = run(module, *reads)``, all of them tensors known by name.

    module: holds every weight that ``run`` reads. blocks: names of the model's blocks that run inside. kind: stages of
    one kind run the same code on equal shapes with other weights (twins); it is unique for a stage that has no twin.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    module: nn.Module
    run: Callable[..., tuple[Tensor, ...]]
    blocks: tuple[str, ...] = ()

    def __call__(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        results = self.run(self.module, *(values[name] for name in self.reads))
        return dict(zip(self.writes, results, strict=True))


class StagedModel(Protocol):
    """What a walk needs of a model; every model in ``exporter/models`` has it.

    constants: by name, tensors that stages read besides the images and what other stages wrote (position tables).
    outputs: what the model puts out, in that order; output_names: their names.
    shape.tokens: tokens of one frame, the first ``special_tokens`` of them special.
    release: gives back the memory that mapped weights of a stage take; values are not affected.
    """

    @property
    def special_tokens(self) -> int:
        """Number of tokens of each frame that are no patches: camera and register tokens."""
        ...

    @property
    def shape(self) -> HasTokens:
        """The fixed input shape, as far as a walk needs it."""
        ...

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What the model puts out, in that order."""
        ...

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in the model's order."""
        ...

    def blocks(self) -> dict[str, nn.Module]:
        """The blocks of the precision plan by name."""
        ...

    def stages(self) -> tuple[Stage, ...]:
        """The forward pass, step by step."""
        ...

    def constants(self) -> dict[str, Tensor]:
        """Tensors that stages read besides running values, such as position tables, by name."""
        ...

    def release(self, stage: Stage) -> None:
        """Give back the memory of a stage's mapped weights."""
        ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """As in ``torch.nn.Module``."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """As in ``torch.nn.Module``."""
        ...

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]: ...


class HasTokens(Protocol):
    """An input shape that knows how many tokens a frame becomes."""

    @property
    def tokens(self) -> int:
        """Tokens of one frame, special ones included."""
        ...


IMAGES = "images"


def last_readers(stages: Sequence[Stage], kept: Iterable[str] = ()) -> dict[str, int]:
    """By value name, the index of the last stage that reads it; ``kept`` values (the outputs) are not in it."""
    found = {name: index for index, stage in enumerate(stages) for name in stage.reads}
    return {name: index for name, index in found.items() if name not in set(kept)}


def run_stages(
    stages: Sequence[Stage], values: MutableMapping[str, Tensor], kept: Iterable[str] = ()
) -> MutableMapping[str, Tensor]:
    """Run one scene through all stages; a value is dropped after its last reader unless it is ``kept``."""
    last = last_readers(stages, kept)
    for index, stage in enumerate(stages):
        values.update(stage(values))
        for name in {*stage.reads, *stage.writes}:
            if last.get(name, -1) == index:
                values.pop(name)
    return values


class Journal(Protocol):
    """Where a walk keeps running values, so that a killed one goes on; stages/journal.py has the real one."""

    @property
    def stages_done(self) -> int:
        """Number of stages that are finished."""
        ...

    def get(self, scene: int, name: str) -> Tensor:
        """A running value of one scene."""
        ...

    def put(self, scene: int, name: str, value: Tensor) -> None:
        """Keep a running value of one scene."""
        ...

    def finish(self, stages_done: int, dropped: Iterable[str]) -> None:
        """Keep all that was put; the walk goes on at stage ``stages_done`` and never reads ``dropped`` again."""
        ...


def walk(
    model: StagedModel,
    images: Sequence[Tensor],
    journal: Journal,
    *,
    around: Callable[[Stage], AbstractContextManager[object]] = lambda stage: nullcontext(),
    kept: Iterable[str] = (),
    finished: Callable[[int, Stage], None] = lambda index, stage: None,
) -> Iterator[StageTime]:
    """Run every scene through one stage after the other; yields after each stage that is done.

    images: (1, S, 3, H, W) per scene. around: a context entered once per stage (observers, quantized layers).
    finished: called before the journal moves on, to store what was learnt in the stage. kept: names of values that
    stay in the journal; all others go after their last reader. Stages that the journal has done are not run again.
    """
    stages, constants = model.stages(), model.constants()
    last = last_readers(stages, kept)
    for index in range(journal.stages_done, len(stages)):
        stage = stages[index]
        forward_s = 0.0
        with torch.inference_mode(), around(stage):
            for scene, image in enumerate(images):
                given = {name: constants[name] for name in stage.reads if name in constants}
                given |= {name: image for name in stage.reads if name == IMAGES}
                read = {name: given[name] if name in given else journal.get(scene, name) for name in stage.reads}
                start = perf_counter()
                written = stage(read)
                forward_s += perf_counter() - start
                for name, value in written.items():
                    journal.put(scene, name, value)
        model.release(stage)
        finished(index, stage)
        journal.finish(index + 1, [name for name in (*stage.reads, *stage.writes) if last.get(name) == index])
        yield StageTime(stage.name, index + 1, len(stages), forward_s)


@dataclass(frozen=True)
class StageTime:
    """One finished stage: ``done`` of ``total``. forward_s: time in the model's own arithmetic, hooks included."""

    stage: str
    done: int
    total: int
    forward_s: float
