"""From measured errors and the cost model to a ``PrecisionPlan``: mixed under a budget, or one precision for all.

What to optimise is solved in planning/program.py; here are the candidates, the default budget and the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.planning.cost import BlockCost, block_scheme, latency_ms, weight_bytes
from vggt_edge.calibration.planning.program import Budget, Candidate, Totals, natural, output_error, solve, totals
from vggt_edge.calibration.scheme import FP4, FP8, NumberType, scheme
from vggt_edge.devices.errors import BudgetError, InputError, UsageError
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.devices.units import format_bytes

LOSSLESS = "fp32"
FP8_ERRORS = 2  # of FP8 everywhere: what a mixed plan of 16, 8 and 4-bit floats may have


@dataclass(frozen=True)
class PlanContext:
    """What a plan records besides the choice.

    rest_bytes: of what lies outside the blocks, under ``rest_scheme``. kept_scheme: of excluded layers.
    """

    model_digest: str
    stats_digest: str
    target: str
    group_size: int
    rest_bytes: int
    rest_scheme: str = "fp16"
    kept_scheme: str = "fp16"


def candidate_schemes(block: BlockCost, profile: DeviceProfile) -> tuple[str, ...]:
    """The schemes this block may get on the device, in the profile's order; convolutions have no 4-bit form.

    None with 4-bit groups that the device does not run: layers whose width no group of the device divides get others.
    """
    named = (name for name in profile.schemes if block_scheme(block, name) == name)
    return tuple(name for name in named if _groups_run(block, name, profile))


def _groups_run(block: BlockCost, name: str, profile: DeviceProfile) -> bool:
    size = checked_group_size(profile)
    forms = (layer.form(name, size) for layer in block.layers)
    groups = {form.group_size for form in forms if form.group_size is not None and form.weight != FP4}
    return not profile.group_sizes or groups <= set(profile.group_sizes)


def rest_scheme(precision: str, profile: DeviceProfile) -> str:
    """What the layers outside the blocks get: 8 bits where the device has them without int8 inputs, else 16.

    The camera head's modulation alone would else be a tenth of a 4-bit vggt-mini. A device that has neither gets 8 bits
    with inputs that are quantized at run time, and FP32 where those are not asked for. A model in FP32 is so as a
    whole. precision: a scheme, or ``mixed``.
    """
    if precision == LOSSLESS:
        return LOSSLESS
    narrow = precision != "fp16"
    if narrow and "w8a16" in profile.schemes:
        return "w8a16"
    if {"fp16", "w8a16"} & set(profile.schemes):
        return "fp16"
    return "w8a8d" if narrow and "w8a8d" in profile.schemes else LOSSLESS


def checked_group_size(profile: DeviceProfile, group_size: int | None = None) -> int:
    """The asked group size, or the device's default; ``UsageError`` for one that the device does not run."""
    if group_size is None:
        return profile.group_sizes[0] if profile.group_sizes else 64
    if profile.group_sizes and group_size not in profile.group_sizes:
        raise UsageError(
            f"{profile.name} has no 4-bit groups of {group_size}",
            expected=f"one of: {', '.join(str(size) for size in profile.group_sizes)}",
        )
    return group_size


def make_candidates(
    blocks: Iterable[BlockCost],
    errors: Mapping[tuple[str, str], float],
    profile: DeviceProfile,
    group_size: int,
    schemes: Mapping[str, Sequence[str]] | None = None,
    outputs: Mapping[tuple[str, str], Mapping[str, float]] | None = None,
) -> tuple[Candidate, ...]:
    """A candidate for every block under every scheme it may get: ``schemes`` by block, else all that the device runs.

    errors: (block, scheme) to predicted error; that of ``fp32`` is 0 if absent, a missing one is an ``InputError``.
    outputs: the errors of single outputs, where they are known.
    """
    known = outputs or {}
    checked_group_size(profile, group_size)
    candidates = []
    for block in blocks:
        for name in schemes[block.name] if schemes else candidate_schemes(block, profile):
            error = errors.get((block.name, name), 0.0 if name == LOSSLESS else None)
            if error is None:
                raise InputError(
                    f"no error was measured for scheme {name}",
                    where=f"block {block.name}",
                    expected="an error for each candidate scheme of each block",
                    remedy="run `vggt-edge calibrate` again for this target",
                )
            size, time = weight_bytes(block, name, group_size), latency_ms(block, name, profile, group_size)
            candidates.append(Candidate(block.name, name, error, size, time, known.get((block.name, name), {})))
    return tuple(candidates)


@dataclass(frozen=True)
class DefaultBudget:
    """Budget of ``mixed`` where none is given. said: the same for people."""

    budget: Budget
    said: str


def default_budget(candidates: Sequence[Candidate], rest_bytes: int) -> DefaultBudget:
    """The memory of 8 bits everywhere or, on a device that multiplies 4-bit floats, twice the error of FP8 everywhere.

    8 bits: of each block, the smallest 8-bit candidate counts (its smallest candidate where it has none), so all-8-bit
    always fits, and the plan can only be as accurate or more: bits move from blocks that do not need them to those that
    do. FP8: the plan is as small as an error 3 dB above that of FP8 allows, in total and of each output. Without the
    latter, points of vggt-mini would pay for poses, which suffer most from 4 bits in the camera trunk.
    """
    options = _by_block(candidates)
    if any(scheme(one.scheme).input == FP4 for one in candidates):
        fp8 = totals(_fp8_or_widest(each) for each in options.values())
        limits = {name: FP8_ERRORS * error for name, error in fp8.outputs.items()}
        total = FP8_ERRORS * fp8.error
        said = f"{FP8_ERRORS} times the predicted error of fp8 everywhere, {total:.4g}, in total and of each output"
        return DefaultBudget(Budget(max_accuracy_drop=total, max_output_errors=limits), said)
    size = rest_bytes
    for each in options.values():
        eight = [option.weight_bytes for option in each if scheme(option.scheme).weight_bits == 8]
        size += min(eight or [option.weight_bytes for option in each])
    return DefaultBudget(Budget(max_memory_bytes=size), f"the memory of 8 bits everywhere, {format_bytes(size)}")


def _fp8_or_widest(options: Sequence[Candidate]) -> Candidate:
    """Candidate of a block in a plan of ``fp8`` for all; convolutions stay wide. options: the widest first."""
    return next((option for option in options if scheme(option.scheme).input == FP8), options[0])


def plan_mixed(candidates: Sequence[Candidate], budget: Budget, context: PlanContext) -> PrecisionPlan:
    """The optimal plan under a budget (``default_budget`` if it is empty), with the reason for each choice.

    Raises ``BudgetError`` if nothing fits and ``InputError`` for candidates that make no sense.
    """
    notes = []
    if budget.is_empty:
        default = default_budget(candidates, context.rest_bytes)
        budget = default.budget
        notes.append(f"No budget given; the plan keeps to {default.said}.")
    chosen = solve(candidates, budget, context.rest_bytes)
    sums = totals(chosen)
    explain = _Reasons(budget, context.rest_bytes, sums)
    options = _by_block(candidates)
    notes.append(explain.summary())
    return PrecisionPlan(
        model_digest=context.model_digest,
        stats_digest=context.stats_digest,
        target=context.target,
        group_size=context.group_size,
        assignments=tuple(_assignment(one, explain.reason(one, options[one.block])) for one in chosen),
        rest_scheme=context.rest_scheme,
        rest_bytes=context.rest_bytes,
        kept_scheme=context.kept_scheme,
        notes=tuple(notes),
    )


def plan_uniform(
    blocks: Iterable[BlockCost],
    name: str,
    profile: DeviceProfile,
    context: PlanContext,
    errors: Mapping[tuple[str, str], float] | None = None,
) -> PrecisionPlan:
    """A plan with one scheme for every block; those that cannot have it get another one, and the reason says so.

    errors: as for ``make_candidates``, optional here: what was not measured is predicted as 0, and a note says that.
    Raises ``UsageError`` if the device does not run the scheme, also not on request.
    """
    if scheme(name).name not in profile.runnable:
        raise UsageError(f"{profile.name} does not run {name}", expected=f"one of: {', '.join(profile.runnable)}")
    checked_group_size(profile, context.group_size)
    measured = errors or {}
    assignments = []
    for block in sorted(blocks, key=lambda block: natural(block.name)):
        got = block_scheme(block, name)
        error = measured.get((block.name, got), 0.0)
        size = weight_bytes(block, got, context.group_size)
        time = latency_ms(block, got, profile, context.group_size)
        reason = f"{name} was asked for all blocks"
        if got != name:
            reason += f"; {_why(block, name)}, so this block gets {got}"
        elif others := _other_layers(block, name):
            reason += f"; {others}: their inputs cannot be cut into the blocks that {name} has"
        assignments.append(_assignment(Candidate(block.name, got, error, size, time), reason))
    notes = []
    if name != LOSSLESS and any((one.block, one.scheme) not in measured for one in assignments):
        notes.append("errors were not measured for every block: 0 stands for unknown")
    if name in profile.on_request and scheme(name).attention is None:
        units = f" on its {profile.compute_units.replace('_', ' ')}" if profile.compute_units else ""
        notes.append(f"{name} is not among the schemes that {profile.name} runs best{units}")
    return PrecisionPlan(
        model_digest=context.model_digest,
        stats_digest=context.stats_digest,
        target=context.target,
        group_size=context.group_size,
        assignments=tuple(assignments),
        rest_scheme=context.rest_scheme,
        rest_bytes=context.rest_bytes,
        kept_scheme=context.kept_scheme,
        notes=tuple(notes),
    )


def _why(block: BlockCost, name: str) -> str:
    """Why no layer of a block gets the scheme ``name``."""
    if scheme(name).attention is not None and not block.attention_macs:
        return "it has no attention"
    if scheme(name).weight.type is NumberType.PALETTE:
        return "its layers are too small for tables"
    if block.is_conv:
        return f"convolutions have no form of {name}"
    return f"its inputs cannot be cut into the blocks that {name} has"


def _other_layers(block: BlockCost, name: str) -> str:
    """The linears that get another scheme than their block: ``attn.qkv in fp8, attn.proj in fp8``."""
    forms = {one.name: one.form(name).scheme for one in block.layers if one.pinned is None and one.is_linear}
    return ", ".join(f"{layer} in {got}" for layer, got in forms.items() if got != scheme(name).name)


def check_budget(plan: PrecisionPlan, budget: Budget) -> None:
    """``BudgetError`` if a finished (uniform or edited) plan exceeds a budget; says by how much."""
    drop = sum(assignment.predicted_error for assignment in plan.assignments)
    sums = Totals(drop, plan.weight_bytes - plan.rest_bytes, plan.predicted_latency_ms)
    excess = _Reasons(budget, plan.rest_bytes, sums).excess(sums)
    if excess:
        raise BudgetError(
            f"the plan for {plan.target} exceeds {excess}",
            where="the plan's predicted totals",
            expected="totals within the budget",
            remedy="raise the budget, or let --precision mixed choose",
        )


def _assignment(one: Candidate, reason: str) -> Assignment:
    return Assignment(one.block, one.scheme, reason, max(one.error, 0.0), one.weight_bytes, one.latency_ms)


def _by_block(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    """The options of each block, the widest first."""
    grouped: dict[str, list[Candidate]] = {}
    for one in sorted(candidates, key=lambda one: (-one.weight_bytes, one.error, one.scheme)):
        grouped.setdefault(one.block, []).append(one)
    return grouped


@dataclass(frozen=True)
class _Reasons:
    """Says why a choice is the best one: what it saves, and why the nearest alternatives were not taken."""

    budget: Budget
    rest_bytes: int
    sums: Totals

    def reason(self, one: Candidate, options: Sequence[Candidate]) -> str:
        others = [option for option in options if option != one]
        if not others:
            return f"{one.scheme}: the only scheme this block has on this device"
        parts = [self._gain(one, options[0]), self._better(one, others)]
        if self.budget.max_accuracy_drop is None:
            parts.append(self._cheaper(one, others))
        return "; ".join(part for part in parts if part)

    def summary(self) -> str:
        size, sums = format_bytes(self.rest_bytes + self.sums.weight_bytes), self.sums
        return f"predicted: {size} of weights, {sums.latency_ms:.4g} ms in the blocks, summed error {sums.error:.4g}"

    def _gain(self, one: Candidate, widest: Candidate) -> str:
        if one == widest:
            return f"{one.scheme}: the widest form, error {one.error:.4g}"
        faster = widest.latency_ms - one.latency_ms
        time = f" and {faster:.4g} ms" if faster > 0 else (f" at {-faster:.4g} ms more" if faster < 0 else "")
        return (
            f"{one.scheme}: saves {format_bytes(widest.weight_bytes - one.weight_bytes)}{time} against {widest.scheme} "
            f"for {one.error - widest.error:+.4g} error"
        )

    def _better(self, one: Candidate, others: Sequence[Candidate]) -> str:
        """Why the nearest alternative that is better by the plan's objective was not taken."""
        if self.budget.max_accuracy_drop is not None:
            smaller = [option for option in others if option.weight_bytes < one.weight_bytes]
            if not smaller:
                return "no smaller form"
            near = max(smaller, key=lambda option: (option.weight_bytes, -option.error))
            return self._refused(one, near, f"would save {format_bytes(one.weight_bytes - near.weight_bytes)} more")
        finer = [option for option in others if option.error < one.error]
        if not finer:
            return "no scheme here has a lower error"
        near = min(finer, key=lambda option: (option.weight_bytes, option.error))
        return self._refused(one, near, f"({near.error - one.error:+.4g} error)")

    def _refused(self, one: Candidate, other: Candidate, gain: str) -> str:
        excess = self.excess(self._swapped(one, other))
        return (
            f"{other.scheme} {gain} {'but' if gain.startswith('would') else 'would'} exceed {excess}" if excess else ""
        )

    def _cheaper(self, one: Candidate, others: Sequence[Candidate]) -> str:
        """What the next smaller form would cost, which the budget does not ask for."""
        smaller = [option for option in others if option.weight_bytes < one.weight_bytes and option.error > one.error]
        if not smaller:
            return ""
        near = min(smaller, key=lambda option: (option.error, option.weight_bytes))
        saved = format_bytes(one.weight_bytes - near.weight_bytes)
        return (
            f"{near.scheme} would save {saved} for {near.error - one.error:+.4g} error, and the budget is met without"
        )

    def _swapped(self, one: Candidate, other: Candidate) -> Totals:
        sums = self.sums
        return Totals(
            sums.error - max(one.error, 0.0) + max(other.error, 0.0),
            sums.weight_bytes - one.weight_bytes + other.weight_bytes,
            sums.latency_ms - one.latency_ms + other.latency_ms,
            {name: total - output_error(one, name) + output_error(other, name) for name, total in sums.outputs.items()},
        )

    def excess(self, sums: Totals) -> str:
        """Which limits these totals break, and by how much; empty if none."""
        budget, parts = self.budget, []
        size = sums.weight_bytes + self.rest_bytes
        if budget.max_memory_bytes is not None and size > budget.max_memory_bytes:
            parts.append(f"--max-memory by {format_bytes(size - budget.max_memory_bytes)}")
        for flag, value, limit, unit in (
            ("--max-latency", sums.latency_ms, budget.max_latency_ms, " ms"),
            ("--max-accuracy-drop", sums.error, budget.max_accuracy_drop, ""),
        ):
            if limit is not None and value > limit * (1 + 1e-9):
                parts.append(f"{flag} by {value - limit:.4g}{unit}")
        for name, limit in budget.max_output_errors.items():
            if (value := sums.outputs.get(name, 0.0)) > limit * (1 + 1e-9):
                parts.append(f"the error of {name} by {value - limit:.4g}")
        return " and ".join(parts)
