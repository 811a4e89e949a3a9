"""The choice of one candidate per block as an integer program, solved exactly with HiGHS (scipy.optimize.milp).

One binary variable per candidate (a block under a scheme), exactly one per block, and linear limits on bytes, latency
and summed error. Objectives are met one after the other, each kept while the next is improved, so that one question has
one answer whatever the order of its candidates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from vggt_edge.devices.errors import BudgetError, InputError
from vggt_edge.devices.units import format_bytes

Values: TypeAlias = npt.NDArray[np.float64]

# Relative to the largest value of a quantity: sums that differ by less are equal. It covers float noise only, and stays
# below one byte however large a block is.
_TIE = 1e-9
_LARGEST_SLACK = 1e-3
# HiGHS works with absolute tolerances of 1e-6, so every row is scaled to this largest coefficient.
_ROW_SCALE = 1e3
_MAX_CUTS = 1000
_INFEASIBLE = 2


@dataclass(frozen=True)
class Candidate:
    """A block under one scheme. error: predicted, adds up over blocks; a negative one is noise and counts as zero.

    outputs: the error of each output, as far as it is known.
    """

    block: str
    scheme: str
    error: float
    weight_bytes: int
    latency_ms: float
    outputs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """Limits of a plan; None: no limit.

    Memory is that of all stored weights, what lies outside the blocks included. Latency is the sum over the blocks,
    the accuracy drop the summed error of the candidates, in the unit in which they were measured. Output errors are
    limits of the same sum for single outputs.
    """

    max_memory_bytes: int | None = None
    max_latency_ms: float | None = None
    max_accuracy_drop: float | None = None
    max_output_errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return self == Budget()


@dataclass(frozen=True)
class Totals:
    """Sums over the blocks, what lies outside of them not included."""

    error: float
    weight_bytes: int
    latency_ms: float
    outputs: Mapping[str, float] = field(default_factory=dict)


def totals(candidates: Iterable[Candidate]) -> Totals:
    """Bytes, latency and predicted error of a choice of one candidate per block."""
    chosen = list(candidates)
    return Totals(
        math.fsum(max(candidate.error, 0.0) for candidate in chosen),
        sum(candidate.weight_bytes for candidate in chosen),
        math.fsum(candidate.latency_ms for candidate in chosen),
        {name: math.fsum(output_error(one, name) for one in chosen) for name in output_names(chosen)},
    )


def output_names(candidates: Iterable[Candidate]) -> tuple[str, ...]:
    """Outputs whose error is known of some candidate, in alphabetical order."""
    return tuple(sorted({name for candidate in candidates for name in candidate.outputs}))


def output_error(candidate: Candidate, name: str) -> float:
    """Error of an output, as it is summed: 0 where it is not known, and for noise below zero."""
    return max(candidate.outputs.get(name, 0.0), 0.0)


def solve(candidates: Sequence[Candidate], budget: Budget, rest_bytes: int = 0) -> tuple[Candidate, ...]:
    """The best candidate of each block, in the natural order of the blocks' names.

    Without ``max_accuracy_drop``: least summed error, then fewest bytes, then least latency. With it: fewest bytes,
    then least latency, then least error. Raises ``BudgetError`` when nothing fits, with the smallest budget that would,
    and ``InputError`` for candidates that make no sense.
    """
    ordered = sorted(candidates, key=_canonical)
    _check(ordered)
    program = _Program(ordered)
    limits = _limits(budget, rest_bytes, program)
    order = ("error", "bytes", "latency", "rank")
    if budget.max_accuracy_drop is not None:
        order = ("bytes", "latency", "error", "rank")
    rows = [(program.values[limit.quantity], limit.value) for limit in limits]
    chosen: Values | None = None
    for quantity in order:
        values = program.values[quantity]
        chosen = program.minimise(values, rows)
        if chosen is None:
            raise _infeasible(program, limits)
        rows.append((values, _total(values, chosen)))
    assert chosen is not None
    return tuple(candidate for candidate, taken in zip(ordered, chosen, strict=True) if taken)


def natural(block: str) -> tuple[tuple[tuple[str, int], ...], str]:
    """Sort key that puts ``blocks.2`` before ``blocks.10``; different for different names."""
    return tuple((text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", block)), block


def _canonical(candidate: Candidate) -> tuple[object, ...]:
    return (
        natural(candidate.block),
        candidate.error,
        candidate.weight_bytes,
        candidate.latency_ms,
        candidate.scheme,
    )


def _check(ordered: Sequence[Candidate]) -> None:
    if not ordered:
        raise InputError("there are no candidates to choose from", expected="at least one scheme for every block")
    names = sorted((candidate.block, candidate.scheme) for candidate in ordered)
    for one, other in pairwise(names):
        if one == other:
            raise InputError(f"scheme {one[1]} is given twice", where=f"block {one[0]}", expected="each scheme once")
    for candidate in ordered:
        figures = (candidate.error, candidate.weight_bytes, candidate.latency_ms)
        if not all(math.isfinite(figure) for figure in figures) or min(figures[1:]) < 0:
            raise InputError(
                f"candidate {candidate.scheme} has error {candidate.error}, {candidate.weight_bytes} bytes, "
                f"{candidate.latency_ms} ms",
                where=f"block {candidate.block}",
                expected="finite numbers, bytes and latency not below zero",
                remedy="leave out a scheme whose error could not be measured",
            )


class _Program:
    """The variables, in canonical order, and what each one costs."""

    def __init__(self, ordered: Sequence[Candidate]) -> None:
        names = [candidate.block for candidate in ordered]
        self.blocks = list(dict.fromkeys(names))
        index = {block: position for position, block in enumerate(self.blocks)}
        self.owner = np.array([index[name] for name in names])
        self.one_each = (self.owner == np.arange(len(self.blocks))[:, None]).astype(np.float64)
        place = np.arange(len(ordered)) - np.searchsorted(self.owner, self.owner)
        self.values: dict[str, Values] = {
            "error": np.array([max(candidate.error, 0.0) for candidate in ordered]),
            "bytes": np.array([candidate.weight_bytes for candidate in ordered], dtype=np.float64),
            "latency": np.array([candidate.latency_ms for candidate in ordered]),
            # Of plans that are equal in all else: the one that gives earlier blocks the earlier candidates.
            "rank": (place * (len(self.blocks) - self.owner)).astype(np.float64),
        }
        for name in output_names(ordered):
            self.values[_quantity(name)] = np.array([output_error(candidate, name) for candidate in ordered])

    def minimise(self, values: Values, rows: Sequence[tuple[Values, float]]) -> Values | None:
        """The 0/1 choice with the least sum of ``values`` that keeps every row's sum at or below its limit, or None."""
        objective, _, _ = self._scaled(values)
        constraints = [LinearConstraint(self.one_each, 1, 1)]
        for row, limit in rows:
            coefficients, offset, scale = self._scaled(row)
            room = (limit + _slack(row) - offset) * scale
            if room < 0:
                return None
            constraints.append(LinearConstraint(coefficients[None], -np.inf, room))
        for _ in range(_MAX_CUTS):
            result = milp(
                objective, integrality=np.ones_like(objective), bounds=Bounds(0, 1), constraints=constraints,
                options={"mip_rel_gap": 0.0},
            )  # fmt: skip
            if result.status == _INFEASIBLE:
                return None
            if result.x is None:
                raise RuntimeError(f"HiGHS stopped without an answer: {result.message}")
            chosen: Values = np.round(result.x)
            if all(_total(row, chosen) <= limit + _slack(row) for row, limit in rows):
                return chosen
            # Within HiGHS's tolerance but not within the limit: forbid this one choice, and only this one.
            constraints.append(LinearConstraint(chosen[None], -np.inf, len(self.blocks) - 1))
        raise RuntimeError(f"no exact solution after {_MAX_CUTS} cuts")

    def _scaled(self, values: Values) -> tuple[Values, float, float]:
        """(values above their block's least one, scaled to ``_ROW_SCALE``; the sum of the least ones; the scale)."""
        least = np.array([values[self.owner == block].min() for block in range(len(self.blocks))])
        above = values - least[self.owner]
        largest = float(above.max())
        scale = _ROW_SCALE / largest if largest > 0 else 1.0
        return above * scale, math.fsum(least), scale


def _quantity(output: str) -> str:
    return f"error of {output}"


def _slack(values: Values) -> float:
    return min(_TIE * float(np.abs(values).max()), _LARGEST_SLACK)


def _total(values: Values, chosen: Values) -> float:
    return math.fsum(values[chosen > 0])


@dataclass(frozen=True)
class _Limit:
    """One limit of a budget. value: over the blocks only; beside: what comes on top of it outside of them."""

    flag: str
    quantity: str
    value: float
    beside: float = 0.0

    def show(self, amount: float) -> str:
        """An amount for people."""
        if self.quantity == "bytes":
            return format_bytes(amount)
        return f"{amount:.4g} ms" if self.quantity == "latency" else f"{amount:.4g}"

    def ask(self, amount: float) -> str:
        """The flag with an amount that is surely not below the given one."""
        if self.quantity == "bytes":
            return f"{self.flag} {math.ceil(amount)}B"
        # Nine significant digits, and no more decimals than the command line reads.
        digits = 9 if amount == 0 else min(9, max(0, 8 - math.floor(math.log10(amount))))
        upward = math.ceil(amount * 10**digits) / 10**digits
        return f"{self.flag} {upward:.{digits}f}" + ("ms" if self.quantity == "latency" else "")


def _limits(budget: Budget, rest_bytes: int, program: _Program) -> tuple[_Limit, ...]:
    limits = []
    if budget.max_memory_bytes is not None:
        limits.append(_Limit("--max-memory", "bytes", budget.max_memory_bytes - rest_bytes, rest_bytes))
    if budget.max_latency_ms is not None:
        limits.append(_Limit("--max-latency", "latency", budget.max_latency_ms))
    if budget.max_accuracy_drop is not None:
        limits.append(_Limit("--max-accuracy-drop", "error", budget.max_accuracy_drop))
    for name, value in budget.max_output_errors.items():
        if _quantity(name) in program.values:
            limits.append(_Limit(f"the error of {name}", _quantity(name), value))
    for limit in limits:
        if not math.isfinite(limit.value):
            raise InputError(f"{limit.flag} is {limit.value}", expected="a finite number")
    return tuple(limits)


def _infeasible(program: _Program, limits: Sequence[_Limit]) -> BudgetError:
    """Which limit would have to move, and how far: with the others kept if that helps, else each one alone."""
    ways = [text for limit in limits if (text := _way_out(program, limit, [one for one in limits if one is not limit]))]
    asked = ", ".join(f"{limit.flag} {limit.show(limit.value + limit.beside)}" for limit in limits)
    if ways:
        kept = " (the other limits kept)" if len(limits) > 1 else ""
        expected = f"{' or '.join(ways)}{kept}"
    else:
        least = [text for limit in limits if (text := _way_out(program, limit, []))]
        expected = "more than one limit raised" + (f"; at least {', '.join(least)}" if least else "")
    return BudgetError(
        f"no assignment of schemes to the {len(program.blocks)} blocks fits {asked}",
        where="the integer program of the plan",
        expected=expected,
        remedy="raise that limit, leave heads out with --outputs, or lower --frames or --resolution",
    )


def _way_out(program: _Program, limit: _Limit, kept: Sequence[_Limit]) -> str:
    """The least value of one limit under others, as a flag; empty if there is none or the limit already allows it."""
    values = program.values[limit.quantity]
    chosen = program.minimise(values, [(program.values[other.quantity], other.value) for other in kept])
    if chosen is None:
        return ""
    smallest = _total(values, chosen)
    missing = smallest - limit.value
    if missing <= _slack(values):
        return ""
    return f"{limit.ask(smallest + limit.beside)} (the smallest that fits, {limit.show(missing)} more)"
