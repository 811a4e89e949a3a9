"""What --exclude keeps, and at what: 16 bits, or FP32 where a device has no FP16."""

from __future__ import annotations

import pytest

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.planning.cost import BlockCost, LayerCost, block_scheme, weight_bytes
from vggt_edge.calibration.planning.exclude import excluded_layers, is_whole, kept_by, kept_scheme, pin, record
from vggt_edge.calibration.quantization.form import Kind, LayerShape
from vggt_edge.devices.errors import UsageError
from vggt_edge.devices.profile import resolve


def block(name: str) -> BlockCost:
    layers = tuple(
        LayerCost(f"{name}.{layer}", LayerShape(Kind.LINEAR, 64, 64, 4096), 1, 1, 1) for layer in ("fc1", "fc2")
    )
    return BlockCost(name, layers, 0, 0, 0, 1, 1)


BLOCKS = (block("a"), block("b"))


def plan(scheme: str, rest: str, kept: str) -> PrecisionPlan:
    assignments = tuple(Assignment(one.name, scheme, "asked", 0.0, 0, 0.0) for one in BLOCKS)
    return PrecisionPlan("model", "stats", "none", 32, assignments, rest_scheme=rest, kept_scheme=kept)


@pytest.mark.parametrize(("target", "kept"), [("jetson-orin", "fp16"), ("host-cpu", "fp16"), ("pixel-9", "fp32")])
def test_a_device_without_fp16_keeps_layers_in_fp32(target: str, kept: str) -> None:
    assert kept_scheme(resolve(target)) == kept
    assert kept in resolve(target).runnable


@pytest.mark.parametrize(("kept", "bytes_each"), [("fp16", 2), ("fp32", 4)])
def test_a_kept_layer_costs_what_it_is_kept_at(kept: str, bytes_each: int) -> None:
    excluded = excluded_layers(BLOCKS, [r"a\.fc2"])
    first, second = pin(BLOCKS, excluded, kept)
    assert weight_bytes(first, "w4a8d") - weight_bytes(second, "w4a8d") / 2 == bytes_each * 4096


@pytest.mark.parametrize(("kept", "bits"), [("fp16", 16), ("fp32", 32)])
def test_the_plan_says_what_is_kept(kept: str, bits: int) -> None:
    excluded = excluded_layers(BLOCKS, ["a", r"b\.fc1"])
    assert [is_whole(one, excluded) for one in BLOCKS] == [True, False]
    made = record(plan("w8a8d", "w8a8d", kept), BLOCKS, excluded)
    whole, partly = made.assignments
    assert (whole.excluded, whole.reason) == (("fc1", "fc2"), f"kept at {bits} bits by --exclude")
    assert (partly.excluded, partly.reason) == (("fc1",), f"asked; --exclude keeps fc1 at {bits} bits")
    shape = BLOCKS[1].layers[0].shape
    assert [made.form_of("b", path, shape).scheme for path in ("fc1", "fc2")] == [kept, "w8a8d"]


def test_what_a_runtime_computes_wide_is_kept_in_narrower_blocks() -> None:
    """Once, whoever else excludes it, and with the reason; a block of 16 bits has nothing to keep."""
    by_runtime = kept_by(BLOCKS, lambda shape: True)
    assert by_runtime == {"a": ("fc1", "fc2"), "b": ("fc1", "fc2")}
    made = record(plan("w8a8", "fp16", "fp16"), BLOCKS, {"a": ("fc2",)}, {"a": ("fc1", "fc2")})
    assert made.assignments[0].excluded == ("fc2", "fc1")
    assert made.assignments[0].reason == (
        "asked; --exclude keeps fc2 at 16 bits; the runtime computes fc1 in 16 bits, so they stay so"
    )
    assert record(plan("fp16", "fp16", "fp16"), BLOCKS, {}, by_runtime).assignments[0].excluded == ()


def test_the_reason_of_a_block_that_the_solver_left_at_16_bits_stays() -> None:
    made = record(plan("fp16", "w8a16", "fp16"), BLOCKS, excluded_layers(BLOCKS, [r"b\.fc1"]))
    assert made.assignments[1].reason == "asked; --exclude keeps fc1 at 16 bits"
    assert made.assignments[1].excluded == ("fc1",)


def test_a_block_that_is_excluded_as_a_whole_has_the_kept_scheme() -> None:
    first, second = pin(BLOCKS, excluded_layers(BLOCKS, ["a", r"b\.fc1"]), "fp16")
    assert (block_scheme(first, "w8a8"), block_scheme(second, "w8a8")) == ("fp16", "w8a8")


def test_a_pattern_without_a_match_is_refused() -> None:
    with pytest.raises(UsageError, match="matches no block"):
        excluded_layers(BLOCKS, ["c"])
