"""The rates of a CPU follow from its cores and its instructions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.devices.cpu import Cores, int8_macs, peak_ops_per_s

CORES = st.builds(Cores, st.just("core"), st.integers(1, 8), st.floats(1e8, 1e10), st.integers(1, 8))
FEATURES = st.sets(st.sampled_from(["dotprod", "i8mm", "sve", "hexagon_v75"]))


def test_a_phone_by_hand() -> None:
    """One core of 3 GHz with 4 pipes and three of 2 GHz with 2: 24 billion instructions a second."""
    cores = [Cores("large", 1, 3e9, 4), Cores("medium", 3, 2e9, 2)]
    assert peak_ops_per_s(cores, ["dotprod", "i8mm"]) == {"fp32": 8 * 24e9, "int8": 64 * 24e9}
    assert peak_ops_per_s(cores, ["dotprod"])["int8"] == 32 * 24e9


@given(FEATURES)
def test_matrix_products_beat_dot_products_and_those_beat_neither(features: set[str]) -> None:
    """Only these two features count, and FP32 does not gain from them."""
    best = "i8mm" if "i8mm" in features else "dotprod" if "dotprod" in features else ""
    assert int8_macs(features) == int8_macs({best})
    assert int8_macs({"i8mm"}) > int8_macs({"dotprod"}) > int8_macs(()) > 4
    assert peak_ops_per_s([Cores("core", 1, 1e9, 1)], features)["fp32"] == 8e9


@given(st.lists(CORES, min_size=1, max_size=4), st.lists(CORES, min_size=1, max_size=4), FEATURES)
def test_the_rates_of_cores_add_up(some: list[Cores], others: list[Cores], features: set[str]) -> None:
    """As a pool whose threads take work when they are free."""
    one, other, both = (peak_ops_per_s(cores, features) for cores in (some, others, some + others))
    for dtype, rate in both.items():
        assert rate == pytest.approx(one[dtype] + other[dtype])
