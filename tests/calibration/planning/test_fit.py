"""The usable memory of a device is a hard limit: a plan that does not fit is narrowed, or refused with the figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.planning.assign import PlanContext, make_candidates, plan_mixed, plan_uniform
from vggt_edge.calibration.planning.cost import BlockCost, LayerCost
from vggt_edge.calibration.planning.fit import activation_bytes, fitted, weight_limit_bytes
from vggt_edge.calibration.planning.program import Budget
from vggt_edge.calibration.quantization.form import Kind, LayerShape
from vggt_edge.devices.errors import BudgetError
from vggt_edge.devices.profile import DeviceProfile, load_profile

ORIN = load_profile("jetson-orin")
LAYER = LayerCost("fc", LayerShape(Kind.LINEAR, 256, 256, 65_536), 65_536 * 100, 256 * 100, 256 * 100)
BLOCKS = tuple(BlockCost(f"frame_blocks.{index}", (LAYER,), 0, 0, 0, 25_600, 25_600) for index in range(4))
ERRORS = {(block.name, name): error for block in BLOCKS for name, error in
          (("fp16", 0.001), ("w8a8", 0.1), ("w4a16", 0.5))}  # fmt: skip
CONTEXT = PlanContext("model", "stats", ORIN.name, group_size=64, rest_bytes=1000)
CANDIDATES = make_candidates(BLOCKS, ERRORS, ORIN, 64)


def with_room_for(weights: int) -> DeviceProfile:
    return replace(ORIN, usable_memory_bytes=weights + activation_bytes(BLOCKS, ORIN))


def mixed(memory: int | None) -> PrecisionPlan:
    return plan_mixed(CANDIDATES, Budget(max_memory_bytes=memory), CONTEXT)


def test_activations_count_in_the_type_that_the_device_computes_in() -> None:
    host = load_profile("host-cpu")
    assert activation_bytes(BLOCKS, host) == 2 * activation_bytes(BLOCKS, ORIN)
    assert weight_limit_bytes(BLOCKS, with_room_for(12_345)) == 12_345


def test_a_plan_that_fits_stays() -> None:
    plan = mixed(None)
    assert fitted(plan, BLOCKS, with_room_for(plan.weight_bytes), mixed) is plan


def test_a_mix_that_does_not_fit_is_narrowed_to_what_does() -> None:
    plan = mixed(None)
    smaller = fitted(plan, BLOCKS, with_room_for(plan.weight_bytes - 1), mixed)
    assert smaller.weight_bytes < plan.weight_bytes
    assert {one.scheme for one in smaller.assignments} > {"w4a16"} or smaller.assignments[0].scheme == "w4a16"


@pytest.mark.parametrize("room", [-(10**9), 0, 2000])
def test_what_cannot_fit_is_refused_with_its_figures(room: int) -> None:
    uniform = plan_uniform(BLOCKS, "w8a8", ORIN, CONTEXT, ERRORS)
    for plan, smaller in ((mixed(None), mixed), (uniform, None)):
        with pytest.raises(BudgetError, match=r"KiB of weights and about .* of activations") as caught:
            fitted(plan, BLOCKS, with_room_for(room), smaller)
        assert caught.value.exit_code == 5
        assert ORIN.name in caught.value.where
        assert ORIN.usable_memory_reason in caught.value.expected
