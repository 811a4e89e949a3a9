"""Core AI on one machine: what a conversion and a run take, and how far the outputs are from the torch simulation.

``core_ai.py [--model NAME] [--schemes S ...] [--frames S] [--resolution N]``: every block in one scheme (heads: w8a16
for w4a16), one scene. ``--model random/8``: VGGT-1B at an eighth of its width, random weights. ``core_ai.py --half``:
one transformer block in FP32 and in FP16 compute, and FP16's overflow.

The file is not called after the package, which it would hide: Python looks beside a script first.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.apply import apply_plan
from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.devices.profile import load_profile
from vggt_edge.exporter.graph.build import annotated_graph
from vggt_edge.exporter.models.checkpoint import Checkpoint, build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.random_weights import scaled_config, write_random_checkpoint
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.exporter.steps.inputs import run_model, synthetic
from vggt_edge.runtimes.coreai import BACKEND
from vggt_edge.runtimes.coreai.lowerings import write_asset
from vggt_edge.runtimes.coreai.sdk import sdk
from vggt_edge.runtimes.coreai.session import CoreAISession

SCHEMES = ("fp32", "fp16", "w8a8", "w8a16", "w4a16", "p6a16", "p4a16")


def uniform_plan(model: VGGT, stats: CalibrationStats, scheme: str) -> PrecisionPlan:
    given = {name: "w8a16" if scheme == "w4a16" and name.endswith("_head") else scheme for name in model.blocks()}
    assignments = tuple(Assignment(name, one, "benchmark", 0.0, 0, 0.0) for name, one in given.items())
    return PrecisionPlan(
        "model", stats.digest, "none", 64, assignments, rest_scheme="fp32" if scheme == "fp32" else "fp16"
    )


def seconds_of_run(model: VGGT, scene: Any) -> float:
    began = time.perf_counter()
    run_model(model, scene)
    return time.perf_counter() - began


def relative(got: Any, expected: Any) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def compare(model: VGGT, stats: CalibrationStats, scene: Any, scheme: str) -> None:
    plan, quantized = uniform_plan(model, stats, scheme), copy.deepcopy(model)
    apply_plan(quantized, plan, stats)
    fp32, simulated = run_model(model, scene), run_model(quantized, scene)
    torch_seconds = min(seconds_of_run(quantized, scene) for _ in range(5))
    with tempfile.TemporaryDirectory() as name:
        graph = annotated_graph(model, plan, stats, Path("none.onnx"))
        lowered = BACKEND.lower(graph, plan, load_profile("host-cpu"), Path(name))
        session = BACKEND.open(Path(name))
        assert isinstance(session, CoreAISession)
        ran = session.measure({"images": scene.images[None]})
    converted = {**lowered.checks[0].figures, **lowered.checks[0].measured}
    worst = max(relative(ran.outputs[key], simulated[key]) for key in simulated)
    drift = max(relative(simulated[key], fp32[key]) for key in simulated)
    print(
        f"{scheme:6} {int(converted['asset_bytes']) / 1e6:7.1f} MB  converted in {converted['seconds']:6.1f} s and "
        f"{int(converted['peak_memory_bytes']) / 1e9:4.2f} GB  compiled in {ran.figures['compile_seconds']:5.2f} s  "
        f"run in {ran.figures['seconds']:6.2f} s and {ran.figures['peak_memory_bytes'] / 1e9:4.2f} GB  "
        f"torch {torch_seconds:5.2f} s  from simulation {worst:.1e}  simulation from FP32 {drift:.1e}",
        flush=True,
    )


class Block(nn.Module):
    """A transformer block that computes in the type of its weights."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.qkv.weight.dtype)
        q, k, v = (part.unflatten(2, (4, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        x = x + self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return (x + self.fc2(functional.gelu(self.fc1(self.norm(x))))).float()


class Overflow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.half() * x.half()).float()


def run_asset(module: nn.Module, x: Tensor) -> tuple[Any, float]:
    """(output, seconds of the second run)."""

    async def run(path: Path) -> tuple[Any, float]:
        async with sdk("coreai.authoring").AIModelAsset.load(path).executable() as model:
            function, given = model.load_function("main"), {"x": sdk("coreai.runtime").NDArray(x.numpy())}
            await function(given)
            began = time.perf_counter()
            result = await function(given)
            return np.array(result["y"].numpy()), time.perf_counter() - began

    with tempfile.TemporaryDirectory() as name:
        write_asset(torch.export.export(module.eval(), (x,)), ["x"], ["y"], Path(name) / "one.aimodel")
        return asyncio.run(run(Path(name) / "one.aimodel"))


def probe_half() -> None:
    torch.manual_seed(0)
    block, x = Block(), torch.randn(1, 128, 256)
    expected = block(x).detach().numpy()
    for dtype in (torch.float32, torch.float16):
        got, seconds = run_asset(copy.deepcopy(block).to(dtype), x)
        print(f"{dtype}: {seconds:.3f} s, {relative(got, expected):.1e} from torch in FP32")
    print(f"1000 * 1000 in FP16: {run_asset(Overflow(), torch.full((1, 4), 1000.0))[0].ravel()[0]}")


def checkpoint_of(name: str, folder: Path) -> Checkpoint:
    if not name.startswith("random/"):
        return open_model(name)
    path = folder / "random.safetensors"
    write_random_checkpoint(path, scaled_config(int(name.removeprefix("random/"))), seed=0)
    return open_model(str(path))


def benchmark(model: VGGT, schemes: Sequence[str]) -> None:
    shape = model.shape
    scenes = synthetic(0, 2, 0, shape.frames, shape.height, shape.width)
    stats = calibrate(model, scenes)
    for scheme in schemes:
        compare(model, stats, scenes[0], scheme)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vggt-mini")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, choices=SCHEMES)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=70)
    parser.add_argument("--half", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.half:
        return probe_half()
    shape = InputShape(given.frames, given.resolution, given.resolution)
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(checkpoint_of(given.model, Path(folder)), shape, OUTPUTS)
        benchmark(model, given.schemes)
    return None


if __name__ == "__main__":
    main()
