"""The exact transforms in their order: what calibration, tuning and export get to see is the prepared model.

It is the same module tree and computes the same function with other weights: LayerNorm's affine and LayerScale are
folded, the residual streams rotated, the values of each attention head balanced and turned. Nothing is added inside a
block; two linears are between them (``Turn``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from torch import Tensor, nn

from vggt_edge.calibration.transforms.fold import fold
from vggt_edge.calibration.transforms.heads import balance_values, rotate_values
from vggt_edge.calibration.transforms.rewrite import Change, ModelT, changed, insert_turn, rewritten, shapes
from vggt_edge.calibration.transforms.rotation import generator, rotations
from vggt_edge.calibration.transforms.rotation import rotate as rotate_unit
from vggt_edge.calibration.transforms.wiring import Unit, WiredModel


def prepare(model: ModelT, seed: int, *, rotate: bool = True, balance: bool = True, heads: bool = False) -> ModelT:
    """A prepared copy of ``model``, for one that fits in memory twice; constants fixed, in evaluation mode.

    rotate: the residual streams. balance: the values' channels. heads: turn the values of each head. Without any of
    them, only folds.
    """
    return changed(model, _change(model, seed, rotate, balance, heads))


def prepared_tensors(
    model: WiredModel, seed: int, *, rotate: bool = True, balance: bool = True, heads: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """The weights of ``prepare(model, seed)`` by name, to the bit, holding those of one block at a time.

    To be loaded, with ``assign=True``, into a model that was given their form (``rewrite.take_form``).
    """
    return rewritten(model, _change(model, seed, rotate, balance, heads))


def prepared_shapes(model: WiredModel, *, rotate: bool = True) -> dict[str, tuple[int, ...]]:
    """Name to shape of all that ``prepared_tensors`` yields, for a file whose header is written first."""
    return shapes(model, turned=rotate)


def _change(model: WiredModel, seed: int, rotate: bool, balance: bool, heads: bool) -> Change:
    turns = rotations(model.wiring(), seed) if rotate else {}
    return partial(_prepare_unit, seed=seed, turns=turns, balance=balance, heads=heads)


def _prepare_unit(
    module: nn.Module, unit: Unit, *, seed: int, turns: Mapping[str, Tensor], balance: bool, heads: bool
) -> None:
    if turns:
        for turn in unit.turns:
            insert_turn(module, turn)
    fold(module, unit)
    if balance and unit.values is not None:
        balance_values(module, unit.values)
    if heads and unit.values is not None:
        rotate_values(module, unit.values, generator(seed, f"{unit.path}.values"))
    rotate_unit(module, unit, turns)
