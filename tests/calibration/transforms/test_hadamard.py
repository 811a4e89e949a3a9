"""Hadamard matrices: orthogonal at every size, and as even as the size allows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.calibration.transforms.hadamard import hadamard, random_hadamard, sylvester
from vggt_edge.devices.errors import UsageError


@given(st.integers(1, 96))
def test_orthogonal_at_every_size(n: int) -> None:
    """H H^T = 1, also where n is odd."""
    torch.testing.assert_close(hadamard(n) @ hadamard(n).T, torch.eye(n))


@given(st.integers(1, 64), st.integers(0, 1000))
def test_random_signs_keep_it_orthogonal(n: int, seed: int) -> None:
    """Same matrix for the same seed."""
    rotation = random_hadamard(n, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(n))
    assert torch.equal(rotation, random_hadamard(n, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("n", "block"), [(64, 64), (12, 4), (7, 1)])
def test_a_spike_is_spread_evenly(n: int, block: int) -> None:
    """One channel becomes ``block`` channels of equal magnitude."""
    spread = hadamard(n)[n - 1].abs()
    assert int((spread > 0).sum()) == block
    torch.testing.assert_close(spread.max(), torch.tensor(block**-0.5))


def test_sizes_of_two_and_four_by_hand() -> None:
    """Sylvester's matrices of order 2 and 4."""
    assert sylvester(2).tolist() == [[1, 1], [1, -1]]
    assert sylvester(4).tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]


def test_a_size_below_one_is_refused() -> None:
    """Nothing to rotate."""
    with pytest.raises(UsageError, match="size 0"):
        hadamard(0)
