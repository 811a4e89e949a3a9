"""One stage as a module of its own, so that it can be traced alone; and what makes two stages the same program."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from vggt_edge.calibration.apply import swapped
from vggt_edge.calibration.quantization.attention import Quantizer
from vggt_edge.calibration.quantization.linear import StoredLayer
from vggt_edge.calibration.stages.walk import Stage, StagedModel
from vggt_edge.exporter.graph.annotate import trace
from vggt_edge.exporter.graph.template import Value


class StageProgram(nn.Module):
    """Computes those writes of a stage that are ``kept``, from all that it reads."""

    def __init__(self, stage: Stage, kept: Collection[str]) -> None:
        super().__init__()
        self.stage = stage
        self.kept = tuple(name for name in stage.writes if name in kept)
        self.module = stage.module

    def forward(self, *reads: Tensor) -> tuple[Tensor, ...]:
        written = dict(zip(self.stage.writes, self.stage.run(self.module, *reads), strict=True))
        return tuple(written[name] for name in self.kept)

    def trace(self, reads: Sequence[Value]) -> ExportedProgram:
        """``LoweringError`` where torch.export refuses the stage."""
        return trace(self, tuple(torch.zeros(read.shape, dtype=read.dtype) for read in reads), self.stage.name)

    def signature(self, reads: Sequence[Value]) -> tuple[Any, ...]:
        """Equal for stages whose traces are equal, apart from names and weights."""
        inputs = tuple((read.shape, read.dtype) for read in reads)
        kept = tuple(name in self.kept for name in self.stage.writes)
        return (self.stage.kind, inputs, kept, *_forms(self.module), *_tensors(self.module))


def alone(model: StagedModel, stage: Stage) -> AbstractContextManager[None]:
    """Within this context the stage's module lacks the blocks that do not run in the stage.

    A trace makes an input of every parameter, used or not: a thousand for the aggregator, which takes seconds.
    """
    others = {id(block) for name, block in model.blocks().items() if name not in stage.blocks}
    paths = [path for path, module in stage.module.named_modules() if id(module) in others]
    return swapped(stage.module, {path: nn.Identity() for path in paths})


def _forms(module: nn.Module) -> Iterator[tuple[Any, ...]]:
    """Kinds of all modules, and the forms of quantized layers and attentions."""
    for path, inner in module.named_modules():
        form = inner.form if isinstance(inner, StoredLayer) else None
        yield path, type(inner), inner.numbers if isinstance(inner, Quantizer) else form


def _tensors(module: nn.Module) -> Iterator[tuple[Any, ...]]:
    for named in (module.named_parameters(), module.named_buffers()):
        for path, tensor in named:
            yield path, tuple(tensor.shape), tensor.dtype
