"""The audit believes the file's initializers, not the plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes._audit import audit_onnx

LINEAR = st.sampled_from(["fp32", "fp16", "w8a16", "w4a16", "w8a8"])
CONV = st.sampled_from(["fp32", "fp16", "w8a16", "w8a8"])


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def test_an_excluded_linear_has_to_have_the_rest_scheme(
    write_mini: Callable[..., Path], make_plan: Callable[..., PrecisionPlan]
) -> None:
    path = write_mini("w8a8")
    with pytest.raises(LoweringError, match=r"mlp\.fc2/MatMul_\d+: asked fp16, the file holds w8a8"):
        audit_onnx(path, make_plan("w8a8", excluded=("mlp.fc2",)))


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
