"""The audit believes the file's initializers, not the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.quantization.form import scheme_with
from vggt_edge.calibration.scheme import Activation, Numbers, NumberType
from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.runtimes.common.audit import audit_onnx, load_onnx

LINEAR = st.sampled_from(["fp32", "fp16", "w8a16", "w4a16", "w8a8", "w8a8d", "w4a8d"])
CONV = st.sampled_from(["fp32", "fp16", "w8a16", "w8a8", "w8a8d"])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.tuples(LINEAR, LINEAR, CONV), asked=st.tuples(LINEAR, LINEAR, CONV))
def test_it_passes_exactly_when_every_block_holds_what_was_asked(
    written: tuple[str, ...],
    asked: tuple[str, ...],
    write_mini: Callable[..., Path],
    make_plan: Callable[..., PrecisionPlan],
) -> None:
    path = write_mini(*written)
    if written == asked:
        assert [entry.realised for entry in audit_onnx(path, make_plan(*asked))] == list(written)
        return
    with pytest.raises(LoweringError) as caught:
        audit_onnx(path, make_plan(*asked))
    for block, wanted, got in zip(("frame_blocks.0", "global_blocks.0", "depth_head"), asked, written, strict=True):
        assert (f"{block}/" in str(caught.value)) == (wanted != got)


def test_one_linear_that_stayed_wide_is_found(
    write_mini: Callable[..., Path], make_plan: Callable[..., PrecisionPlan]
) -> None:
    """Three of four linears in 8 bits are not a w8a8 block."""
    path = write_mini("w8a8")
    model = onnx.load(path)
    target = next(node for node in model.graph.node if node.name.startswith("frame_blocks.0/mlp.fc2/MatMul"))
    wide = onnx.numpy_helper.from_array(np.zeros((512, 128), np.float32), "wide")
    model.graph.initializer.append(wide)
    target.input[1] = "wide"
    onnx.save(model, path)
    with pytest.raises(LoweringError, match=r"mlp\.fc2/MatMul_\d+: asked w8a8, the file holds w32a8") as caught:
        audit_onnx(path, make_plan("w8a8"))
    assert "mlp.fc1" not in str(caught.value)


def test_attention_in_floats_has_no_scheme_of_attention(
    write_mini: Callable[..., Path], make_plan: Callable[..., PrecisionPlan]
) -> None:
    """The complaint differs for float products in the file and for a block without any."""
    path = write_mini("w8a8")
    with pytest.raises(LoweringError, match=r"frame_blocks\.0/attn/.*: asked w8a8-mha, attention multiplies other"):
        audit_onnx(path, make_plan("w8a8-mha"))
    with pytest.raises(LoweringError, match=r"depth_head: asked w8a8-mha, the file holds no product of attention"):
        audit_onnx(write_mini("w8a8", "w8a8", "w8a8"), make_plan("w8a8", "w8a8", "w8a8-mha"))


@pytest.mark.parametrize("rest", ["fp16", "w8a16"])
def test_an_excluded_linear_has_to_have_the_kept_scheme_whatever_the_rest_has(
    rest: str, write_mini: Callable[..., Path], make_plan: Callable[..., PrecisionPlan]
) -> None:
    path = write_mini("w8a8")
    with pytest.raises(LoweringError, match=r"mlp\.fc2/MatMul_\d+: asked fp16, the file holds w8a8"):
        audit_onnx(path, replace(make_plan("w8a8", excluded=("mlp.fc2",)), rest_scheme=rest))


@pytest.mark.parametrize(
    ("written", "asked"), [("w8a8", "w8a8d"), ("w8a8d", "w8a8"), ("w8a16", "w8a8d"), ("w4a16", "w4a8d")]
)
def test_static_dynamic_and_no_int8_inputs_are_told_apart(
    written: str, asked: str, write_mini: Callable[..., Path], make_plan: Callable[..., PrecisionPlan]
) -> None:
    with pytest.raises(LoweringError, match=rf"4 layers(.|\n)*asked {asked}, the file holds {written}\n"):
        audit_onnx(write_mini(written), make_plan(asked))


def test_an_excluded_linear_can_be_kept_in_fp32(
    write_mini: Callable[..., Path], make_plan: Callable[..., PrecisionPlan]
) -> None:
    plan = replace(make_plan("w8a8d", excluded=("mlp.fc2",)), kept_scheme="fp32")
    with pytest.raises(LoweringError, match=r"mlp\.fc2/MatMul_\d+: asked fp32, the file holds w8a8d"):
        audit_onnx(write_mini("w8a8d"), plan)


@pytest.mark.parametrize(
    ("weight", "activation", "name"),
    [
        (Numbers(NumberType.INTEGER, 8), Activation.NONE, "w8a16"),
        (Numbers(NumberType.INTEGER, 8), Activation.STATIC_TENSOR, "w8a8"),
        (Numbers(NumberType.INTEGER, 8), Activation.DYNAMIC_TOKEN, "w8a8d"),
        (Numbers(NumberType.INTEGER, 4), Activation.DYNAMIC_TOKEN, "w4a8d"),
        (Numbers(NumberType.PALETTE, 4), Activation.NONE, "p4a16"),
        (Numbers(NumberType.INTEGER, 4), Activation.STATIC_TENSOR, "w4a8"),
        (Numbers(NumberType.FLOAT, 16), Activation.DYNAMIC_TOKEN, "w16a8d"),
        (Numbers(NumberType.PALETTE, 4), Activation.DYNAMIC_TOKEN, "p4a8d"),
        (None, Activation.DYNAMIC_TOKEN, "other weights"),
    ],
)
def test_what_is_found_has_a_name(weight: Numbers | None, activation: Activation, name: str) -> None:
    assert scheme_with(weight, activation) == name


def test_an_exclusion_does_not_cover_names_that_begin_alike(
    write_mini: Callable[..., Path], make_plan: Callable[..., PrecisionPlan]
) -> None:
    with pytest.raises(LoweringError, match=r"1 layers do not") as caught:
        audit_onnx(write_mini("w8a8"), make_plan("w8a8", excluded=("mlp.fc", "mlp.fc2")))
    assert "mlp.fc1" not in str(caught.value)


def test_a_block_without_weights_is_not_silently_fine(
    write_mini: Callable[..., Path], make_plan: Callable[..., PrecisionPlan]
) -> None:
    path = write_mini()
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        node.name = node.name.replace("global_blocks.0/", "unnamed/")
    onnx.save(model, path)
    with pytest.raises(LoweringError, match=r"global_blocks\.0: no weights under this name"):
        audit_onnx(path, make_plan())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda graph: graph.node[3].ClearField("input"), "lacks an input"),
        (lambda graph: graph.node[3].input.__setitem__(0, "nothing"), "reads nothing before it is written"),
        (lambda graph: graph.node.append(graph.node.pop(0)), "before it is written"),
        (lambda graph: graph.output[0].__setattr__("name", "nothing"), "nothing is written by nothing"),
        (lambda graph: graph.ClearField("output"), "holds no graph"),
        (lambda graph: graph.initializer[0].__setattr__("data_type", 0), "has no type"),
        (lambda graph: graph.initializer[0].__setattr__("data_type", 4711), "cannot read the ONNX model"),
    ],
)
def test_a_graph_that_cannot_be_followed_is_refused(
    write_mini: Callable[..., Path], damage: Callable[[onnx.GraphProto], object], reason: str
) -> None:
    """Whoever walks it from its outputs to its inputs would not end, or fall."""
    path = write_mini("w8a8")
    model = onnx.load(path, load_external_data=False)
    damage(model.graph)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=reason):
        load_onnx(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", "a\\b"])
def test_weights_outside_of_the_model_s_folder_are_refused(write_mini: Callable[..., Path], location: str) -> None:
    """A model may come from anyone."""
    path = write_mini("w8a8")
    model = onnx.load(path, load_external_data=False)
    stored = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in stored.external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="lead out of the model's folder"):
        load_onnx(path)
