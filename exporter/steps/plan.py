"""Step 5: assign a scheme to every block."""

from __future__ import annotations

from dataclasses import replace

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.planning.assign import (
    PlanContext,
    check_budget,
    make_candidates,
    plan_mixed,
    plan_uniform,
    rest_scheme,
)
from vggt_edge.calibration.planning.cost import rest_bytes
from vggt_edge.calibration.planning.exclude import kept_scheme, record
from vggt_edge.calibration.planning.fit import fitted
from vggt_edge.calibration.planning.program import Budget
from vggt_edge.calibration.sensitivity.ablation import Sensitivity
from vggt_edge.exporter.steps.context import Job


def make_plan(job: Job, stats: CalibrationStats, sensitivities: tuple[Sensitivity, ...]) -> PrecisionPlan:
    """Solve the assignment under the request's budgets; milliseconds, so never cached."""
    request = job.request
    errors = {(one.block, one.scheme): one.error for one in sensitivities}
    context = PlanContext(
        model_digest=job.checkpoint.digest,
        stats_digest=stats.digest,
        target=job.profile.name,
        group_size=request.group_size,
        rest_bytes=rest_bytes(job.form, rest_scheme(request.precision, job.profile)),
        rest_scheme=rest_scheme(request.precision, job.profile),
        kept_scheme=kept_scheme(job.profile),
    )
    budget = Budget(request.max_memory_bytes, request.max_latency_ms, request.max_accuracy_drop)
    if request.precision == "mixed":
        schemes = {block.name: job.schemes_of(block) for block in job.blocks}
        outputs = {(one.block, one.scheme): one.per_output for one in sensitivities}
        candidates = make_candidates(job.blocks, errors, job.profile, request.group_size, schemes, outputs)
        plan = fitted(
            plan_mixed(candidates, budget, context),
            job.blocks,
            job.profile,
            smaller=lambda limit: plan_mixed(candidates, replace(budget, max_memory_bytes=limit), context),
        )
    else:
        plan = plan_uniform(job.blocks, request.precision, job.profile, context, errors)
        check_budget(plan, budget)
        plan = fitted(plan, job.blocks, job.profile)
    plan = record(plan, job.blocks, job.excluded, job.kept_by_runtime)
    plan.check_total(job.model.blocks())
    return plan
