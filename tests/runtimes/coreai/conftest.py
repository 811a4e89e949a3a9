"""Small annotated programs, and one asset with every quantized form, made once for all tests of this folder."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.devices.profile import load_profile
from vggt_edge.exporter.graph.annotate import annotate
from vggt_edge.runtimes.base import AnnotatedGraph, Lowered
from vggt_edge.runtimes.coreai import BACKEND
from vggt_edge.runtimes.coreai.session import CoreAISession

Array = npt.NDArray[np.float32]
STATE = BACKEND.availability()
GROUP, INPUT_SCALE = 32, 0.03125
FORMS = ("fp32", "fp16", "w8a16", "w4a16", "p6a16", "p4a16", "w8a8")
LAYERS = ("linear", "conv", "conv_transpose")


def make_layer(kind: str, scheme: str) -> nn.Module:
    layers = {
        "linear": lambda: nn.Linear(64, 96),
        "conv": lambda: nn.Conv2d(8, 32, 3, stride=2, padding=1),
        "conv_transpose": lambda: nn.ConvTranspose2d(8, 32, 2, stride=2),
    }
    layer = layers[kind]()
    form = Form.of(SCHEMES[scheme], LayerShape.of(layer), GROUP)
    return quantized(layer, form, INPUT_SCALE if scheme == "w8a8" else None)


class Forms(nn.Module):
    """Every layer in every form, each a block ``<scheme>`` with the layers ``<kind>``; x (1, 8, 64)."""

    def __init__(self, schemes: Sequence[str] = FORMS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.schemes = tuple(schemes)
        for scheme in self.schemes:
            self.add_module(scheme, nn.ModuleDict({kind: make_layer(kind, scheme) for kind in LAYERS}))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        image = x.reshape(1, 8, 8, 8)
        layers = [getattr(self, scheme)[kind] for scheme in self.schemes for kind in LAYERS]
        return tuple(layer(x if index % len(LAYERS) == 0 else image) for index, layer in enumerate(layers))

    def graph(self) -> AnnotatedGraph:
        model = copy.deepcopy(self).eval()
        names = tuple(f"{scheme}_{kind}" for scheme in self.schemes for kind in LAYERS)
        return AnnotatedGraph(
            lambda: annotate(model, torch.zeros(1, 8, 64)), Path("none.onnx"), ("x",), names, self.schemes
        )

    def plan(self) -> PrecisionPlan:
        """What the layers really have: a convolution has no 4-bit groups."""
        given = [Assignment(scheme, scheme, "test", 0.0, 0, 0.0) for scheme in self.schemes]
        convolutions = tuple(kind for kind in LAYERS if kind != "linear")
        given = [replace(one, excluded=convolutions) if one.scheme == "w4a16" else one for one in given]
        return PrecisionPlan("model", "stats", "none", GROUP, tuple(given), kept_scheme="w8a16")


@dataclass(frozen=True)
class Case:
    """A lowered model with the folder it went to, an input, and what torch makes of it."""

    model: Forms
    lowered: Lowered
    out: Path
    x: Array
    expected: dict[str, Array]

    @property
    def asset(self) -> Path:
        return self.out / "coreai" / "vggt.aimodel"


@pytest.fixture(scope="session")
def forms_type() -> type[Forms]:
    return Forms


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    if not STATE.ok:
        pytest.skip(STATE.reason)
    model, out = Forms().eval(), tmp_path_factory.mktemp("forms")
    graph = model.graph()
    lowered = BACKEND.lower(graph, model.plan(), load_profile("host-cpu"), out)
    x = np.random.default_rng(0).standard_normal((1, 8, 64)).astype(np.float32)
    with torch.inference_mode():
        outputs = model(torch.from_numpy(x))
    expected = {name: output.numpy() for name, output in zip(graph.output_names, outputs, strict=True)}
    return Case(model, lowered, out, x, expected)


@pytest.fixture(scope="session")
def session(case: Case) -> CoreAISession:
    return CoreAISession(case.asset)


@pytest.fixture
def copied(case: Case, tmp_path: Path) -> Callable[[], Path]:
    """``copied()``: the asset in a folder where it may be damaged."""

    def make() -> Path:
        target = tmp_path / "coreai" / "vggt.aimodel"
        shutil.copytree(case.asset, target)
        return target

    return make
