"""AWQ where the answer is known, or found by trying everything."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.exporter.contest.peers.awq import Found, scaled, scales, search, search_clip, search_ratio
from vggt_edge.exporter.contest.peers.layer import rounded_weight


def peaks_of(x: torch.Tensor) -> torch.Tensor:
    return x.abs().amax(dim=0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ["w4a16", "w8a8", "w4a8d", "w4a4d"])
def test_equally_large_inputs_ask_for_no_scales(name: str) -> None:
    """All ratios give the same scales then, and the smallest among equals is taken."""
    layer, x = nn.Linear(64, 16), 0.5 * torch.randn(128, 64).sign()
    assert search_ratio(layer, x, peaks_of(x), SCHEMES[name]) == 0.0
    assert torch.equal(search(layer, x, peaks_of(x), SCHEMES[name]).divisor, torch.ones(64))


@pytest.mark.parametrize("name", ["w4a16", "w4a8d", "w4a4d"])
def test_a_salient_channel_is_protected(name: str) -> None:
    """Its weights get the largest factor, their error shrinks, and so does the output's."""
    layer, x, scheme = nn.Linear(64, 64), torch.randn(256, 64), SCHEMES[name]
    x[:, 7] *= 40
    found = search(layer, x, peaks_of(x), scheme)
    assert int(found.divisor.argmax()) == 7
    weight, plain = layer.weight.detach(), rounded_weight(layer.weight, scheme)
    kept = scaled(layer, found.divisor, peaks_of(x), scheme, found.clip).weight / found.divisor
    assert float((kept - weight)[:, 7].square().mean()) < float((plain - weight)[:, 7].square().mean()) / 2
    with torch.no_grad():
        ours = scaled(layer, found.divisor, peaks_of(x), scheme, found.clip)(x) - layer(x)
        theirs = scaled(layer, torch.ones(64), peaks_of(x), scheme)(x) - layer(x)
    assert float(ours.square().mean()) < float(theirs.square().mean()) / 2


def test_scales_are_powers_about_one() -> None:
    x = torch.tensor([[1.0, -4.0], [3.0, 12.0]])
    torch.testing.assert_close(scales(x, 0.5), torch.tensor([2**0.5, 8**0.5]) / 2)


def test_the_ratio_is_the_best_of_all() -> None:
    layer, scheme = nn.Linear(64, 32), SCHEMES["w4a16"]
    x = torch.randn(256, 64) * torch.rand(64).exp().pow(3)
    with torch.no_grad():
        errors = [
            float((scaled(layer, scales(x, step / 20), peaks_of(x), scheme)(x) - layer(x)).square().mean())
            for step in range(20)
        ]
    best = search_ratio(layer, x, peaks_of(x), scheme)
    assert errors[round(best * 20)] == min(errors)
    assert 0 < best < 1


@pytest.mark.parametrize("name", ["w4a16", "w4a8d", "w8a8"])
def test_clips_are_the_best_of_all(name: str) -> None:
    """Against the squared error of each group's share of the output, written out."""
    weight, x, scheme = torch.randn(8, 64), torch.randn(100, 64), SCHEMES[name]
    weight[:, ::7] *= 3
    group = scheme.group_size or 64
    shares = torch.stack(
        [
            ((rounded_weight(weight, scheme, 1 - step / 20) - weight)[:, None] * x)
            .reshape(8, 100, -1, group)
            .sum(dim=3)
            for step in range(10)
        ]
    )
    expected = 1 - shares.square().mean(dim=2).argmin(dim=0) / 20
    clip = search_clip(weight, x, scheme)
    torch.testing.assert_close(clip.reshape(8, -1), expected)


def test_weights_on_the_grid_are_not_clipped_and_unused_outliers_are() -> None:
    scheme = SCHEMES["w4a16"]
    whole = torch.randint(-7, 8, (4, 64)).float()
    whole[:, 0] = 7
    assert torch.equal(search_clip(whole, torch.randn(50, 64), scheme), torch.ones(4, 1))
    weight, x = 0.55 / 7 * torch.randint(-7, 8, (4, 64)), torch.randn(50, 64)
    weight[:, 3], x[:, 3] = 1.0, 0.0
    torch.testing.assert_close(search_clip(weight, x, scheme), torch.full((4, 1), 0.55))


def test_queries_and_keys_are_not_clipped() -> None:
    layer, x = nn.Linear(64, 48), torch.randn(100, 64)
    every = search(layer, x, peaks_of(x), SCHEMES["w4a16"])
    values = search(layer, x, peaks_of(x), SCHEMES["w4a16"], clip_all=False)
    assert isinstance(values, Found)
    assert bool((every.clip[:32] < 1).any())
    assert bool((values.clip[:32] == 1).all())
    assert torch.equal(values.clip[32:], every.clip[32:])
