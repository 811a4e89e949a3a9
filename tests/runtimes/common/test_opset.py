"""From opset 23 to 21: Attention written out with the same results, everything else as the schemas promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.common.audit import audit_onnx, linears
from vggt_edge.runtimes.common.opset import UNCHANGED, write_lowered
from vggt_edge.runtimes.onnxruntime import open_onnx
from vggt_edge.runtimes.tensorrt.prepare import prepare
from vggt_edge.runtimes.tensorrt.rules import violations

Array = np.ndarray
HEADS, TOKENS, HEAD_DIM = 2, 16, 64
SHAPE = (1, HEADS, TOKENS, HEAD_DIM)


def save23(builder: Any, output: str, path: Path, save: Any, shape: tuple[int, ...] = SHAPE) -> Path:
    model = builder.model({"x": shape}, {"y": (output, None)})
    model.opset_import[0].version, model.ir_version = 23, 11
    return Path(save(model, path / "model.onnx"))


def sqnr_db(actual: Array, expected: Array) -> float:
    return float(10 * np.log10(np.square(expected).sum() / max(np.square(actual - expected).sum(), 1e-30)))


def attention(builder: Any, x: str, scale: float | None = 0.2) -> str:
    key = builder.op("frame_blocks.0/attn", "Mul", x, builder.constant(builder.normal(HEAD_DIM, scale=1)))
    attributes = {} if scale is None else {"scale": scale}
    return str(builder.op("frame_blocks.0/attn", "Attention", x, key, x, **attributes))


@pytest.mark.parametrize("scale", [0.2, None], ids=["given", "default"])
def test_attention_is_written_out_with_the_same_results(
    scale: float | None, builder: Any, tmp_path: Path, save: Any
) -> None:
    source = save23(builder, attention(builder, attention(builder, "x", scale), scale), tmp_path, save)
    prepared = prepare(source, tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(str(prepared.path), full_check=True)
    model = ir.load(prepared.path)
    assert (model.opset_imports[""], model.ir_version) == (21, 10)
    assert violations(model) == ()
    names = [node.name or "" for node in model.graph]
    assert len(set(names)) == len(names)
    assert sum(node.op_type == "Softmax" for node in model.graph) == 2
    assert {"frame_blocks.0/attn/Mul", "frame_blocks.0/attn/Softmax", "frame_blocks.0/attn/MatMul_1"} <= set(names)
    x = {"x": np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)}
    assert sqnr_db(open_onnx(prepared.path).run(x)["y"], open_onnx(source).run(x)["y"]) > 55


def test_quantization_at_run_time_is_plain_opset_21(builder: Any, tmp_path: Path, save: Any) -> None:
    """Scales and zero points are computed in the graph: what every export for Android holds."""
    source = save23(builder, builder.fake_quantize_rows("frame_blocks.0", "x"), tmp_path, save)
    write_lowered(source, tmp_path / "lowered.onnx")
    x = {"x": np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)}
    lowered, original = (open_onnx(path).run(x)["y"] for path in (tmp_path / "lowered.onnx", source))
    np.testing.assert_array_equal(lowered, original)


def test_writing_out_is_deterministic(builder: Any, tmp_path: Path, save: Any) -> None:
    source = save23(builder, attention(builder, attention(builder, "x")), tmp_path, save)
    first, second = (prepare(source, tmp_path / folder / "model.onnx").path for folder in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_an_attention_that_is_an_output_keeps_the_name_of_the_output(builder: Any, tmp_path: Path, save: Any) -> None:
    source = save23(builder, attention(builder, "x"), tmp_path, save)
    model = onnx.load(source, load_external_data=False)
    model.graph.node.pop()
    model.graph.node[-1].output[0] = "y"
    onnx.save(model, source)
    session = open_onnx(prepare(source, tmp_path / "out" / "model.onnx").path)
    assert session.output_names == ("y",)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda b: b.op("n", "Attention", "x", "x", "x", is_causal=1), "is_causal"),
        (lambda b: b.op("n", "Attention", "x", "x", "x", b.constant(np.zeros((16, 16), np.float32))), "4 inputs"),
        (lambda b: b.op("n", "RMSNormalization", "x", b.constant(np.ones(64, np.float32))), "RMSNormalization"),
    ],
)
def test_what_opset_21_cannot_say_is_refused_by_name(
    build: Callable[[Any], str], message: str, builder: Any, tmp_path: Path, save: Any
) -> None:
    source = save23(builder, build(builder), tmp_path, save)
    with pytest.raises(LoweringError, match=message) as caught:
        prepare(source, tmp_path / "out" / "model.onnx")
    assert "n/" in caught.value.where


@pytest.mark.parametrize("operator", sorted(UNCHANGED))
def test_the_listed_operators_mean_the_same_in_both_opsets(operator: str) -> None:
    """Between 21 and 23 they only took in more types; two attributes are new, which the lowering looks at."""
    old, new = (onnx.defs.get_schema(operator, opset) for opset in (21, 23))
    assert [value.name for value in old.inputs] == [value.name for value in new.inputs]
    assert set(new.attributes) - set(old.attributes) <= {"precision", "output_dtype"}
    for name, attribute in old.attributes.items():
        assert attribute.default_value == new.attributes[name].default_value


def four_bits(builder: Any, form: str) -> str:
    """A 4-bit linear whose group scales are stored as FP16, read through a Cast or by an output_dtype."""
    stored = builder.constant(builder.random.integers(-8, 8, (64, 128)).astype(np.int8), TensorProto.INT4)
    where = "frame_blocks.0/attn.proj"
    scale = builder.constant((0.01 + 0.01 * builder.random.random((1, 128))).astype(np.float16))
    attributes = {"output_dtype": TensorProto.FLOAT} if form == "output_dtype" else {}
    scale = builder.op(where, "Cast", scale, to=TensorProto.FLOAT) if form == "cast" else scale
    weight = builder.op(where, "DequantizeLinear", stored, scale, axis=0, block_size=64, **attributes)
    return str(builder.op(where, "MatMul", "x", weight))


@pytest.mark.parametrize("form", ["cast", "output_dtype"])
@pytest.mark.parametrize("fp32", [(), ("frame_blocks.0",)], ids=["fp16", "fp32"])
def test_narrow_scales_are_read_directly_whatever_stood_in_front(
    form: str, fp32: tuple[str, ...], builder: Any, tmp_path: Path, save: Any
) -> None:
    source = save23(builder, four_bits(builder, form), tmp_path, save)
    prepared = prepare(source, tmp_path / "out" / "model.onnx", fp32)
    model = ir.load(prepared.path)
    assert violations(model) == ()
    dequantize = next(node for node in model.graph if node.op_type == "DequantizeLinear")
    assert dequantize.inputs[1] is not None
    assert dequantize.inputs[1].const_value is not None
    assert dequantize.inputs[1].dtype == (ir.DataType.FLOAT if fp32 else ir.DataType.FLOAT16)
    x = {"x": np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)}
    assert sqnr_db(open_onnx(prepared.path).run(x)["y"], open_onnx(source).run(x)["y"]) > 55


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
def test_a_gemm_is_a_linear_for_the_audit_and_the_rules(
    scheme: str, builder: Any, tmp_path: Path, save: Any, make_plan: Callable[..., Any]
) -> None:
    where = "frame_blocks.0/mlp.fc1"
    weight, bias = builder.weight(where, builder.normal(64, 64), scheme, 1), builder.constant(builder.normal(64))
    source = save23(builder, builder.op(where, "Gemm", "x", weight, bias), tmp_path, save, (8, 64))
    (found,) = linears(ir.load(source), "frame_blocks.0")
    assert (found.path, found.scheme, found.shape.weights) == ("mlp.fc1", scheme, 4096)
    with pytest.raises(LoweringError) as caught:
        audit_onnx(source, make_plan("w8a8"))
    assert f"Gemm_{len(builder.nodes) - 2}: asked w8a8, the file holds {scheme}" in str(caught.value)
    assert violations(ir.load(prepare(source, tmp_path / "out" / "model.onnx").path)) == ()
