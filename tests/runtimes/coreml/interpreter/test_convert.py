"""Packages that coremltools makes of torch modules by itself, run here and compared with torch (and with a Mac)."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vggt_edge.runtimes.coreml.interpreter import MilSession
from vggt_edge.runtimes.coreml.sdk import load_coremltools, quiet

Array = np.ndarray
SHAPE = (1, 3, 28, 42)
# FP16 keeps 11 bits; the module is a few dozen operations deep.
FP16_DRIFT = 5e-3


class Block(nn.Module):
    """A transformer block as VGGT writes it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = F.normalize(query, dim=-1) * 3, key
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.scale * self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.scale * self.down(F.gelu(self.up(self.norm2(x))))


class Small(nn.Module):
    """Patches, a class token, two blocks, and a dense head with resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 14, 14)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.blocks = nn.ModuleList(Block(32, 4) for _ in range(2))
        self.up = nn.ConvTranspose2d(32, 8, 4, 4)
        self.head = nn.Conv2d(8, 2, 3, padding=1)
        self.pose = nn.Linear(32, 9)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token, patches], 1)
        for block in self.blocks:
            x = block(x)
        grid = x[:, 1:].transpose(1, 2).reshape(1, 32, 2, 3)
        dense = F.interpolate(self.up(grid), SHAPE[2:], mode="bilinear", align_corners=True)
        depth, confidence = self.head(F.relu(dense)).split(1, 1)
        pose = self.pose(x[:, 0])
        return torch.sign(pose) * torch.expm1(pose.abs()), torch.exp(depth), 1 + confidence.exp()


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def images() -> Array:
    return np.random.default_rng(0).uniform(0, 1, SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def convert(ct: Any, module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The module as coremltools converts it."""

    def run(precision: Any, ios: Any, change: Callable[[Any], Any] = lambda model: model) -> Path:
        path = tmp_path_factory.mktemp("converted") / "small.mlpackage"
        with quiet(), torch.no_grad():
            program = torch.export.export(module, (torch.zeros(SHAPE),)).run_decompositions({})
            model = ct.convert(
                program,
                minimum_deployment_target=ios,
                compute_precision=precision,
                skip_model_load=True,
                outputs=[ct.TensorType(name) for name in ("pose", "depth", "confidence")],
            )
            change(model).save(str(path))
        return path

    return run


def _drift(result: Array, expected: torch.Tensor) -> float:
    reference = expected.detach().numpy()
    return float(np.linalg.norm(result - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("version", ["iOS16", "iOS17", "iOS18"])
def test_fp32(version: str, ct: Any, convert: Callable[..., Path], module: nn.Module, images: Array) -> None:
    """Every deployment target's form of the operations computes what torch computes."""
    ran = MilSession(convert(ct.precision.FLOAT32, getattr(ct.target, version)), "fp32")
    results = ran.run({"images": images})
    for name, expected in zip(("pose", "depth", "confidence"), module(torch.tensor(images)), strict=True):
        assert _drift(results[name], expected) < 1e-5, name
    kinds = {operation.type for operation in ran.program.operations}
    assert ("scaled_dot_product_attention" in kinds) == (version == "iOS18")


def test_fp16(ct: Any, convert: Callable[..., Path], module: nn.Module, images: Array) -> None:
    """In FP16 it drifts, but little; in FP32 the same package only carries the rounding of its weights."""
    path = convert(ct.precision.FLOAT16, ct.target.iOS18)
    half, single = (MilSession(path, precision).run({"images": images}) for precision in ("fp16", "fp32"))
    for name, expected in zip(("pose", "depth", "confidence"), module(torch.tensor(images)), strict=True):
        assert 0 < _drift(single[name], expected) < 1e-3, name
        assert _drift(single[name], expected) < _drift(half[name], expected) < FP16_DRIFT, name


def test_compressed_by_coremltools(ct: Any, convert: Callable[..., Path], module: nn.Module, images: Array) -> None:
    """coremltools' own 8-bit weights run, and stay near the module."""
    optimize = load_coremltools("coremltools.optimize.coreml")

    def compress(model: Any) -> Any:
        linear = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=100)
        return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=linear))

    for version in (ct.target.iOS16, ct.target.iOS18):
        ran = MilSession(convert(ct.precision.FLOAT32, version, compress), "fp32")
        assert any(operation.type.startswith("constexpr_") for operation in ran.program.operations)
        results = ran.run({"images": images})
        assert 1e-5 < _drift(results["depth"], module(torch.tensor(images))[1]) < 0.05


@pytest.mark.macos
@pytest.mark.skipif(platform.system() != "Darwin", reason="Core ML itself runs on a Mac only")
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_against_core_ml(precision: Any, ct: Any, convert: Callable[..., Path], images: Array) -> None:
    """On a Mac: what Core ML's CPU computes of the same package."""
    compute = ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32
    path = convert(compute, ct.target.iOS18)
    predicted = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY).predict({"images": images})
    for name, result in MilSession(path, precision).run({"images": images}).items():
        assert _drift(result, torch.tensor(predicted[name])) < (FP16_DRIFT if precision == "fp16" else 1e-4), name
