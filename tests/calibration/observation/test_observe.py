"""Streaming observers against the same figures computed from all values at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.calibration.observation import observe
from vggt_edge.calibration.observation.observe import (
    PATCH,
    SPECIAL,
    MagnitudeHistogram,
    NonFiniteError,
    Observer,
    split_tokens,
)


@given(st.integers(0, 2**20), st.sampled_from([500, 990, 999]), st.floats(1e-6, 1e6))
def test_percentile_is_within_the_documented_error(seed: int, permille: int, spread: float) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal(5000) * spread).float()
    histogram = MagnitudeHistogram()
    histogram.add(values)
    exact = float(values.abs().sort().values[5000 * permille // 1000 - 1])
    assert exact <= histogram.percentile(permille / 10) <= exact * (1 + 1 / 32)


def test_order_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(1000, 4, generator=torch.Generator().manual_seed(1))
    whole, parts = Observer(), Observer()
    whole.update(values)
    monkeypatch.setattr(observe, "CHUNK", 64)
    for part in reversed(values.split(100)):
        parts.update(part)
    assert np.array_equal(whole.histogram.counts, parts.histogram.counts)
    assert whole.channel_absmax is not None
    assert parts.channel_absmax is not None
    assert np.array_equal(whole.channel_absmax, parts.channel_absmax)
    assert (whole.minimum, whole.maximum, whole.count) == (parts.minimum, parts.maximum, parts.count)


def test_figures_are_those_of_all_values() -> None:
    observer = Observer()
    first, second = torch.tensor([[1.0, -5.0], [0.5, 2.0]]), torch.tensor([[-3.0, 4.0]])
    observer.update(first)
    observer.update(second)
    assert (observer.minimum, observer.maximum, observer.count) == (-5.0, 4.0, 6)
    assert observer.channel_absmax is not None
    assert observer.channel_absmax.tolist() == [3.0, 5.0]
    assert observer.percentile(100.0) == 5.0


def test_extreme_values_stay_in_the_bins() -> None:
    observer = Observer()
    observer.update(torch.tensor([[0.0, 1e-38, 3e38]]))
    assert observer.histogram.counts.sum() == 3
    assert observer.percentile(50.0) <= 2.0**-31


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(NonFiniteError):
        Observer().update(torch.tensor([[1.0, bad]]))


def test_special_tokens_are_the_first_of_every_frame() -> None:
    x = torch.arange(2 * 7).reshape(14, 1).float()
    groups = dict(split_tokens(x, tokens_per_frame=7, special_tokens=5))
    assert groups[PATCH].flatten().tolist() == [5, 6, 12, 13]
    assert groups[SPECIAL].flatten().tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]


def test_camera_tokens_are_special_and_maps_are_not() -> None:
    assert [group for group, _ in split_tokens(torch.zeros(4, 8), 7, 5)] == [SPECIAL]
    behind = [(group, values.shape[:-1].numel()) for group, values in split_tokens(torch.zeros(15, 8), 7, 5)]
    assert behind == [(SPECIAL, 10), (PATCH, 4), (SPECIAL, 1)]
    ((group, values),) = split_tokens(torch.zeros(2, 3, 4, 5), 7, 5)
    assert (group, values.shape[-1]) == (PATCH, 3)
