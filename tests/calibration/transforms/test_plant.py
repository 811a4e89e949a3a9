"""Outliers that are planted for the harness."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vggt_edge.calibration.transforms.plant import CHANNELS, FACTOR, plant
from vggt_edge.calibration.transforms.prepare import prepare
from vggt_edge.exporter.models.vggt import VGGT

Difference = Callable[[VGGT, VGGT], float]


def inputs_of(model: VGGT, ending: str) -> list[Tensor]:
    """What the layers of that name read on a noise scene, in running order."""
    seen: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for path, module in model.named_modules()
        if path.endswith(ending) and isinstance(module, nn.Linear)
    ]
    with torch.inference_mode():
        model(torch.rand(model.example_input().shape, generator=torch.Generator().manual_seed(0)))
    for handle in handles:
        handle.remove()
    return seen


def test_outputs_stay_to_the_bit(drawn_vggt: st.SearchStrategy[VGGT], difference: Difference) -> None:
    """A power of two costs no rounding, so that every method is judged on the same network."""

    @settings(max_examples=6)
    @given(model=drawn_vggt, seed=st.integers(0, 99))
    def check(model: VGGT, seed: int) -> None:
        assert difference(model, plant(model, seed)) == 0

    check()


def test_few_channels_become_much_larger(mini: VGGT) -> None:
    """In every block, of what qkv, fc1 and proj read; all others stay."""
    planted = plant(mini, 0)
    for ending in ("attn.qkv", "mlp.fc1", "attn.proj"):
        before, after = inputs_of(mini, ending), inputs_of(planted, ending)
        assert len(before) == 4 + 12 + 4 * 4
        for one, other in zip(before, after, strict=True):
            growth = other.abs().amax(0) / one.abs().amax(0)
            assert sorted(growth.round().unique().tolist()) == [1.0, FACTOR]
            assert int((growth > 2).sum()) == CHANNELS


def test_seeds_differ_and_the_same_one_is_repeatable(model: VGGT) -> None:
    one, again, other = (plant(model, seed).state_dict() for seed in (0, 0, 1))
    assert one.keys() == model.state_dict().keys()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_prepared_model_can_be_planted_and_a_planted_one_prepared(model: VGGT, difference: Difference) -> None:
    """The harness has methods of both kinds."""
    assert difference(model, plant(prepare(model, 0), 0)) < 1e-5
    assert difference(model, prepare(plant(model, 0), 0)) < 1e-5
