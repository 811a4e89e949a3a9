"""What --exclude keeps, and at what: 16 bits, or FP32 where a device has no FP16."""

from __future__ import annotations

import pytest

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.planning.cost import BlockCost, LayerCost, weight_bytes
from vggt_edge.calibration.planning.exclude import excluded_layers, is_whole, kept_scheme, pin, record
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.devices.errors import UsageError
from vggt_edge.devices.profile import resolve


def block(name: str) -> BlockCost:
    layers = tuple(LayerCost(f"{name}.{layer}", False, 64, 64, 4096, 1, 1, 1) for layer in ("fc1", "fc2"))
    return BlockCost(name, layers, 0, 0, 0, 1, 1)


BLOCKS = (block("a"), block("b"))


def plan(scheme: str, rest: str) -> PrecisionPlan:
    assignments = tuple(Assignment(one.name, scheme, "asked", 0.0, 0, 0.0) for one in BLOCKS)
    return PrecisionPlan("model", "stats", "none", 32, assignments, rest_scheme=rest)


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
    whole = record(plan(kept, "w8a8d"), excluded, kept).assignments[0]
    assert whole.reason == f"kept at {bits} bits by --exclude"
    partly = record(plan("w8a8d", "w8a8d"), excluded, kept).assignments[1]
    assert (partly.excluded, partly.reason) == (("fc1",), f"asked; --exclude keeps fc1 at {bits} bits")


@pytest.mark.parametrize(
    ("rest", "excluded"),
    [("fp16", "fp16"), ("w8a16", "w8a16"), ("fp32", "fp32"), ("w8a8d", "fp32"), ("w4a8d", "fp32"), ("w8a8", "fp32")],
)
def test_excluded_layers_never_quantize_activations(rest: str, excluded: str) -> None:
    assert plan("w8a8d", rest).excluded_scheme == SCHEMES[excluded]


def test_a_pattern_without_a_match_is_refused() -> None:
    with pytest.raises(UsageError, match="matches no block"):
        excluded_layers(BLOCKS, ["c"])
