"""The audit of a saved package reads what is stored, not what anyone intended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scheme import Activation
from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.base import Lowered
from vggt_edge.runtimes.coreml.audit import audit_program, linears
from vggt_edge.runtimes.coreml.program import load_program

Lower = Callable[..., tuple[Lowered, Path]]
Plan = Callable[..., PrecisionPlan]
PACKAGE = "coreml/vggt.mlpackage"


@pytest.mark.parametrize(
    "schemes",
    [("fp16", "fp16", "fp16"), ("w8a8", "w4a16", "w8a8"), ("w8a16", "w4a16", "w8a16"), ("fp32", "fp16", "fp32")],
    ids="-".join,
)
@pytest.mark.parametrize("target", ["iphone-14-pro", "ipad-m4"])
def test_every_scheme_is_read_back(lower_mini: Lower, schemes: tuple[str, ...], target: str) -> None:
    """On both sets of operators: those of iOS 17 and those of iOS 18."""
    lowered, _ = lower_mini(*schemes, target=target)
    assert [entry.realised for entry in lowered.realised] == list(schemes)
    assert all("stored weights" in entry.how for entry in lowered.realised)


def test_a_widened_layer_is_named(lower_mini: Lower, make_plan: Plan) -> None:
    _, out = lower_mini("w8a16", "w4a16", "fp16")
    program = load_program(out / PACKAGE)
    with pytest.raises(LoweringError, match=r"frame_blocks_0__attn_qkv.* of frame_blocks\.0: asked w4a16.*w8a16"):
        audit_program(program, make_plan("w4a16", "w4a16", "fp16"))


def test_excluded_layers_have_the_kept_scheme(lower_mini: Lower, make_plan: Plan) -> None:
    """Excluded by their own names, which MIL spells otherwise."""
    _, out = lower_mini("fp16", "w8a16", "fp16")
    names = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    plan = make_plan("w8a16", "w8a16", "fp16", excluded=names)
    assert audit_program(load_program(out / PACKAGE), plan)[0].realised == "fp16"
    with pytest.raises(LoweringError, match="mlp_fc2"):
        audit_program(load_program(out / PACKAGE), make_plan("w8a16", "w8a16", "fp16", excluded=names[:3]))


def test_layers_outside_the_blocks_may_not_be_wider_than_the_rest(lower_mini: Lower, make_plan: Plan) -> None:
    _, out = lower_mini("fp16", "w8a16", "fp16")
    plan = replace(make_plan("fp16", "w8a16", "fp16"), rest_scheme="w8a16")
    with pytest.raises(LoweringError, match=r"outside the blocks.*\n.*pose_branch_fc2"):
        audit_program(load_program(out / PACKAGE), plan)


def test_a_block_without_layers_is_an_error(lower_mini: Lower, make_plan: Plan) -> None:
    _, out = lower_mini("fp16", "w8a16", "fp16")
    plan = make_plan("fp16", "w8a16", "fp16")
    stray = replace(plan.assignments[0], block="frame_blocks.7")
    with pytest.raises(LoweringError, match=r"frame_blocks\.7: no weights"):
        audit_program(load_program(out / PACKAGE), replace(plan, assignments=(*plan.assignments, stray)))


def test_every_linear_and_convolution_is_seen_once(lower_mini: Lower) -> None:
    _, out = lower_mini("w8a8", "w4a16", "w8a16")
    found = tuple(linears(load_program(out / PACKAGE)))
    assert len({layer.node for layer in found}) == len(found)
    int8 = {layer.path.partition("__")[0] for layer in found if layer.activation is Activation.STATIC_TENSOR}
    assert int8 == {"frame_blocks_0"}
