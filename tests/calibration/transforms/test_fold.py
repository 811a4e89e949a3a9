"""Folding LayerNorm's affine and LayerScale."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vggt_edge.calibration.transforms.fold import fold_norm
from vggt_edge.calibration.transforms.prepare import prepare
from vggt_edge.calibration.transforms.weights import is_trivial
from vggt_edge.exporter.models.layers import LayerScale
from vggt_edge.exporter.models.vggt import VGGT

# Between them and linears stands something that is not linear, or that others read as well.
KEPT = ("q_norm", "k_norm", "camera_head.token_norm", "camera_head.adaln_norm")


@given(channels=st.integers(2, 40), seed=st.integers(0, 10**6))
def test_linears_and_convolutions_take_up_the_affine(channels: int, seed: int) -> None:
    """One norm, two readers of different kinds: same outputs, and nothing left in the norm."""
    torch.manual_seed(seed)
    norm, linear, conv = nn.LayerNorm(channels), nn.Linear(channels, 3), nn.Conv2d(channels, 5, 1)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(6, channels)

    def outputs() -> list[Tensor]:
        normed = norm(x)
        return [linear(normed), conv(normed[:, :, None, None])]

    before = outputs()
    fold_norm(norm, [linear, conv])
    assert is_trivial(norm)
    for one, other in zip(outputs(), before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_readers_that_cannot_take_it_up_are_refused() -> None:
    """A convolution over several places has zeros at the border that are no norm's; a bias needs a place."""
    norm = nn.LayerNorm(4)
    nn.init.constant_(norm.bias, 1.0)
    with pytest.raises(ValueError, match="does not read one vector"):
        fold_norm(norm, [nn.Conv2d(4, 4, 3, padding=1)])
    with pytest.raises(ValueError, match="without bias"):
        fold_norm(norm, [nn.Linear(4, 4, bias=False)])


def test_outputs_stay(drawn_vggt: st.SearchStrategy[VGGT], difference: Callable[[VGGT, VGGT], float]) -> None:
    """Of models of many widths and shapes, within 1e-5; the model itself keeps its weights."""

    @settings(max_examples=5)
    @given(model=drawn_vggt)
    def check(model: VGGT) -> None:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert difference(model, prepare(model, 0, rotate=False, balance=False, heads=False)) < 1e-5
        assert before.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    check()


def test_nothing_is_left_of_norms_and_scales(model: VGGT) -> None:
    """DINO's last norm has no linear to go to, unless the streams are rotated."""
    for rotate in (False, True):
        folded = prepare(model, 0, rotate=rotate)
        norms = {path: norm for path, norm in folded.named_modules() if isinstance(norm, nn.LayerNorm)}
        left = {path for path, norm in norms.items() if not path.endswith(KEPT) and not is_trivial(norm)}
        assert left == (set() if rotate else {"aggregator.patch_embed.norm"})
        assert not [path for path, module in folded.named_modules() if isinstance(module, LayerScale)]
        assert {path for path in norms if path.endswith(KEPT)}
