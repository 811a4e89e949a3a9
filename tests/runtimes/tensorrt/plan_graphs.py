"""Graphs of one block each, whose compiled plans the tests read: ``python tests/runtimes/tensorrt/plan_graphs.py``.

The command compiles them with TensorRT for RTX and writes what their plans hold as text to ``golden/``, with the
version of the compiler in the first line.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).with_name("golden")
TOKENS, ROW, WIDTH = (1, 64, 128), (1, 1, 128), 128
IMAGE, TRIPLED = (1, 64, 16, 16), (1, 64, 48, 48)
# What stands between two programs of a golden text.
BORDER = "=== program\n"
Graph = Callable[[Any, str, str], tuple[str, tuple[int, ...]]]


def linear(scheme: str, shape: tuple[int, ...] = TOKENS) -> Graph:
    def build(b: Any, block: str, x: str) -> tuple[str, tuple[int, ...]]:
        return b.linear(f"{block}/fc", x, WIDTH, WIDTH, scheme), shape

    return build


def convolution(scheme: str, operator: str) -> Graph:
    attributes = {"pads": [1, 1, 1, 1]} if operator == "Conv" else {"strides": [3, 3]}
    shape = IMAGE if operator == "Conv" else TRIPLED

    def build(b: Any, block: str, x: str) -> tuple[str, tuple[int, ...]]:
        return b.conv(f"{block}/conv", x, (64, 64, 3, 3), scheme, operator, **attributes), shape

    return build


def repeated(scheme: str) -> Graph:
    """A layer that runs twice, as those of the camera's trunk do."""

    def build(b: Any, block: str, x: str) -> tuple[str, tuple[int, ...]]:
        weight = b.weight(f"{block}/fc", b.normal(WIDTH, WIDTH), scheme, 1)
        for _ in range(2):
            x = b.op(block, "Gelu", b.op(f"{block}/fc", "MatMul", x, weight))
        return x, TOKENS

    return build


def attention(b: Any, block: str, x: str) -> tuple[str, tuple[int, ...]]:
    """Two heads that take x for queries, keys and values."""
    heads = b.op(block, "Reshape", x, b.constant(np.array([1, 64, 2, 64])))
    heads = b.op(block, "Transpose", heads, perm=[0, 2, 1, 3])
    scaled = b.op(block, "Mul", heads, b.constant(np.array(0.125, np.float32)))
    scores = b.op(block, "MatMul", scaled, b.op(block, "Transpose", heads, perm=[0, 1, 3, 2]))
    mixed = b.op(block, "MatMul", b.op(block, "Softmax", scores, axis=-1), heads)
    return mixed, (1, 2, 64, 64)


# By block: its graph, and the shape of its input.
GRAPHS: dict[str, tuple[Graph, tuple[int, ...]]] = {
    "linear_w8a8": (linear("w8a8"), TOKENS),
    "linear_w4a16": (linear("w4a16"), TOKENS),
    # The compiler writes a product of one row out as multiplications and a sum.
    "row_fp16": (linear("fp16", ROW), ROW),
    "row_w4a16": (linear("w4a16", ROW), ROW),
    "repeated_w4a16": (repeated("w4a16"), TOKENS),
    "conv_w8a8": (convolution("w8a8", "Conv"), IMAGE),
    "transposed_w8a8": (convolution("w8a8", "ConvTranspose"), IMAGE),
    "attention_fp16": (attention, TOKENS),
}


def model_of(builder: Any, *blocks: str) -> Any:
    """A graph of these blocks side by side."""
    inputs, outputs = {}, {}
    for block in blocks:
        build, shape = GRAPHS[block]
        inputs[f"x_{block}"] = shape
        outputs[f"y_{block}"] = build(builder, block, f"x_{block}")
    return builder.model(inputs, outputs)


def main() -> None:
    from vggt_edge.runtimes.common.kit import script_module
    from vggt_edge.runtimes.tensorrt import plan_text
    from vggt_edge.runtimes.tensorrt._rtx_worker import compile_model
    from vggt_edge.runtimes.tensorrt.prepare import prepare

    graphs = script_module(Path(__file__).parents[1] / "conftest.py", "small_graphs")
    for block in GRAPHS:
        with tempfile.TemporaryDirectory() as folder:
            source = graphs.save_model(model_of(graphs.Builder(), block), Path(folder) / "model.onnx")
            plan = Path(folder) / "plan"
            errors, figures = compile_model(prepare(source, Path(folder) / "prepared.onnx").path, "SM86", plan)
            if errors:
                raise SystemExit(f"{block}: {errors[0]}")
            texts = plan_text.texts(plan.read_bytes(), [])
            (GOLDEN / f"{block}.txt").write_text(
                "".join((f"TensorRT for RTX {figures['version']}, SM86\n", *(BORDER + text for text in texts)))
            )


if __name__ == "__main__":
    main()
