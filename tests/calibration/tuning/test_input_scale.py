"""The static scale of an input against all candidates, and what it does with outliers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vggt_edge.calibration.quantization.form import Form, Kind, LayerShape
from vggt_edge.calibration.quantization.quantize import activation_scale
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.calibration.tuning.input_scale import SHRINKS, Sample, best_input_scale, predicted_error

FORM = Form.of(SCHEMES["w8a8"], LayerShape(Kind.LINEAR, 16, 16, 256))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error_by_hand(sample: Sample, scale: float) -> float:
    """Written out for tokens: round, clamp, and square the sum over the channels of each token."""
    rounded = (sample.x.double() / scale).round().clamp(-128, 127) * scale
    return float(((rounded - sample.x.double()) * sample.slopes.double()).sum(dim=1).square().sum())


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), outlier=st.floats(1, 100), slope=st.floats(0, 10))
def test_no_candidate_is_better(seed: int, outlier: float, slope: float) -> None:
    """Whatever sticks out, and however much it means."""
    x, slopes = noise(64, 16, seed=seed), noise(64, 16, seed=seed + 1)
    x[0, 0], slopes[0, 0] = outlier, slope
    sample, absmax = Sample(x, slopes, 1.0), float(x.abs().max())
    best = best_input_scale(sample, absmax, FORM)
    candidates = [activation_scale(absmax * shrink) for shrink in SHRINKS]
    assert best in candidates
    # Values that fall between two steps in one precision fall to one of them in the other.
    assert error_by_hand(sample, best) <= 1.02 * min(error_by_hand(sample, scale) for scale in candidates)


@pytest.mark.parametrize(("slope", "clipped"), [(0.0, True), (10.0, False)])
def test_an_outlier_is_clipped_where_the_task_does_not_care(slope: float, clipped: bool) -> None:
    """One large value among small ones, with and without influence on the outputs."""
    x, slopes = noise(64, 16), torch.ones(64, 16)
    x[0, 0], slopes[0, 0] = 40.0, slope
    assert (best_input_scale(Sample(x, slopes, 1.0), 40.0, FORM) * 127 < 30) == clipped


def test_ties_go_to_the_larger() -> None:
    """Without any influence on the outputs nothing is clipped: other scenes may have some."""
    x = noise(64, 16)
    absmax = float(x.abs().max())
    assert best_input_scale(Sample(x, torch.zeros_like(x), 1.0), absmax, FORM) == activation_scale(absmax)


def test_one_sided_errors_of_a_token_add_up() -> None:
    """Two channels that are clipped by one each cost four, not two, and opposite slopes cancel."""
    deviation = torch.tensor([[1.0, 1.0]])
    assert predicted_error(Sample(deviation, torch.tensor([[1.0, 1.0]]), 1.0), deviation) == 4
    assert predicted_error(Sample(deviation, torch.tensor([[1.0, -1.0]]), 1.0), deviation) == 0


def test_channels_of_a_map_lie_in_its_second_dimension() -> None:
    """The places of a map are what tokens are elsewhere."""
    maps, slopes = noise(2, 3, 4, 5), noise(2, 3, 4, 5, seed=1)
    tokens, token_slopes = (values.permute(0, 2, 3, 1).reshape(-1, 3) for values in (maps, slopes))
    of_maps = predicted_error(Sample(maps, slopes, 1.0), maps)
    assert of_maps == pytest.approx(predicted_error(Sample(tokens, token_slopes, 1.0), tokens), rel=1e-5)


def test_maps_have_a_scale_too() -> None:
    """That of the best candidate, as for tokens."""
    x = noise(2, 3, 8, 8)
    x[0, 0, 0, 0] = 50.0
    slopes = torch.ones_like(x)
    slopes[0, 0, 0, 0] = 0
    assert best_input_scale(Sample(x, slopes, 1.0), 50.0, FORM) * 127 < 30
