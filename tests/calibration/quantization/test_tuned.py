"""What tuning leaves at a layer: found for its scheme alone, copied with the layer, and no part of its weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from vggt_edge.calibration.quantization.tuned import Tuned, any_tuned, set_tuned, tuned_of


def make_tuned() -> tuple[nn.Linear, Tuned]:
    layer, tuned = nn.Linear(4, 3), Tuned("w8a8", weight_scale=torch.ones(3), input_scale=0.5)
    set_tuned(layer, tuned)
    return layer, tuned


def test_only_its_own_scheme_finds_it() -> None:
    """A scale of one grid is none of another."""
    layer, tuned = make_tuned()
    assert tuned_of(layer, "w8a8") is tuned
    assert tuned_of(layer, "w8a16") is None
    assert any_tuned(layer) is tuned


def test_a_layer_that_was_not_tuned_has_nothing() -> None:
    """Nor has one whose attribute of that name is something else."""
    layer = nn.Linear(4, 3)
    assert tuned_of(layer, "w8a8") is None
    assert any_tuned(layer) is None
    layer.vggt_edge_tuned = "w8a8"
    assert tuned_of(layer, "w8a8") is None
    assert any_tuned(layer) is None


def test_the_later_one_counts() -> None:
    layer, _ = make_tuned()
    set_tuned(layer, Tuned("w4a16"))
    assert tuned_of(layer, "w8a8") is None
    assert any_tuned(layer) == Tuned("w4a16")


def test_copies_keep_it_and_checkpoints_do_not() -> None:
    """The names of the weights stay those of the model."""
    layer, tuned = make_tuned()
    copied = any_tuned(copy.deepcopy(layer))
    assert copied is not None
    assert copied.weight_scale is not None
    assert torch.equal(copied.weight_scale, torch.ones(3))
    assert (copied.scheme, copied.input_scale) == (tuned.scheme, tuned.input_scale)
    assert list(layer.state_dict()) == ["weight", "bias"]
