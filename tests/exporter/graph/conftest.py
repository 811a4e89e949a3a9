"""Quantized tiny models and their ONNX files, made once for all tests of this folder."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.apply import apply_plan
from vggt_edge.calibration.metrics.output import Output
from vggt_edge.calibration.metrics.quantities import Confidence
from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.stages.walk import IMAGES, Stage
from vggt_edge.exporter.graph.build import OnnxFile, build_graph
from vggt_edge.exporter.models.config import InputShape
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.runtimes.base import AnnotatedGraph

FRAMES, SIDE = 2, 28
SCHEMES = ("fp32", "fp16", "w8a16", "w4a16", "w8a8")
ANDROID_SCHEMES = ("w8a8d", "w4a8d", "fp32")
REST = {"fp32": "fp32", "camera": "fp32", "android": "w8a8d", "w8a8d": "w8a8d", "w4a8d": "w8a8d"}
Array = npt.NDArray[np.float32]


def scene() -> Scene:
    images = np.random.default_rng(0).random((FRAMES, 3, SIDE, SIDE), dtype=np.float32)
    return Scene("noise", images, ("a", "b"))


def schemes_of(model: VGGT, kind: str) -> dict[str, str]:
    """``mixed`` deals all schemes out in turn, ``android`` those of Android.

    ``camera`` quantizes the camera trunk to w8a8 and nothing else.
    """
    names = list(model.blocks())
    if kind == "android":
        return {name: ANDROID_SCHEMES[index % len(ANDROID_SCHEMES)] for index, name in enumerate(names)}
    if kind == "mixed":
        return {name: SCHEMES[index % len(SCHEMES)] for index, name in enumerate(names)}
    if kind == "camera":
        return {name: "w8a8" if name.startswith("camera") else "fp32" for name in names}
    return dict.fromkeys(names, kind)


@dataclass(frozen=True)
class Exported:
    """A model with its plan, graph and file; its quantized copy; outputs of FP32 and of the copy on one scene."""

    model: VGGT
    quantized: VGGT
    stats: CalibrationStats
    plan: PrecisionPlan
    graph: AnnotatedGraph
    file: OnnxFile
    proto: onnx.ModelProto
    images: Array
    fp32: Mapping[str, Array]
    simulated: Mapping[str, Array]


def run_torch(model: VGGT, images: Array) -> dict[str, Array]:
    with torch.inference_mode():
        outputs = model(torch.from_numpy(images))
    return {name: output.numpy() for name, output in zip(model.output_names, outputs, strict=True)}


@pytest.fixture(scope="session")
def exported(make_small: Callable[..., VGGT], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """``exported(kind)``: a scheme's name for a uniform plan, ``mixed``, ``android`` or ``camera``."""

    @functools.cache
    def make(kind: str) -> Exported:
        model, sample = make_small(FRAMES, depth=4), scene()
        images = sample.images[None]
        stats, fp32 = calibrate(model, [sample]), run_torch(model, images)
        assignments = tuple(
            Assignment(name, scheme, "test", 0.0, 0, 0.0) for name, scheme in schemes_of(model, kind).items()
        )
        plan = PrecisionPlan("model", stats.digest, "none", 64, assignments, rest_scheme=REST.get(kind, "fp16"))
        quantized = copy.deepcopy(model)
        apply_plan(quantized, plan, stats)
        graph, file = build_graph(model, plan, stats, tmp_path_factory.mktemp(kind) / "model.onnx")
        proto = onnx.load(str(file.path), load_external_data=True)
        return Exported(model, quantized, stats, plan, graph, file, proto, images, fp32, run_torch(quantized, images))

    return make


class StagesOf(nn.Module):
    """A staged model of given stages, for graphs of a layer or two; it reads one input and has no constants."""

    special_tokens = 0
    about = "stages for a test"
    shape = InputShape(FRAMES, SIDE, SIDE)

    def __init__(self, example: Tensor, outputs: Sequence[str], stages: Sequence[Stage]) -> None:
        super().__init__()
        self.example = example
        self.output_names = tuple(outputs)
        self.outputs = tuple(Output(name, name, Confidence(), title=name) for name in outputs)
        self._stages = tuple(stages)
        self._blocks = {stage.name: stage.module for stage in stages if stage.blocks}
        for stage in stages:
            self.add_module(stage.name, stage.module)

    def blocks(self) -> dict[str, nn.Module]:
        return dict(self._blocks)

    def stages(self) -> tuple[Stage, ...]:
        return self._stages

    def constants(self) -> dict[str, Tensor]:
        return {}

    def release(self, stage: Stage) -> None:
        pass

    def example_input(self) -> Tensor:
        return self.example


@pytest.fixture
def chain() -> Callable[..., StagesOf]:
    """``chain(x, *modules)``: a model that runs ``modules`` in a row, each a block and a twin of the others."""

    def run(module: nn.Module, x: Tensor) -> tuple[Tensor]:
        return (module(x),)

    def make(example: Tensor, *modules: nn.Module) -> StagesOf:
        values = [IMAGES, *(f"y{index}" for index in range(len(modules)))]
        names = [f"layer{index}" for index in range(len(modules))]
        stages = [
            Stage(name, "layer", (read,), (written,), module.eval(), run, (name,))
            for name, read, written, module in zip(names, values[:-1], values[1:], modules, strict=True)
        ]
        return StagesOf(example, values[-1:], stages)

    return make


@pytest.fixture
def stages_of() -> type[StagesOf]:
    return StagesOf


@pytest.fixture
def run_onnx() -> Callable[[Path, Array], dict[str, Array]]:
    """Runs a file in ONNX Runtime as it stands: nothing is fused."""
    from vggt_edge.runtimes.onnxruntime import open_onnx

    return lambda path, images: open_onnx(path).run({IMAGES: images})
