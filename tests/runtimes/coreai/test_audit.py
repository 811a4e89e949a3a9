"""The audit: where a layer is found, and what makes it fail."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.common.process import run_worker
from vggt_edge.runtimes.coreai.asset import Contents, StoredLinear, contents_from
from vggt_edge.runtimes.coreai.audit import PlannedLinear, audit_asset, match, place, planned_linears


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("aggregator.frame_blocks.1.attn.qkv", ("frame_blocks.1", "attn.qkv")),
        ("aggregator.frame_blocks.10.attn.qkv", ("frame_blocks.10", "attn.qkv")),
        ("depth_head.scratch.conv", ("depth_head", "scratch.conv")),
        ("depth_head", ("depth_head", "")),
        ("camera_head.pose", ("", "camera_head.pose")),
    ],
)
def test_a_layer_is_placed_in_its_block(path: str, expected: tuple[str, str]) -> None:
    assert place(path, ("frame_blocks.1", "frame_blocks.10", "depth_head")) == expected


def linear(digest: str, element: str = "si8", int8_input: bool = False) -> StoredLinear:
    return StoredLinear("conv2d", element, (2, 2), digest, False, int8_input)


def test_layers_of_equal_weights_are_told_apart_by_their_order() -> None:
    planned = [PlannedLinear("a", "x", "same", 4), PlannedLinear("b", "x", "same", 4), PlannedLinear("b", "y", "no", 4)]
    stored = [linear("same", int8_input=True), linear("other"), linear("same")]
    assert match(planned, stored) == ((planned[0], stored[0]), (planned[1], stored[2]), (planned[2], None))


@pytest.fixture(scope="module")
def planned(case: Any) -> tuple[PlannedLinear, ...]:
    return planned_linears(case.model.graph().program(), case.model.schemes)


@pytest.fixture(scope="module")
def contents(case: Any) -> Contents:
    """As the worker of a conversion reads the saved file."""
    code = (
        "import json, sys; from dataclasses import asdict; from pathlib import Path;"
        "from vggt_edge.runtimes.coreai.asset import read_contents;"
        "print(json.dumps({'contents': asdict(read_contents(Path(sys.argv[1])))}))"
    )
    outcome = run_worker([sys.executable, "-W", "ignore", "-c", code, str(case.asset)], 100)
    assert outcome.answer is not None, outcome.detail
    return contents_from(outcome.answer["contents"])


def with_scheme(plan: PrecisionPlan, block: str, scheme: str) -> PrecisionPlan:
    changed = tuple(replace(one, scheme=scheme) if one.block == block else one for one in plan.assignments)
    return replace(plan, assignments=changed)


def test_the_saved_asset_holds_what_the_plan_says(case: Any, planned: Any, contents: Contents) -> None:
    assert audit_asset(planned, contents.linears, case.model.plan(), "here") == case.lowered.realised


@pytest.mark.parametrize(
    ("block", "asked", "held"),
    [
        ("w8a8", "w8a16", "w8a8"),
        ("w8a16", "w8a8", "w8a16"),
        ("w4a16", "p4a16", "w4a16"),
        ("p4a16", "w4a16", "p4a16"),
        ("p6a16", "p4a16", "p6a16"),
        ("fp16", "w8a16", "fp16"),
        ("fp32", "fp16", "fp32"),
    ],
)
def test_a_block_in_another_precision_is_named(
    case: Any, planned: Any, contents: Contents, block: str, asked: str, held: str
) -> None:
    plan = with_scheme(case.model.plan(), block, asked)
    with pytest.raises(LoweringError, match=rf"{block}/linear: asked {asked}, the file holds {held}"):
        audit_asset(planned, contents.linears, plan, "here")


def test_changed_weights_are_found(case: Any, planned: Any, contents: Contents) -> None:
    """One value of one layer: the digests are of what the file really holds."""
    linears = list(contents.linears)
    place_of = next(index for index, one in enumerate(linears) if one.element == "si4")
    linears[place_of] = replace(linears[place_of], digest="0" * 64)
    with pytest.raises(LoweringError, match="w4a16/linear: asked w4a16, the file holds other weights"):
        audit_asset(planned, linears, case.model.plan(), "here")


def test_an_asset_of_another_model_is_found_out(case: Any, forms_type: Any, contents: Contents) -> None:
    other = forms_type()
    for buffer in other.buffers():
        buffer.add_(1)
    planned = planned_linears(other.eval().graph().program(), other.schemes)
    with pytest.raises(LoweringError, match="fp16/linear: asked fp16, the file holds other weights"):
        audit_asset(planned, contents.linears, case.model.plan(), "here")


def test_a_block_without_weights_is_named(case: Any, planned: Any, contents: Contents) -> None:
    rest = [one for one in planned if one.block != "p6a16"]
    with pytest.raises(LoweringError, match="p6a16: no weights under this name"):
        audit_asset(rest, contents.linears, case.model.plan(), "here")


def test_a_lost_layer_outside_the_blocks_is_named(case: Any, planned: Any, contents: Contents) -> None:
    lost = PlannedLinear("", "camera_head.pose", "lost", 4)
    with pytest.raises(LoweringError, match=r"lacks the weights of camera_head\.pose"):
        audit_asset([*planned, lost], contents.linears, case.model.plan(), "here")
