from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.form import Kind, LayerShape
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.devices.errors import InputError

finite = st.floats(0, 1e6, allow_nan=False)
assignments = st.lists(
    st.builds(
        Assignment,
        block=st.text(min_size=1, max_size=12),
        scheme=st.sampled_from(sorted(SCHEMES)),
        reason=st.text(max_size=20),
        predicted_error=finite,
        weight_bytes=st.integers(0, 2**40),
        predicted_latency_ms=finite,
        excluded=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    ),
    max_size=4,
).map(tuple)
plans = st.builds(
    PrecisionPlan,
    model_digest=st.text(max_size=8),
    stats_digest=st.text(max_size=8),
    target=st.text(max_size=8),
    group_size=st.sampled_from([32, 64, 128]),
    assignments=assignments,
    rest_bytes=st.integers(0, 2**40),
    notes=st.lists(st.text(max_size=9), max_size=2).map(tuple),
)


def small_plan() -> PrecisionPlan:
    entries = tuple(
        Assignment(name, scheme, "why", 0.5, size, 1.25)
        for name, scheme, size in (("frame_blocks.0", "w4a16", 100), ("depth_head", "w8a8", 30))
    )
    return PrecisionPlan("model", "stats", "jetson-orin-nano-8gb", 64, entries, rest_bytes=7)


@given(plans)
def test_a_plan_survives_its_json(plan: PrecisionPlan) -> None:
    again = PrecisionPlan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest


def test_totals_include_what_is_outside_of_the_blocks() -> None:
    plan = small_plan()
    assert plan.weight_bytes == 137
    assert plan.predicted_latency_ms == 2.5
    assert plan.scheme_of("depth_head").activation_bits == 8


def test_the_digest_follows_the_content() -> None:
    plan = small_plan()
    other = PrecisionPlan("model", "stats", "jetson-orin-nano-8gb", 128, plan.assignments, rest_bytes=7)
    assert plan.digest != other.digest


def edited(**changes: Any) -> str:
    return json.dumps({**json.loads(small_plan().to_json()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        edited(schema_version=99),
        edited(surprise=1),
        edited(assignments=[{"block": "b"}]),
        edited(assignments=3),
        edited(notes=None),
    ],
)
def test_what_is_no_plan_names_the_file(text: str) -> None:
    with pytest.raises(InputError, match="not a precision plan") as caught:
        PrecisionPlan.from_json(text, where="out/plan.json")
    assert caught.value.where == "out/plan.json"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (small_plan().to_json().replace('"weight_bytes": 30', '"weight_bytes": "x"'), r"assignments\.1\.weight_bytes"),
        (small_plan().to_json().replace('"weight_bytes": 30', '"weight_bytes": -1'), r"assignments\.1\.weight_bytes"),
        (small_plan().to_json().replace('"predicted_error": 0.5', '"predicted_error": NaN'), "predicted_error"),
        (edited(group_size="64"), "group_size: Input should be a valid integer"),
        (edited(notes="all"), "notes: "),
        (edited(surprise=1), "surprise: unknown field"),
        (edited(schema_version=1), "schema_version: Input should be 2"),
        (edited(kept_scheme="w3a3"), "kept_scheme asks for unknown scheme 'w3a3'"),
    ],
)
def test_a_wrong_field_is_named(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        PrecisionPlan.from_json(text)
    assert caught.value.exit_code == 2


def test_a_kept_layer_has_the_form_of_the_kept_scheme() -> None:
    plan = small_plan()
    first = replace(plan.assignments[0], excluded=("mlp.fc2",))
    plan = replace(plan, assignments=(first, *plan.assignments[1:]), rest_scheme="w8a16", kept_scheme="fp16")
    shape = LayerShape(Kind.LINEAR, 128, 64, 8192)
    got = [plan.form_of("frame_blocks.0", path, shape).scheme for path in ("mlp.fc1", "mlp.fc2", "mlp.fc22")]
    assert got == ["w4a16", "fp16", "w4a16"]
    assert PrecisionPlan.from_json(plan.to_json()) == plan


def test_an_unknown_scheme_names_its_block() -> None:
    with pytest.raises(InputError, match="block depth_head asks for unknown scheme 'w3a3'") as caught:
        PrecisionPlan.from_json(small_plan().to_json().replace("w8a8", "w3a3"))
    assert "w4a16" in caught.value.expected


def test_an_unknown_block_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="point_head"):
        small_plan().assignment("point_head")


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        (["frame_blocks.0", "depth_head", "point_head"], r"missing \['point_head'\]"),
        (["frame_blocks.0"], r"unknown \['depth_head'\]"),
    ],
)
def test_a_plan_is_total_over_the_model(blocks: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        small_plan().check_total(blocks)


def test_a_block_assigned_twice_is_refused() -> None:
    plan = small_plan()
    doubled = PrecisionPlan("m", "s", "t", 64, (*plan.assignments, plan.assignments[0]))
    with pytest.raises(InputError, match=r"assigned twice \['frame_blocks.0'\]"):
        doubled.check_total(["frame_blocks.0", "depth_head"])


def test_the_right_blocks_in_any_order_are_accepted() -> None:
    small_plan().check_total(["depth_head", "frame_blocks.0"])
