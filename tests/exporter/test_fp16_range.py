"""A model whose residual stream is larger than FP16 can hold is exported with that part in FP32, not as NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file

from vggt_edge.exporter.models.registry import MINI_WEIGHTS
from vggt_edge.runtimes.tensorrt.interpreter.session import GraphSession

SMALL = ("--effort", "none", "--precision", "fp16", "--calibration-scenes", "1", "--validation-scenes", "1",
    "--frames", "1", "--resolution", "42", "--outputs", "depth")  # fmt: skip


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with one LayerScale enlarged: the last DINO block hands over 8.7e5."""
    path = tmp_path_factory.mktemp("hot") / "hot.safetensors"
    state = load_file(MINI_WEIGHTS)
    state["aggregator.patch_embed.blocks.1.ls2.gamma"] *= 20_000
    with safe_open(MINI_WEIGHTS, "pt") as file:
        save_file(state, path, metadata=file.metadata())
    return path


@pytest.mark.slow
def test_a_jetson_graph_holds_what_passes_between_blocks(
    vggt_edge: Callable[..., object], hot: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "out"
    finished = vggt_edge("export", "--target", "jetson-orin", "--model", hot, *SMALL, "-o", bundle)
    assert finished.code == 0, finished.err  # type: ignore[attr-defined]
    golden = load_arrays(bundle / "golden.safetensors")
    ours = GraphSession(bundle / "tensorrt" / "model.onnx").run({"images": golden["input/images"]})
    for name, values in ours.items():
        wanted = golden[f"simulation/{name}"]
        assert 10 * np.log10(np.square(wanted).sum() / np.square(values - wanted).sum()) > 30, name
    assert "tensorrt-fp16" in (bundle / "validation.json").read_text()
