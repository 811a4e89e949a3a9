"""Attention in 8 bits, from a transformer block to the file for TensorRT and to what its compiler makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.observation.collect import layers_of
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.attention import OPERANDS, QuantizedAttend
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.calibration.stages.walk import IMAGES, Stage
from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph.build import write_onnx
from vggt_edge.exporter.models.layers import Block
from vggt_edge.runtimes.common.audit import audit_onnx
from vggt_edge.runtimes.onnxruntime import open_onnx
from vggt_edge.runtimes.tensorrt import rtx
from vggt_edge.runtimes.tensorrt.interpreter.session import GraphSession
from vggt_edge.runtimes.tensorrt.prepare import prepare

MADE_OF = {"w8a8-mha": "int8", "fp8-mha": "fp8"}
TOKENS, DIM, HEADS = 64, 128, 2


def block_in(name: str) -> Block:
    torch.manual_seed(0)
    block, scheme = Block(DIM, HEADS, qk_norm=True, layer_scale=0.5).eval(), SCHEMES[name]
    for path, layer in layers_of(block).items():
        block.set_submodule(path, quantized(layer, Form.of(scheme, LayerShape.of(layer)), 0.03))
    assert scheme.attention is not None
    block.attn.set_submodule("products", QuantizedAttend(scheme.attention, dict.fromkeys(OPERANDS, 4.0), DIM // HEADS))
    return block


def plan_of(*schemes: str) -> PrecisionPlan:
    blocks = (Assignment(f"layer{index}", name, "test", 0.0, 1000, 0.1) for index, name in enumerate(schemes))
    return PrecisionPlan("m" * 64, "s" * 64, "jetson-orin", 64, tuple(blocks))


@pytest.fixture
def blocks() -> tuple[Block, ...]:
    return tuple(map(block_in, MADE_OF))


@pytest.fixture
def exported(blocks: tuple[Block, ...], stages_of: Any, tmp_path: Path) -> Path:
    """An ONNX file with both blocks, the second after the first."""
    values = [IMAGES, "y0", "y1"]

    def run(module: Block, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (module(x, 1),)

    stages = [
        Stage(f"layer{index}", "layer", (values[index],), (values[index + 1],), block, run, (f"layer{index}",))
        for index, block in enumerate(blocks)
    ]
    model = stages_of(torch.zeros(TOKENS, DIM), ("y1",), stages)
    path: Path = write_onnx(model, tmp_path / "model.onnx").path
    return path


def test_the_file_computes_what_the_blocks_compute(exported: Path, blocks: tuple[Block, ...], tmp_path: Path) -> None:
    """Values near the middle of two numbers may be rounded the other way; a few are."""
    x = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = blocks[1](blocks[0](x, 1), 1).numpy()
    for session in (open_onnx(exported), GraphSession(prepare(exported, tmp_path / "trt" / "model.onnx").path)):
        actual = session.run({next(iter(session.input_shapes)): x.numpy()})["y1"]
        assert np.linalg.norm(actual - expected) < 0.02 * np.linalg.norm(expected)


def test_the_audit_reads_attention_too(exported: Path) -> None:
    """It is not enough that the layers have the precision of the plan."""
    assert [one.realised for one in audit_onnx(exported, plan_of(*MADE_OF))] == list(MADE_OF)
    with pytest.raises(LoweringError, match=r"layer0/attn\.products/MatMul: asked w8a8, attention multiplies other"):
        audit_onnx(exported, plan_of("w8a8", "fp8-mha"))
    with pytest.raises(LoweringError, match=r"layer1/attn\.products/MatMul_1: asked fp8, "):
        audit_onnx(exported, plan_of("w8a8-mha", "fp8"))
    kept = replace(plan_of(*MADE_OF).assignments[0], excluded=("attn.proj",))
    excluding = replace(plan_of(*MADE_OF), assignments=(kept, plan_of(*MADE_OF).assignments[1]))
    with pytest.raises(
        LoweringError, match=r"layer0/attn\.products/MatMul: asked w8a8-mha, attention multiplies other"
    ):
        audit_onnx(exported, replace(excluding, kept_scheme="w8a8-mha"))


@pytest.mark.skipif(not rtx.availability().ok, reason=rtx.availability().reason)
def test_the_compiler_fuses_it_in_8_bits(exported: Path, tmp_path: Path) -> None:
    """The tokens are few enough for INT8, and a GPU of compute capability 8.9 has both kinds of numbers."""
    prepared = prepare(exported, tmp_path / "trt" / "model.onnx")
    reading = rtx.compile_graph(prepared.path, capability="SM89", timeout_s=300).reading
    assert reading is not None
    found = {
        (one.node.partition("/")[0], one.kernel, one.computed) for one in reading.products if "products" in one.node
    }
    assert found == {(f"layer{index}", "fused attention", type_) for index, type_ in enumerate(MADE_OF.values())}
