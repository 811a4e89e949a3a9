"""One stage as ONNX before it has names and weights: what all its twins share.

Inside a template everything goes by keys: a value that the stage reads by its placeholder, a computed one by the index
of its node, a stored tensor by where it comes from. ``GraphAssembler`` turns keys into the names of one graph. Module
paths are those of the ``StageProgram``, in which the stage's own module is called ``module``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from vggt_edge.exporter.graph.names import Place


@dataclass(frozen=True)
class Value:
    """A tensor that a node computes or that the graph is given."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class ModuleTensor:
    """A parameter or buffer of the stage's module."""

    path: str
    of_weights = True

    @property
    def key(self) -> str:
        """Identifies the tensor among those of its stage."""
        return self.path

    def name(self, place: Place) -> str:
        """Its name in the graph of one stage."""
        return place.name(self.path)

    def load(self, program: nn.Module) -> Tensor:
        """Its values in one stage's module."""
        tensor: Tensor = attrgetter(self.path)(program)
        return tensor.detach()


@dataclass(frozen=True)
class InputScale:
    """The static scale of a layer's int8 input, which the layer holds as a number."""

    layer: str
    of_weights = True

    @property
    def key(self) -> str:
        """Identifies the scale among the tensors of its stage."""
        return f"{self.layer}.input_scale"

    def name(self, place: Place) -> str:
        """Its name in the graph of one stage."""
        return place.name(self.key)

    def load(self, program: nn.Module) -> Tensor:
        """Its value in one stage's module, as a scalar tensor."""
        return torch.tensor(attrgetter(self.key)(program), dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class Literal:
    """A tensor known when the stage was translated.

    shared: one for the whole graph, whose label says its value. of_weights: computed from the weights of that stage.
    """

    label: str
    tensor: Tensor
    shared: bool = False
    of_weights: bool = False

    @property
    def key(self) -> str:
        """Identifies the tensor among those of its stage."""
        return self.label

    def name(self, place: Place) -> str:
        """Its name in the graph; one for all stages where it is shared."""
        return self.label if self.shared else f"{place.stage}.{self.label}"

    def load(self, program: nn.Module) -> Tensor:
        """The tensor itself: it does not depend on the stage."""
        return self.tensor


Source: TypeAlias = ModuleTensor | InputScale | Literal


@dataclass(frozen=True)
class Stored:
    """A tensor of the file and its layout: ``packed`` to 4 bits, ``half`` for FP32 figures that FP16 holds exactly."""

    source: Source
    transposed: bool = False
    packed: bool = False
    half: bool = False

    @property
    def key(self) -> str:
        """Identifies the stored form among the tensors of its stage."""
        return f"{self.source.key}{self._suffix}"

    def name(self, place: Place) -> str:
        """Its name in the graph of one stage."""
        return f"{self.source.name(place)}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return "_t" if self.transposed else ""


@dataclass(frozen=True)
class TemplateNode:
    """path: of the module that computes it. inputs: keys, empty for one left out. outputs: named by their keys."""

    path: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Template:
    """reads: keys of what the stage reads, in order. stored: by key. results: what it writes, named by their keys."""

    reads: tuple[str, ...]
    nodes: tuple[TemplateNode, ...]
    stored: Mapping[str, Stored]
    results: tuple[Value, ...]

    @property
    def reusable(self) -> bool:
        """Whether a twin may use it: not when it holds a figure that was computed from this stage's own weights."""
        sources = [stored.source for stored in self.stored.values()]
        return not any(source.of_weights for source in sources if isinstance(source, Literal))
