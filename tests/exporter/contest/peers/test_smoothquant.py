"""SmoothQuant where the answer is known."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.exporter.contest.peers import smoothquant
from vggt_edge.exporter.contest.peers.inputs import block_linears
from vggt_edge.exporter.contest.peers.smoothquant import smoothed, smoothing
from vggt_edge.exporter.models.vggt import VGGT


def test_a_planted_outlier_is_halved_in_bits() -> None:
    """An input of 64 beside a weight of 1 becomes 8 beside 8."""
    peaks, weight = torch.tensor([64.0, 1.0, 4.0]), torch.tensor([[1.0, 1.0, 1.0], [-1.0, 0.5, 1.0]])
    assert torch.equal(smoothing(peaks, weight), torch.tensor([8.0, 1.0, 2.0]))


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_inputs_and_weights_end_equally_large(seed: int) -> None:
    """At alpha = 0.5 both maxima of a channel become the geometric mean of what they were."""
    generator = torch.Generator().manual_seed(seed)
    peaks, weight = torch.rand(8, generator=generator) * 100 + 0.1, torch.randn(5, 8, generator=generator)
    divisor, columns = smoothing(peaks, weight), weight.abs().amax(dim=0)
    torch.testing.assert_close(peaks / divisor, (peaks * columns).sqrt())
    torch.testing.assert_close((weight * divisor).abs().amax(dim=0), (peaks * columns).sqrt())


def test_channels_that_were_never_seen_are_not_divided_by_zero() -> None:
    assert bool((smoothing(torch.zeros(3), torch.zeros(2, 3)) > 0).all())


def test_helps_against_an_outlier_channel() -> None:
    """At eight static bits by far: the outlier takes all but seven steps from the other channels."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.randn(256, 64)
    x[:, 5] *= 30
    peaks, scheme = x.abs().amax(dim=0), SCHEMES["w8a8"]
    with torch.no_grad():
        off = [smoothed(layer, peaks, scheme, divide=divide)(x) - layer(x) for divide in (True, False)]
    assert float(off[0].square().mean()) < float(off[1].square().mean()) / 4


def test_smooths_only_what_reads_a_layer_norm(small: VGGT, scenes: tuple[Scene, ...]) -> None:
    copied = smoothquant.quantize(small, scenes[:1], SCHEMES["w8a8"], 0)
    for name in block_linears(small):
        block, path = name.rsplit(".", 2)[0], ".".join(name.rsplit(".", 2)[1:])
        divided = copied.blocks()[block].get_submodule(path).divisor is not None
        assert divided == (path in ("attn.qkv", "mlp.fc1")), name
