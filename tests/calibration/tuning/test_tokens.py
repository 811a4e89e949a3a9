"""Special tokens: which of them count, what stands for them, and scales of their own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vggt_edge.calibration.observation.observe import PATCH, SPECIAL, split_tokens
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.quantization.operators import fake_quantize_static
from vggt_edge.calibration.quantization.ranges import INPUT_RANGES
from vggt_edge.calibration.scheme import INT8
from vggt_edge.calibration.tuning.tokens import (
    PATCHES_ONLY,
    TokenPolicy,
    design_points,
    fake_quantize_tokens,
    scale_vector,
    special_of,
    token_basis,
    token_scales,
    whole_frames,
)
from vggt_edge.devices.errors import InputError, UsageError

SEEDS = st.integers(0, 10_000)


def samples(seed: int, count: int, channels: int, rank: int | None = None) -> Tensor:
    """Correlated tokens off the origin, some channels far larger than others."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank or channels, channels, generator=generator) * torch.logspace(-1, 1, channels)
    return torch.randn(count, rank or channels, generator=generator) @ mixing + 5


def covariance(tokens: Tensor) -> Tensor:
    centred = tokens.double() - tokens.double().mean(dim=0)
    return centred.T @ centred / len(tokens)


def test_the_filter_is_a_switch() -> None:
    """All tokens, patch tokens only, both groups alike: which rows count, and how much."""
    special = special_of(14, tokens_per_frame=7, special_tokens=2)
    assert special.tolist() == [True] * 2 + [False] * 5 + [True] * 2 + [False] * 5
    x = torch.arange(14.0)[:, None]
    assert len(TokenPolicy().counted(x, special)) == 14
    assert PATCHES_ONLY.counted(x, special).flatten().tolist() == [*range(2, 7), *range(9, 14)]
    weights = TokenPolicy(special=(7 - 2) / 2).weights(special)
    assert float(weights[special].sum()) == float(weights[~special].sum()) == 10


def test_a_layer_that_sees_special_tokens_only_is_not_left_with_none() -> None:
    """One camera token per frame is no whole frame; filtering it away would leave the camera head uncalibrated."""
    special = special_of(4, tokens_per_frame=7, special_tokens=2)
    assert bool(special.all())
    assert len(PATCHES_ONLY.counted(torch.ones(4, 3), special)) == 4
    assert PATCHES_ONLY.weights(special).tolist() == [1] * 4


def test_statistics_are_filtered_alike(stats: CalibrationStats) -> None:
    """Patch tokens of the blocks, and the special ones of the camera trunk, which has no others."""
    groups = {
        layer: [tensor.group for tensor in PATCHES_ONLY.groups(stats, layer)]
        for layer in ("frame_blocks.0.attn.qkv", "camera_head.trunk.0.attn.qkv")
    }
    assert list(groups.values()) == [[PATCH], [SPECIAL]]
    assert len(TokenPolicy().groups(stats, "frame_blocks.0.attn.qkv")) == 2


@pytest.mark.parametrize(("patch", "special"), [(0.0, 0.0), (-1.0, 1.0)])
def test_weights_that_leave_nothing_are_refused(patch: float, special: float) -> None:
    """Some group has to count."""
    with pytest.raises(UsageError, match="token weights"):
        TokenPolicy(patch, special)


def rescaled(tokens: Tensor, norm: float) -> Tensor:
    """Tokens (n, C), each with this Euclidean norm; zeros stay zeros."""
    return tokens * (norm / torch.linalg.vector_norm(tokens, dim=-1, keepdim=True).clamp(min=1e-12))  # type: ignore[no-any-return]


def published_token(tokens: Tensor, patch_norm: float, count: int = 32) -> Tensor:
    """QVGGT's compensation token, (C,): mean + U zbar, rescaled to the mean norm of patch tokens.

    zbar is the mean of the tokens' coordinates U^T (x - mean). The mean of centred values is 0, whatever the tokens, so
    zbar is 0 and the token is the rescaled mean: the basis has no part in it (below).
    """
    basis = token_basis(tokens, count)
    coordinates = (tokens.float() - basis.mean) @ basis.directions.T
    return rescaled((basis.mean + coordinates.mean(dim=0) @ basis.directions)[None], patch_norm)[0]


@given(SEEDS, st.integers(1, 40), st.integers(1, 12))
def test_the_published_token_is_the_mean_whatever_the_basis(seed: int, count: int, channels: int) -> None:
    """The mean of centred coordinates is 0: with 32 directions or with none, x = mu, rescaled."""
    tokens = samples(seed, count, channels)
    wanted = rescaled(tokens.mean(dim=0)[None], 3.0)[0]
    torch.testing.assert_close(published_token(tokens, 3.0), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(published_token(tokens, 3.0, count=0), wanted, rtol=1e-4, atol=1e-4)


@given(SEEDS, st.integers(1, 40), st.integers(1, 12), st.integers(0, 32))
def test_design_points_have_the_mean_and_covariance_of_the_samples(
    seed: int, count: int, channels: int, kept: int
) -> None:
    """Exactly those of the samples projected on the basis."""
    tokens = samples(seed, count, channels)
    basis = token_basis(tokens, kept)
    points = design_points(basis)
    projector = (basis.directions.T @ basis.directions).double()
    scale = float(tokens.abs().max()) ** 2
    torch.testing.assert_close(points.mean(dim=0), tokens.mean(dim=0), rtol=1e-4, atol=1e-4)
    wanted = projector @ covariance(tokens) @ projector
    torch.testing.assert_close(covariance(points), wanted, rtol=1e-3, atol=1e-6 * scale)
    assert len(points) <= max(1, 2 * kept, 2 * (count - 1))


@given(SEEDS)
def test_all_directions_keep_the_whole_covariance(seed: int) -> None:
    """With n - 1 directions nothing is lost, so that no projection is needed."""
    tokens = samples(seed, 9, 20)
    points = design_points(token_basis(tokens, 32))
    assert len(points) == 16
    scale = float(tokens.abs().max()) ** 2
    torch.testing.assert_close(covariance(points), covariance(tokens), rtol=1e-3, atol=1e-6 * scale)


@given(SEEDS)
def test_design_points_lie_no_farther_out_than_samples_do_on_average(seed: int) -> None:
    """Unlike sigma points on the axes, which lie sqrt(K) deviations out."""
    tokens = samples(seed, 30, 16)
    basis = token_basis(tokens)
    distance = (design_points(basis) - basis.mean).square().sum(dim=1)
    average = (tokens - tokens.mean(dim=0)).square().sum(dim=1).mean()
    torch.testing.assert_close(distance, average.expand(len(distance)), rtol=1e-3, atol=0.0)


def test_one_token_is_its_own_distribution() -> None:
    """No direction varies: a single point, the token itself."""
    token = torch.tensor([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(design_points(token_basis(token)), token)


@pytest.mark.parametrize("bad", [torch.zeros(0, 4), torch.full((2, 4), torch.nan), torch.zeros(4)])
def test_what_has_no_distribution_is_refused(bad: Tensor) -> None:
    """No tokens, tokens that are not finite, something that is no list of tokens."""
    with pytest.raises(InputError, match="no distribution"):
        token_basis(bad)


def test_points_fill_whole_frames() -> None:
    """A head for three frames takes four points thrice."""
    points = torch.arange(4.0)[:, None]
    assert whole_frames(points, 3).flatten().tolist() == [0, 1, 2, 3] * 3
    assert torch.equal(whole_frames(points, 2), points)


@given(SEEDS, st.floats(1e-4, 10), st.floats(1e-4, 10), st.integers(1, 3))
def test_two_scales_quantize_each_group_as_if_it_were_alone(
    seed: int, patch: float, special: float, frames: int
) -> None:
    """To the last bit, saturation included."""
    x = torch.randn(frames * 7, 5, generator=torch.Generator().manual_seed(seed)) * 10
    ours = fake_quantize_tokens(x, patch, special, tokens_per_frame=7, special_tokens=2)
    scale = {PATCH: patch, SPECIAL: special}
    apart = dict(split_tokens(x, 7, 2))
    for group, values in split_tokens(ours, 7, 2):
        assert torch.equal(values, fake_quantize_static(apart[group], scale[group], INPUT_RANGES[INT8]))


def test_equal_scales_are_one_scale() -> None:
    """Nothing is lost where the groups have one range."""
    x = torch.randn(14, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fake_quantize_tokens(x, 0.03, 0.03, 7, 2), fake_quantize_static(x, 0.03, INPUT_RANGES[INT8]))


def test_large_special_tokens_no_longer_cost_the_patches_their_precision() -> None:
    """The reason for it: with one scale the error of the patches is that of the special tokens' range."""
    x = torch.rand(14, 64, generator=torch.Generator().manual_seed(0)) - 0.5
    special = special_of(14, 7, 2)
    x[special] *= 100
    one, two = fake_quantize_static(x, 50 / 127, INPUT_RANGES[INT8]), fake_quantize_tokens(x, 0.5 / 127, 50 / 127, 7, 2)
    assert float((two - x)[~special].abs().max()) < 0.02 * float((one - x)[~special].abs().max())
    assert torch.equal(two[special], one[special])


def test_scales_come_from_the_statistics_of_each_group(stats: CalibrationStats) -> None:
    """The larger of them is the scale that all tokens share otherwise; the camera trunk has only one."""
    scales = token_scales(stats, "frame_blocks.0.attn.qkv")
    by_group = {tensor.group: tensor.absmax for tensor in stats.of_layer("frame_blocks.0.attn.qkv")}
    assert scales.patch == pytest.approx(by_group[PATCH] / 127, rel=0.2)
    assert scales.special == pytest.approx(by_group[SPECIAL] / 127, rel=0.2)
    trunk = token_scales(stats, "camera_head.trunk.0.attn.qkv")
    assert trunk.patch == trunk.special
    assert scale_vector(scales, torch.tensor([True, False])).tolist() == pytest.approx([scales.special, scales.patch])
