from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.planning.assign import (
    PlanContext,
    candidate_schemes,
    check_budget,
    checked_group_size,
    default_budget,
    make_candidates,
    plan_mixed,
    plan_uniform,
    rest_scheme,
)
from vggt_edge.calibration.planning.cost import BlockCost, LayerCost
from vggt_edge.calibration.planning.program import Budget
from vggt_edge.calibration.quantization.form import Kind, LayerShape
from vggt_edge.devices.errors import BudgetError, InputError, UnknownNameError, UsageError
from vggt_edge.devices.profile import resolve

GOLDEN = Path(__file__).parent / "golden" / "plan_mixed.json"
ORIN = resolve("jetson-orin")
CONTEXT = PlanContext("model", "stats", ORIN.name, group_size=64, rest_bytes=50_000)


def transformer(name: str, dim: int = 128, tokens: int = 276) -> BlockCost:
    shapes = (("attn.qkv", dim, 3 * dim), ("attn.proj", dim, dim), ("mlp.fc1", dim, 4 * dim), ("mlp.fc2", 4 * dim, dim))
    layers = tuple(
        LayerCost(layer, LayerShape(Kind.LINEAR, i, o, i * o), tokens * i * o, tokens * i, tokens * o)
        for layer, i, o in shapes
    )
    return BlockCost(name, layers, 15 * dim, 2 * tokens**2 * dim, 4 * tokens * dim, tokens * dim, tokens * dim)


def convolutions(name: str) -> BlockCost:
    conv = LayerCost("scratch.conv", LayerShape(Kind.CONVOLUTION, 64, 64, 36_864), 36_864 * 784, 64 * 784, 64 * 784)
    return BlockCost(name, (conv,), 64, 0, 0, 64 * 784, 64 * 784)


BLOCKS = (
    *(transformer(f"frame_blocks.{index}") for index in range(3)),
    transformer("camera_head.trunk.0"),
    convolutions("depth_head"),
)
# What a bit costs: much in the camera trunk, little in the first frame block.
SENSITIVITY = dict(zip((block.name for block in BLOCKS), (0.125, 0.5, 1.0, 4.0, 0.25), strict=True))
SHARE = {"fp16": 1 / 1024, "w8a16": 1 / 32, "w8a8": 1 / 8, "w4a16": 1 / 2}
ERRORS = {(block, name): level * share for block, level in SENSITIVITY.items() for name, share in SHARE.items()}
CANDIDATES = make_candidates(BLOCKS, ERRORS, ORIN, 64)


def schemes_of(plan: PrecisionPlan) -> dict[str, str]:
    return {assignment.block: assignment.scheme for assignment in plan.assignments}


def test_convolution_blocks_are_offered_no_four_bits() -> None:
    assert candidate_schemes(BLOCKS[0], ORIN) == ("fp16", "w8a8", "w4a16")
    assert candidate_schemes(BLOCKS[-1], ORIN) == ("fp16", "w8a8")


def test_four_bits_are_offered_only_in_groups_that_the_device_runs() -> None:
    """A width of 96 has groups of 32, which XNNPACK multiplies and TensorRT does not."""
    block = transformer("narrow", dim=96)
    assert candidate_schemes(block, ORIN) == ("fp16", "w8a8")
    assert "w4a8d" in candidate_schemes(block, resolve("pixel-9"))


@pytest.mark.parametrize(
    ("target", "precision", "rest"),
    [
        ("host-cpu", "mixed", "w8a16"),
        ("host-cpu", "w8a8d", "w8a16"),
        ("host-cpu", "fp16", "fp16"),
        ("jetson-orin", "w8a8", "fp16"),
        ("pixel-9", "mixed", "w8a8d"),
        ("pixel-9", "w4a8d", "w8a8d"),
        ("pixel-9", "fp32", "fp32"),
    ],
)
def test_outside_the_blocks_is_stored_what_the_device_runs(target: str, precision: str, rest: str) -> None:
    assert rest_scheme(precision, resolve(target)) == rest


def test_a_device_with_fp32_alone_has_it_everywhere() -> None:
    assert rest_scheme("mixed", replace(ORIN, schemes=("fp32",))) == "fp32"


def test_an_unmeasured_scheme_is_an_error_not_a_guess() -> None:
    missing = {key: value for key, value in ERRORS.items() if key != ("frame_blocks.1", "w8a8")}
    with pytest.raises(InputError, match="scheme w8a8") as caught:
        make_candidates(BLOCKS, missing, ORIN, 64)
    assert caught.value.where == "block frame_blocks.1"


def test_fp32_needs_no_measurement() -> None:
    host = make_candidates(BLOCKS, ERRORS, resolve("host"), 64)
    assert {one.error for one in host if one.scheme == "fp32"} == {0.0}


def test_the_golden_plan() -> None:
    """Byte for byte. After a wanted change: VGGT_EDGE_UPDATE_GOLDEN=1, and read the difference."""
    text = plan_mixed(CANDIDATES, Budget(max_memory_bytes=800_000), CONTEXT).to_json()
    if os.environ.get("VGGT_EDGE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_bits_go_where_they_are_needed() -> None:
    plan = plan_mixed(CANDIDATES, Budget(max_memory_bytes=800_000), CONTEXT)
    plan.check_total(block.name for block in BLOCKS)
    assert plan.weight_bytes <= 800_000
    assert plan.scheme_of("camera_head.trunk.0").weight_bits > plan.scheme_of("frame_blocks.0").weight_bits


@pytest.mark.parametrize(
    "budget", [Budget(), Budget(max_memory_bytes=800_000), Budget(max_accuracy_drop=0.75), Budget(900_000, 1.0, 3.0)]
)
def test_the_order_of_the_candidates_does_not_matter(budget: Budget) -> None:
    shuffled = list(CANDIDATES)
    random.Random(3).shuffle(shuffled)
    assert plan_mixed(shuffled, budget, CONTEXT).digest == plan_mixed(CANDIDATES, budget, CONTEXT).digest


def test_under_an_accuracy_drop_the_plan_is_as_small_as_it_can_be() -> None:
    plan = plan_mixed(CANDIDATES, Budget(max_accuracy_drop=0.75), CONTEXT)
    assert sum(assignment.predicted_error for assignment in plan.assignments) <= 0.75
    larger = plan_mixed(CANDIDATES, Budget(max_accuracy_drop=0.1), CONTEXT)
    assert plan.weight_bytes < larger.weight_bytes
    with pytest.raises(BudgetError):
        plan_mixed(CANDIDATES, Budget(max_memory_bytes=plan.weight_bytes - 1, max_accuracy_drop=0.75), CONTEXT)


def test_without_a_budget_mixed_is_no_larger_and_no_worse_than_eight_bits() -> None:
    plan = plan_mixed(CANDIDATES, Budget(), CONTEXT)
    eight = plan_uniform(BLOCKS, "w8a8", ORIN, CONTEXT, ERRORS)
    assert plan.notes[0].startswith("No budget given; the plan keeps to the memory of 8 bits everywhere, ")
    assert plan.weight_bytes <= eight.weight_bytes
    assert sum(a.predicted_error for a in plan.assignments) < sum(a.predicted_error for a in eight.assignments)


def test_the_default_budget_fits_where_there_are_no_eight_bits() -> None:
    wide = [one for one in CANDIDATES if one.scheme == "fp16"]
    smallest = sum(one.weight_bytes for one in wide) + 50_000
    assert default_budget(wide, 50_000).budget == Budget(max_memory_bytes=smallest)
    assert set(schemes_of(plan_mixed(wide, Budget(), CONTEXT)).values()) == {"fp16"}


def test_where_four_bit_floats_multiply_mixed_is_smaller_than_fp8_and_hardly_worse() -> None:
    """The known answer: all in 4 bits has three times the error of FP8, without the camera trunk less than twice."""
    thor = resolve("jetson-thor")
    share = {"fp16": 0.0, "fp8": 1 / 16, "nvfp4": 3 / 16}
    errors = {(block, name): level * part for block, level in SENSITIVITY.items() for name, part in share.items()}
    plan = plan_mixed(make_candidates(BLOCKS, errors, thor, 64), Budget(), CONTEXT)
    fp8 = plan_uniform(BLOCKS, "fp8", thor, CONTEXT, errors)
    assert plan.notes[0].startswith("No budget given; the plan keeps to 2 times the predicted error of fp8 everywhere")
    assert plan.weight_bytes < fp8.weight_bytes
    assert sum(a.predicted_error for a in plan.assignments) <= 2 * sum(a.predicted_error for a in fp8.assignments)
    frames = {f"frame_blocks.{index}": "nvfp4" for index in range(3)}
    assert schemes_of(plan) == frames | {"camera_head.trunk.0": "fp8", "depth_head": "fp16"}


def test_a_width_that_16_does_not_divide_keeps_8_bits_and_says_so() -> None:
    """Three layers of four read the 120 channels; of 122, the hidden ones are no multiple of 16 either."""
    thor, asked = resolve("jetson-thor"), "nvfp4 was asked for all blocks"
    blocks = (transformer("even.0"), transformer("odd.0", dim=122), transformer("partly.0", dim=120))
    plan = plan_uniform(blocks, "nvfp4", thor, CONTEXT)
    assert schemes_of(plan) == {"even.0": "nvfp4", "odd.0": "fp8", "partly.0": "nvfp4"}
    assert plan.assignment("even.0").reason == asked
    assert plan.assignment("odd.0").reason == (
        f"{asked}; its inputs cannot be cut into the blocks that nvfp4 has, so this block gets fp8"
    )
    assert plan.assignment("partly.0").reason == (
        f"{asked}; attn.qkv in fp8, attn.proj in fp8, mlp.fc1 in fp8: "
        "their inputs cannot be cut into the blocks that nvfp4 has"
    )


def test_no_output_pays_for_another() -> None:
    """The error of poses alone forbids 4 bits in the camera trunk, whatever is left for points."""
    thor = resolve("jetson-thor")
    frame, camera = {"fp16": 0.0, "fp8": 1.0, "nvfp4": 1.1}, {"fp16": 0.0, "fp8": 0.1, "nvfp4": 0.4}
    errors = {
        (block, name): error
        for block in SENSITIVITY
        for name, error in (camera if block.startswith("camera") else frame).items()
    }
    outputs = {
        (block, name): {"pose_enc" if block.startswith("camera") else "points": error}
        for (block, name), error in errors.items()
    }
    free = plan_mixed(make_candidates(BLOCKS, errors, thor, 64), Budget(), CONTEXT)
    assert schemes_of(free)["camera_head.trunk.0"] == "nvfp4"
    plan = plan_mixed(make_candidates(BLOCKS, errors, thor, 64, outputs=outputs), Budget(), CONTEXT)
    assert schemes_of(plan)["camera_head.trunk.0"] == "fp8"
    reason = plan.assignment("camera_head.trunk.0").reason
    assert "nvfp4 would save" in reason
    assert "but exceed the error of pose_enc by 0.2" in reason


def test_reasons_give_the_marginal_numbers() -> None:
    plan = plan_mixed(CANDIDATES, Budget(max_memory_bytes=800_000), CONTEXT)
    by_block = {assignment.block: assignment for assignment in plan.assignments}
    options = {(one.block, one.scheme): one for one in CANDIDATES}
    narrow = by_block["frame_blocks.0"]
    saved = options["frame_blocks.0", "fp16"].weight_bytes - narrow.weight_bytes
    assert narrow.scheme == "w4a16"
    assert f"saves {saved / 1024:.1f} KiB" in narrow.reason
    assert "for +0.06238 error" in narrow.reason
    over = plan.weight_bytes - narrow.weight_bytes + options["frame_blocks.0", "w8a8"].weight_bytes - 800_000
    assert f"w8a8 (-0.04688 error) would exceed --max-memory by {over / 1024:.1f} KiB" in narrow.reason


def test_a_plan_with_room_to_spare_keeps_every_bit_and_says_so() -> None:
    plan = plan_mixed(CANDIDATES, Budget(max_memory_bytes=10**8), CONTEXT)
    assert set(schemes_of(plan).values()) == {"fp16"}
    assert "no scheme here has a lower error" in plan.assignments[0].reason
    assert "the budget is met without" in plan.assignments[0].reason


def test_under_an_accuracy_drop_reasons_name_the_limit() -> None:
    reasons = " ".join(a.reason for a in plan_mixed(CANDIDATES, Budget(max_accuracy_drop=0.75), CONTEXT).assignments)
    assert "more but exceed --max-accuracy-drop by" in reasons
    assert "no smaller form" in reasons


def test_a_block_without_a_choice_says_so() -> None:
    wide = [one for one in CANDIDATES if one.scheme == "fp16"]
    assert "the only scheme" in plan_mixed(wide, Budget(), CONTEXT).assignments[0].reason


def test_uniform_four_bits_leave_convolutions_at_eight() -> None:
    plan = plan_uniform(BLOCKS, "w4a16", ORIN, CONTEXT, ERRORS)
    plan.check_total(block.name for block in BLOCKS)
    got = schemes_of(plan)
    assert got.pop("depth_head") == "w8a16"
    assert set(got.values()) == {"w4a16"}
    assert "convolutions have no form of w4a16, so this block gets w8a16" in plan.assignment("depth_head").reason
    assert plan.assignment("depth_head").predicted_error == ERRORS["depth_head", "w8a16"]
    assert plan.notes == ()


def test_a_uniform_plan_needs_no_errors_but_says_that_they_are_unknown() -> None:
    plan = plan_uniform(BLOCKS, "w8a8", ORIN, CONTEXT)
    assert "0 stands for unknown" in plan.notes[0]
    assert plan_uniform(BLOCKS, "fp32", resolve("host"), CONTEXT).notes == ()


def test_a_scheme_that_the_device_does_not_run_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="does not run w8a16") as caught:
        plan_uniform(BLOCKS, "w8a16", ORIN, CONTEXT)
    assert caught.value.expected == "one of: fp16, w8a8, w4a16, w8a8-mha"
    with pytest.raises(UnknownNameError):
        plan_uniform(BLOCKS, "w3a3", ORIN, CONTEXT)


def test_a_group_size_that_the_device_does_not_run_is_a_usage_error() -> None:
    assert checked_group_size(ORIN) == 64
    assert checked_group_size(ORIN, 128) == 128
    with pytest.raises(UsageError, match="groups of 32"):
        make_candidates(BLOCKS, ERRORS, ORIN, 32)


def test_a_uniform_plan_is_held_against_a_budget() -> None:
    plan = plan_uniform(BLOCKS, "w8a8", ORIN, CONTEXT)
    check_budget(plan, Budget(max_memory_bytes=plan.weight_bytes, max_latency_ms=plan.predicted_latency_ms))
    with pytest.raises(BudgetError, match="exceeds --max-memory by 1 B and --max-latency by"):
        check_budget(plan, Budget(max_memory_bytes=plan.weight_bytes - 1, max_latency_ms=0.001))
