"""How a model says what of it is connected to what, so that exact transforms need not know the model.

A residual stream is what layers read and add to. Every path below is that of a module inside the unit's module, apart
from ``Tokens``, whose paths are those of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from vggt_edge.calibration.stages.walk import StagedModel


@dataclass(frozen=True)
class Stream:
    """width: channels of one vector. rotates: only norms over all channels and linears touch it, so that its channels
    may be mixed.
    """

    width: int
    rotates: bool


@dataclass(frozen=True)
class Read:
    """Linears or 1x1 convolutions that read a stream, and the LayerNorm between, if there is one.

    Inputs wider than the stream are several of its vectors joined.
    """

    stream: str
    readers: tuple[str, ...]
    norm: str | None = None


@dataclass(frozen=True)
class Write:
    """A linear or convolution whose output channels are the stream's; ``scale``: the LayerScale after it."""

    stream: str
    writer: str
    scale: str | None = None


@dataclass(frozen=True)
class Tokens:
    """Parameters (..., width) that are put into a stream."""

    stream: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Values:
    """An attention: ``qkv`` puts out queries, keys and values, each (heads, head dim); ``proj`` reads mixed values."""

    qkv: str
    proj: str
    heads: int


@dataclass(frozen=True)
class Rectified:
    """Two convolutions with nothing but a ReLU between them, which does not mind a positive scale."""

    writer: str
    reader: str


@dataclass(frozen=True)
class Turn:
    """Where a linear, width to width, stands once the model is rotated, and an ``nn.Identity`` before."""

    path: str
    width: int
    bias: bool


@dataclass(frozen=True)
class Unit:
    """A module that is transformed by itself: a block, or what a stage holds besides blocks.

    path: of the module in the model, empty for the model itself. stage: the first that reads its weights.
    """

    path: str
    stage: str
    reads: tuple[Read, ...] = ()
    writes: tuple[Write, ...] = ()
    tokens: tuple[Tokens, ...] = ()
    values: Values | None = None
    rectified: tuple[Rectified, ...] = ()
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Wiring:
    """Streams by name, and units in the order in which their stages run. Every parameter lies in one unit, the
    innermost whose module holds it.
    """

    streams: Mapping[str, Stream]
    units: tuple[Unit, ...]


class WiredModel(StagedModel, Protocol):
    """A staged model that can be transformed. fix_constants: computes anew what depends on weights alone."""

    def wiring(self) -> Wiring: ...

    def fix_constants(self) -> object: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], *, assign: bool) -> object: ...

    def get_submodule(self, target: str) -> nn.Module: ...


def inside(unit: Unit, name: str) -> str:
    """The name in the model of what is called ``name`` in the module of ``unit``."""
    return f"{unit.path}.{name}" if unit.path else name


def inner_units(wiring: Wiring, unit: Unit) -> Iterator[str]:
    """Paths inside ``unit`` of the other units that its module holds."""
    prefix, others = inside(unit, ""), (other for other in wiring.units if other is not unit)
    return (other.path[len(prefix) :] for other in others if other.path.startswith(prefix))
