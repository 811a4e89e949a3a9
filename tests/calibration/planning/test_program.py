"""The integer program against brute force."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_edge.calibration.planning.program import Budget, Candidate, natural, solve, totals
from vggt_edge.devices.errors import BudgetError, InputError
from vggt_edge.devices.units import parse_bytes, parse_ms

REST = 7
SCHEMES = ("fp16", "w8a8", "w4a16", "w8a16")

figures = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
blocks = st.lists(st.lists(figures, min_size=1, max_size=4), min_size=1, max_size=5)
limit = st.none() | st.integers(0, 160)


def candidates_of(drawn: list[list[tuple[int, int, int]]]) -> list[Candidate]:
    return [
        Candidate(f"blocks.{index}", name, error / 8, size, time / 4)
        for index, options in enumerate(drawn)
        for name, (error, size, time) in zip(SCHEMES, options, strict=False)
    ]


def budget_of(size: int | None, time: int | None, error: int | None) -> Budget:
    return Budget(size, None if time is None else time / 4, None if error is None else error / 8)


def feasible(candidates: list[Candidate], budget: Budget) -> list[tuple[float, int, float]]:
    """(error, bytes, latency) of every choice within the budget, by trying them all."""
    groups = [list(group) for _, group in itertools.groupby(candidates, key=lambda one: one.block)]
    sums = [totals(choice) for choice in itertools.product(*groups)]
    return [
        (one.error, one.weight_bytes, one.latency_ms)
        for one in sums
        if (budget.max_memory_bytes is None or one.weight_bytes + REST <= budget.max_memory_bytes)
        and (budget.max_latency_ms is None or one.latency_ms <= budget.max_latency_ms)
        and (budget.max_accuracy_drop is None or one.error <= budget.max_accuracy_drop)
    ]


@settings(max_examples=150, deadline=None)
@given(blocks, limit, limit, limit)
def test_the_answer_is_the_best_there_is(
    drawn: list[list[tuple[int, int, int]]], size: int | None, time: int | None, error: int | None
) -> None:
    candidates, budget = candidates_of(drawn), budget_of(size, time, error)
    every = feasible(candidates, budget)
    if not every:
        with pytest.raises(BudgetError):
            solve(candidates, budget, REST)
        return
    chosen = solve(candidates, budget, REST)
    assert [one.block for one in chosen] == [f"blocks.{index}" for index in range(len(drawn))]
    got = totals(chosen)
    if error is None:
        assert (got.error, got.weight_bytes, got.latency_ms) == min(every)
    else:
        assert (got.weight_bytes, got.latency_ms, got.error) == min((size, time, error) for error, size, time in every)


@settings(max_examples=60, deadline=None)
@given(blocks, st.randoms(use_true_random=False), st.integers(0, 160))
def test_the_order_of_the_candidates_does_not_matter(
    drawn: list[list[tuple[int, int, int]]], random: np.random.Generator, size: int
) -> None:
    candidates = candidates_of(drawn)
    shuffled = candidates.copy()
    random.shuffle(shuffled)
    budget = Budget(max_memory_bytes=REST + size)
    assert answer(shuffled, budget) == answer(candidates, budget)


def answer(candidates: list[Candidate], budget: Budget) -> tuple[Candidate, ...] | str:
    try:
        return solve(candidates, budget, REST)
    except BudgetError as error:
        return str(error)


@settings(max_examples=60, deadline=None)
@given(blocks, st.integers(0, 60), st.integers(0, 60) | st.none())
def test_the_suggested_memory_is_the_smallest_that_fits(
    drawn: list[list[tuple[int, int, int]]], size: int, time: int | None
) -> None:
    candidates, budget = candidates_of(drawn), budget_of(size, time, None)
    try:
        solve(candidates, budget, REST)
    except BudgetError as error:
        found = re.search(r"--max-memory (\d+B) \(the smallest that fits, (\d+) B more\)", error.expected)
        if found is None:
            return  # memory is not what stands in the way
        smallest = parse_bytes(found[1])
        assert smallest - size == int(found[2])
        if "kept" in error.expected or time is None:
            raised = Budget(smallest, budget.max_latency_ms)
            assert totals(solve(candidates, raised, REST)).weight_bytes + REST == smallest
            with pytest.raises(BudgetError):
                solve(candidates, Budget(smallest - 1, budget.max_latency_ms), REST)


def three_blocks() -> list[Candidate]:
    return [
        Candidate(f"frame_blocks.{index}", name, error, size, time)
        for index in (2, 10, 1)
        for name, error, size, time in (("fp16", 0.0, 1000, 0.7), ("w8a8", 0.25, 520, 0.4), ("w4a16", 1.0, 290, 0.6))
    ]


def test_blocks_come_in_natural_order() -> None:
    assert [one.block for one in solve(three_blocks(), Budget())] == [
        "frame_blocks.1",
        "frame_blocks.2",
        "frame_blocks.10",
    ]


@given(st.integers(0, 999), st.integers(0, 999))
def test_block_numbers_sort_as_numbers(one: int, other: int) -> None:
    names = (f"global_blocks.{one}", f"global_blocks.{other}")
    assert (natural(names[0]) < natural(names[1])) == (one < other)


def test_of_equal_plans_the_earlier_block_keeps_more_bits() -> None:
    chosen = solve(three_blocks(), Budget(max_memory_bytes=1000 + 520 + 520))
    assert [one.scheme for one in chosen] == ["fp16", "w8a8", "w8a8"]


def test_an_impossible_memory_says_how_much_is_missing() -> None:
    with pytest.raises(BudgetError) as caught:
        solve(three_blocks(), Budget(max_memory_bytes=2000), rest_bytes=2000)
    assert "3 blocks" in caught.value.what
    assert caught.value.expected == "--max-memory 2870B (the smallest that fits, 870 B more)"


def test_an_impossible_latency_asks_for_one_that_can_be_typed() -> None:
    with pytest.raises(BudgetError) as caught:
        solve(three_blocks(), Budget(max_latency_ms=1.0))
    found = re.search(r"--max-latency (\S+) ", caught.value.expected)
    assert found
    assert totals(solve(three_blocks(), Budget(max_latency_ms=parse_ms(found[1])))).latency_ms == pytest.approx(1.2)


def test_an_impossible_accuracy_drop_names_the_least_error() -> None:
    noisy = [
        Candidate(one.block, one.scheme, one.error + 0.1, one.weight_bytes, one.latency_ms) for one in three_blocks()
    ]
    with pytest.raises(BudgetError) as caught:
        solve(noisy, Budget(max_accuracy_drop=0.1))
    assert "--max-accuracy-drop 0.3" in caught.value.expected
    assert "0.2 more" in caught.value.expected


def test_limits_that_only_clash_together_are_each_given_a_way_out() -> None:
    with pytest.raises(BudgetError) as caught:
        solve(three_blocks(), Budget(max_memory_bytes=900, max_latency_ms=1.3))
    assert caught.value.expected == (
        "--max-memory 1560B (the smallest that fits, 660 B more) or "
        "--max-latency 1.80000000ms (the smallest that fits, 0.5 ms more) (the other limits kept)"
    )


def test_limits_that_are_all_out_of_reach_say_the_least_of_each() -> None:
    with pytest.raises(BudgetError) as caught:
        solve(three_blocks(), Budget(max_memory_bytes=100, max_latency_ms=0.1))
    assert "more than one limit raised" in caught.value.expected
    assert "--max-memory 870B" in caught.value.expected
    assert "--max-latency 1.2" in caught.value.expected


def test_one_byte_short_is_short_even_among_very_large_blocks() -> None:
    """Below HiGHS's own tolerance: 1 byte of 40 GB. The exact check has to refuse it."""
    large = 10**10
    options = [
        Candidate(f"b.{index}", name, error, size, 1.0)
        for index in range(4)
        for name, error, size in (("fp16", 0.0, large + 1), ("w8a8", 1.0, large), ("w4a16", 9.0, 1))
    ]
    exact = totals(solve(options, Budget(max_memory_bytes=4 * large + 3)))
    assert (exact.error, exact.weight_bytes) == (1.0, 4 * large + 3)


def test_negative_error_is_noise() -> None:
    options = [Candidate("b", "fp16", 0.0, 10, 1.0), Candidate("b", "w8a8", -0.5, 20, 1.0)]
    assert solve(options, Budget())[0].scheme == "fp16"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Candidate("b", "w8a8", float("nan"), 1, 1.0), "error nan"),
        (Candidate("b", "w8a8", float("inf"), 1, 1.0), "error inf"),
        (Candidate("b", "w8a8", 0.0, -1, 1.0), "-1 bytes"),
        (Candidate("b", "w8a8", 0.0, 1, float("nan")), "nan ms"),
        (Candidate("b", "fp16", 0.0, 1, 1.0), "given twice"),
    ],
)
def test_senseless_candidates_are_named(bad: Candidate, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        solve([Candidate("b", "fp16", 0.0, 1, 1.0), bad], Budget())
    assert "b" in caught.value.where


def test_nothing_to_choose_from_is_an_error() -> None:
    with pytest.raises(InputError, match="no candidates"):
        solve([], Budget())


def test_a_limit_that_is_no_number_is_an_error() -> None:
    with pytest.raises(InputError, match="--max-latency is nan"):
        solve(three_blocks(), Budget(max_latency_ms=float("nan")))


def test_the_size_of_the_full_model_takes_no_time() -> None:
    """76 blocks (24 + 48 + 4, as in VGGT-1B) with bytes of its size and errors without a pattern."""
    random = np.random.default_rng(0)
    options = [
        Candidate(f"b.{index}", name, float(random.lognormal(sigma=2.0) * share), int(12.6e6 * bits), 1.0 / bits)
        for index in range(76)
        for name, share, bits in (("fp16", 0.01, 2.0), ("w8a8", 0.2, 1.0), ("w4a16", 1.0, 0.53))
    ]
    half = Budget(max_memory_bytes=int(76 * 12.6e6 * 0.9))
    chosen = totals(solve(options, half))
    assert chosen.weight_bytes <= 76 * 12.6e6 * 0.9
    relaxed = totals(solve(options, Budget(max_memory_bytes=int(76 * 12.6e6))))
    assert relaxed.error <= chosen.error
