"""The FP16 graph: the right types, the same results, the same bytes, and refusals that name a constant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.common.audit import audit_onnx
from vggt_edge.runtimes.onnxruntime import open_onnx
from vggt_edge.runtimes.tensorrt.prepare import prepare
from vggt_edge.runtimes.tensorrt.rules import violations

Array = np.ndarray
MIXED = ("w8a8", "w4a16", "w8a8")
FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def sqnr_db(actual: Array, expected: Array) -> float:
    noise = float(np.square(actual - expected).sum())
    return float(10 * np.log10(float(np.square(expected).sum()) / max(noise, 1e-30)))


def node(model: ir.Model, operator: str, within: str = "") -> ir.Node:
    return next(n for n in model.graph if n.op_type == operator and (n.name or "").startswith(within))


@pytest.mark.parametrize("schemes", [("fp16",) * 3, ("fp32",) * 3, ("w8a16",) * 3, MIXED], ids="-".join)
@pytest.mark.parametrize("fp32", [(), ("global_blocks.0",)], ids=["all fp16", "one fp32 block"])
def test_it_computes_what_the_source_computes(
    schemes: tuple[str, ...],
    fp32: tuple[str, ...],
    write_mini: Callable[..., Path],
    make_plan: Callable[..., Any],
    tokens: Array,
    tmp_path: Path,
) -> None:
    source = write_mini(*schemes)
    prepared = prepare(source, tmp_path / "trt" / "model.onnx", fp32)
    onnx.checker.check_model(str(prepared.path), full_check=True)
    assert violations(ir.load(prepared.path)) == ()
    expected, actual = (open_onnx(path).run({"tokens": tokens}) for path in (source, prepared.path))
    for name in expected:
        # In 8 bits a value near a rounding boundary may fall on its other side.
        assert sqnr_db(actual[name], expected[name]) > (25 if "w8a8" in schemes else 55), name
    if "fp32" not in schemes:
        assert [entry.realised for entry in audit_onnx(prepared.path, make_plan(*schemes))] == list(schemes)


def test_everything_is_fp16_but_the_tails_and_the_borders(write_mini: Callable[..., Path], tmp_path: Path) -> None:
    prepared = prepare(write_mini(*MIXED), tmp_path / "out.onnx")
    model = ir.load(prepared.path)
    assert all(value.dtype == FLOAT for value in (*model.graph.inputs, *model.graph.outputs))
    wide = {name.rpartition("/")[2].partition("_")[0] for name in prepared.islands if not name.startswith("output/")}
    # Slices, exp and 1 + exp of the dense head, the sums of the pose accumulator; no linear and no convolution.
    assert wide == {"Exp", "Slice", "Add"}
    inside = ("LayerNormalization", "Softmax", "Gelu", "Resize", "MatMul", "Conv", "ConvTranspose")
    for current in model.graph:
        if current.op_type in inside:
            assert current.outputs[0].dtype == HALF, current.name


def test_weights_are_stored_as_narrow_as_they_came(write_mini: Callable[..., Path], tmp_path: Path) -> None:
    """No FP16 weight behind a Cast becomes an FP32 one, and no cast is left behind."""
    prepared = prepare(write_mini(), tmp_path / "out.onnx")
    model = ir.load(prepared.path)
    matmul = node(model, "MatMul", "frame_blocks.0/attn.qkv")
    assert matmul.inputs[1] is not None
    assert matmul.inputs[1].const_value is not None
    assert matmul.inputs[1].dtype == HALF
    assert prepared.weights.packed == pytest.approx(prepared.weights.fp16, rel=0.001)
    assert prepared.casts <= 5


def test_an_fp32_island_keeps_its_fp16_weights_behind_a_cast(write_mini: Callable[..., Path], tmp_path: Path) -> None:
    source = write_mini()
    plain = prepare(source, tmp_path / "a.onnx")
    island = prepare(source, tmp_path / "b.onnx", ["frame_blocks.0"])
    assert node(ir.load(island.path), "MatMul", "frame_blocks.0").outputs[0].dtype == FLOAT
    assert node(ir.load(island.path), "MatMul", "global_blocks.0").outputs[0].dtype == HALF
    # Only biases and norms are wider there.
    assert island.weights.packed < 1.02 * plain.weights.packed


def test_the_same_source_gives_the_same_bytes(write_mini: Callable[..., Path], tmp_path: Path) -> None:
    source = write_mini(*MIXED)
    first, second = (prepare(source, tmp_path / folder / "model.onnx").path for folder in ("a", "b"))
    again = prepare(source, tmp_path / "a" / "model.onnx").path
    assert first.read_bytes() == second.read_bytes() == again.read_bytes()
    assert Path(f"{first}.data").read_bytes() == Path(f"{second}.data").read_bytes()


def test_large_constants_lie_aligned_in_one_file(builder: Any, tmp_path: Path, save: Any) -> None:
    x = builder.linear("blocks.0/fc1", "x", 512, 2048, "fp16")
    y = builder.linear("blocks.0/fc2", x, 2048, 512, "fp16")
    source = save(builder.model({"x": (1, 4, 512)}, {"y": (y, (1, 4, 512))}), tmp_path / "model.onnx")
    prepared = prepare(source, tmp_path / "out" / "model.onnx")
    tensors = list(onnx.load(prepared.path, load_external_data=False).graph.initializer)
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors if tensor.external_data]
    assert {entry["location"] for entry in entries} == {"model.onnx.data"}
    large = [entry for entry in entries if int(entry["length"]) > 1 << 20]
    assert len(large) == 2
    assert all(int(entry["offset"]) % 4096 == 0 for entry in large)
    assert sorted(path.name for path in prepared.path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]


def test_resize_scales_stay_fp32(builder: Any, tmp_path: Path, save: Any, tokens: Array) -> None:
    scales = builder.constant(np.array([1, 1, 2, 2], np.float32))
    y = builder.op("depth_head", "Resize", "x", "", scales, mode="nearest")
    z = builder.op("depth_head", "Softmax", y, axis=-1)
    source = save(builder.model({"x": (1, 2, 4, 4)}, {"z": (z, (1, 2, 8, 8))}), tmp_path / "model.onnx")
    prepared = prepare(source, tmp_path / "out.onnx")
    resize = node(ir.load(prepared.path), "Resize")
    assert resize.inputs[2] is not None
    assert resize.inputs[2].dtype == FLOAT
    x = {"x": np.random.default_rng(0).random((1, 2, 4, 4)).astype(np.float32)}
    assert sqnr_db(open_onnx(prepared.path).run(x)["z"], open_onnx(source).run(x)["z"]) > 50


def test_a_constant_that_overflows_is_refused_unless_its_module_is_an_island(
    builder: Any, tmp_path: Path, save: Any
) -> None:
    big = builder.constant(np.full(128, 1e6, np.float32))
    x = builder.op("blocks.0/scale", "Mul", "x", big)
    y = builder.linear("blocks.1/fc", builder.norm("blocks.0/norm", x, 128), 128, 8, "fp16")
    source = save(builder.model({"x": (1, 4, 128)}, {"y": (y, (1, 4, 8))}), tmp_path / "model.onnx")
    with pytest.raises(LoweringError, match=f"constant {big} overflows FP16"):
        prepare(source, tmp_path / "out.onnx")
    prepared = prepare(source, tmp_path / "out.onnx", ["blocks.0"])
    assert node(ir.load(prepared.path), "Mul").outputs[0].dtype == FLOAT
    assert node(ir.load(prepared.path), "MatMul").outputs[0].dtype == HALF


def test_an_fp32_name_without_a_node_is_an_error(write_mini: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"no node belongs to 'frame_blocks\.7'"):
        prepare(write_mini(), tmp_path / "out.onnx", ["frame_blocks.7"])


def test_an_fp32_name_does_not_take_in_names_that_begin_alike(builder: Any, tmp_path: Path, save: Any) -> None:
    x = builder.linear("blocks.1/fc", "x", 128, 128, "fp16")
    y = builder.norm("blocks.10/norm", builder.linear("blocks.10/fc", x, 128, 128, "fp16"), 128)
    source = save(builder.model({"x": (1, 4, 128)}, {"y": (y, (1, 4, 128))}), tmp_path / "model.onnx")
    model = ir.load(prepare(source, tmp_path / "out.onnx", ["blocks.1"]).path)
    assert node(model, "MatMul", "blocks.1/").outputs[0].dtype == FLOAT
    assert node(model, "MatMul", "blocks.10/").outputs[0].dtype == HALF


def test_a_large_constant_that_overflows_is_refused_too(builder: Any, tmp_path: Path, save: Any) -> None:
    """Large constants are converted when they are written; a refusal there leaves no file behind."""
    weight = builder.constant(np.full((512, 512), 1e6, np.float32))
    y = builder.norm("blocks.0/norm", builder.op("blocks.0/fc", "MatMul", "x", weight), 512)
    source = save(builder.model({"x": (4, 512)}, {"y": (y, (4, 512))}), tmp_path / "model.onnx")
    with pytest.raises(LoweringError, match=f"constant {weight} overflows FP16"):
        prepare(source, tmp_path / "out" / "model.onnx")
    assert list((tmp_path / "out").iterdir()) == []
