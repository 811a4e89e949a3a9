"""What tuning decided about a layer, kept at the layer itself: whoever quantizes it takes that, not its own choice.

The layer's weight then holds values that the grid has, so that rounding to it changes nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

_ATTRIBUTE = "vggt_edge_tuned"


@dataclass(frozen=True)
class Tuned:
    """Of one layer, for one scheme: the one that its form has.

    weight_scale: (out,) per channel or (out, groups). weight_table: (tables, values) of a palette. input_scale: of a
    static int8 input. None: not decided here.
    """

    scheme: str
    weight_scale: Tensor | None = None
    weight_table: Tensor | None = None
    input_scale: float | None = None


def tuned_of(layer: nn.Module, scheme: str) -> Tuned | None:
    """What was decided for this scheme; nothing for any other one."""
    found = getattr(layer, _ATTRIBUTE, None)
    return found if isinstance(found, Tuned) and found.scheme == scheme else None


def any_tuned(layer: nn.Module) -> Tuned | None:
    """What was decided, for whatever scheme."""
    found = getattr(layer, _ATTRIBUTE, None)
    return found if isinstance(found, Tuned) else None


def set_tuned(layer: nn.Module, tuned: Tuned) -> None:
    setattr(layer, _ATTRIBUTE, tuned)
