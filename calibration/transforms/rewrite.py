"""A model with other weights, unit by unit: a large one as a stream of tensors, a small one as a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from vggt_edge.calibration.apply import swapped
from vggt_edge.calibration.transforms.wiring import Turn, Unit, WiredModel, Wiring, inner_units, inside

ModelT = TypeVar("ModelT", bound=WiredModel)
Change = Callable[[nn.Module, Unit], None]
"""Rewrites a float64 copy of a unit's module in place."""


def rewritten(model: WiredModel, change: Change) -> Iterator[tuple[str, Tensor]]:
    """All weights of ``model`` by name, after ``change``: computed in float64, rounded once to their own dtype.

    In the order of the stages. Holds one unit in memory; the model stays as it is.
    """
    wiring, stages = model.wiring(), {stage.name: stage for stage in model.stages()}
    for unit in wiring.units:
        source = model.get_submodule(unit.path)
        dtypes = {name: tensor.dtype for name, tensor in source.state_dict().items()}
        module = _wide_copy(source, tuple(inner_units(wiring, unit)))
        model.release(stages[unit.stage])  # the old weights, before there are new ones
        change(module, unit)
        default = next(iter(dtypes.values()))
        for name, tensor in module.state_dict().items():
            yield inside(unit, name), tensor.to(dtypes.get(name, default))
        del module, tensor  # before the next one is copied


def changed(model: ModelT, change: Change) -> ModelT:
    """A copy of ``model``, all of it in memory, with the weights of ``rewritten``."""
    tensors = dict(rewritten(model, change))
    copied = copy.deepcopy(model)
    take_form(copied, tensors)
    copied.load_state_dict(tensors, assign=True)
    copied.fix_constants()
    return copied


def take_form(model: WiredModel, names: Collection[str]) -> None:
    """Make ``model`` fit a state dict of these names, in place: with turns where it has them, and without LayerScale
    where it has none at all. A model of this form stays as it is, and so does one that the names do not fit.

    The new linears are the identity; a model on the meta device gets real ones.
    """
    wiring = model.wiring()
    folded = not any(_scale_names(wiring) & set(names))
    for unit in wiring.units:
        module = model.get_submodule(unit.path)
        for turn in unit.turns:
            if inside(unit, f"{turn.path}.weight") in names:
                insert_turn(module, turn)
        for write in unit.writes:
            if write.scale is not None and folded:
                module.set_submodule(write.scale, nn.Identity())


def insert_turn(module: nn.Module, turn: Turn) -> None:
    """A linear that computes the identity in the place of an ``nn.Identity``; one that is there already stays."""
    if not isinstance(module.get_submodule(turn.path), nn.Identity):
        return
    # On the meta device first: the usual initial values would take numbers from the global generator.
    linear = nn.Linear(turn.width, turn.width, bias=turn.bias, device="meta")
    dtype = next(module.parameters()).dtype
    linear.weight = nn.Parameter(torch.eye(turn.width, dtype=dtype, device="cpu"), requires_grad=False)
    if turn.bias:
        linear.bias = nn.Parameter(torch.zeros(turn.width, dtype=dtype, device="cpu"), requires_grad=False)
    module.set_submodule(turn.path, linear.eval())


def shapes(model: WiredModel, *, turned: bool) -> dict[str, tuple[int, ...]]:
    """Name to shape of all weights once LayerScale is folded and, where ``turned``, the turns are in their places."""
    wiring = model.wiring()
    folded = _scale_names(wiring)
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in folded}
    for unit in wiring.units:
        for turn in unit.turns if turned else ():
            found[inside(unit, f"{turn.path}.weight")] = (turn.width, turn.width)
            if turn.bias:
                found[inside(unit, f"{turn.path}.bias")] = (turn.width,)
    return found


def _wide_copy(source: nn.Module, inner: tuple[str, ...]) -> nn.Module:
    """In float64, without the units inside."""
    with swapped(source, {path: nn.Identity() for path in inner}):
        return copy.deepcopy(source).double()


def _scale_names(wiring: Wiring) -> set[str]:
    return {
        inside(unit, f"{write.scale}.gamma")
        for unit in wiring.units
        for write in unit.writes
        if write.scale is not None
    }
