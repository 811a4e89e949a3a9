"""Lowering: a whole VGGT, stable bytes, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.apply import apply_plan
from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.devices.errors import LoweringError, ResourceError, ToolchainError
from vggt_edge.devices.profile import load_profile
from vggt_edge.exporter.graph.annotate import annotate
from vggt_edge.exporter.graph.build import annotated_graph
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.runtimes.base import AnnotatedGraph
from vggt_edge.runtimes.coreai import BACKEND, sdk, size_check
from vggt_edge.runtimes.coreai.backend import MAX_WEIGHT_BYTES

pytestmark = pytest.mark.slow

needs_core_ai = pytest.mark.skipif(not BACKEND.availability().ok, reason=BACKEND.availability().reason)
HOST = load_profile("host-cpu")
# Weight-only: static activations flip roundings from layer to layer, and are compared layer by layer in test_forms.py.
SCHEMES = ("fp16", "w8a16", "w4a16", "p6a16", "p4a16", "fp32")


@dataclass(frozen=True)
class Whole:
    """A tiny VGGT with all weight-only schemes dealt out, its simulation, and its input."""

    model: VGGT
    plan: PrecisionPlan
    graph: AnnotatedGraph
    images: np.ndarray
    simulated: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def whole(make_small: Callable[..., VGGT]) -> Whole:
    model = make_small(depth=4)
    sample = Scene("noise", np.random.default_rng(0).random((2, 3, 28, 28), dtype=np.float32), ("a", "b"))
    stats = calibrate(model, [sample])
    dealt = {name: SCHEMES[index % len(SCHEMES)] for index, name in enumerate(model.blocks())}
    dealt |= {"depth_head": "fp16", "point_head": "w8a16"}
    plan = PrecisionPlan(
        "model", stats.digest, "none", 32, tuple(Assignment(n, s, "test", 0.0, 0, 0.0) for n, s in dealt.items())
    )
    quantized = copy.deepcopy(model)
    apply_plan(quantized, plan, stats)
    with torch.inference_mode():
        outputs = quantized(torch.from_numpy(sample.images[None]))
    graph = annotated_graph(model, plan, stats, Path("none.onnx"))
    simulated = {name: output.numpy() for name, output in zip(model.output_names, outputs, strict=True)}
    return Whole(model, plan, graph, sample.images[None], simulated)


@needs_core_ai
def test_a_whole_vggt_computes_what_its_simulation_does(whole: Whole, tmp_path: Path) -> None:
    """Every output of every head within FP32 rounding, and every block in its own scheme."""
    lowered = BACKEND.lower(whole.graph, whole.plan, HOST, tmp_path)
    assert [(one.block, one.realised) for one in lowered.realised] == [
        (one.block, one.scheme) for one in whole.plan.assignments
    ]
    (executor,) = BACKEND.executors()
    outputs = executor.open(tmp_path).run({"images": whole.images})
    assert list(outputs) == list(whole.simulated)
    for name, expected in whole.simulated.items():
        assert np.linalg.norm(outputs[name] - expected) <= 1e-5 * np.linalg.norm(expected), name


@needs_core_ai
def test_lowering_again_gives_the_same_bytes_and_no_remains(case: Any, tmp_path: Path) -> None:
    """From another process, and over an asset that lies there already."""
    for _ in range(2):
        again = BACKEND.lower(case.model.graph(), case.model.plan(), HOST, tmp_path)
        assert again.files == case.lowered.files
        assert all((tmp_path / name).read_bytes() == (case.out / name).read_bytes() for name in again.files)
    assert [path.name for path in (tmp_path / "coreai").iterdir()] == ["vggt.aimodel"]


@needs_core_ai
def test_nothing_of_this_machine_is_in_the_asset(case: Any) -> None:
    stored = b"".join(path.read_bytes() for path in case.asset.iterdir())
    assert str(Path(__file__).parents[3]).encode() not in stored
    assert b"creationDate" not in stored
    assert b"site-packages" not in stored


@needs_core_ai
def test_a_failed_audit_leaves_no_asset(case: Any, tmp_path: Path) -> None:
    plan = case.model.plan()
    changed = tuple(replace(one, scheme="w8a8") if one.block == "fp16" else one for one in plan.assignments)
    with pytest.raises(LoweringError, match="fp16/linear: asked w8a8, the file holds fp16"):
        BACKEND.lower(case.model.graph(), replace(plan, assignments=changed), HOST, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class Shifted(nn.Module):
    """An input in uint8 with a zero point, which no plan of ours has."""

    def forward(self, x: Tensor) -> Tensor:
        limits = (0.5, 3, 0, 255, torch.uint8)
        integers = torch.ops.quantized_decomposed.quantize_per_tensor(x, *limits)
        restored: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(integers, *limits)
        return restored


class Unknown(nn.Module):
    """An operator that Core AI does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)


@needs_core_ai
@pytest.mark.parametrize(
    ("module", "message"), [(Shifted(), "only symmetric int8"), (Unknown(), r"linalg_svd")], ids=["shifted", "unknown"]
)
def test_what_core_ai_has_no_form_for_is_a_lowering_error(module: nn.Module, message: str, tmp_path: Path) -> None:
    graph = AnnotatedGraph(lambda: annotate(module, torch.ones(4, 4)), Path("none.onnx"), ("x",), ("y",), ())
    with pytest.raises(LoweringError, match=message):
        BACKEND.lower(graph, PrecisionPlan("model", "stats", "none", 32, ()), HOST, tmp_path)


def test_too_many_weights_are_refused_before_the_program_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert size_check(MAX_WEIGHT_BYTES) is None
    check = size_check(MAX_WEIGHT_BYTES + 1)
    assert check is not None
    assert check.status == "not_run"
    graph = AnnotatedGraph(None, Path("none.onnx"), (), (), ())  # type: ignore[arg-type]
    plan = PrecisionPlan("model", "stats", "none", 32, (), rest_bytes=MAX_WEIGHT_BYTES + 1)
    monkeypatch.setattr(sdk, "PACKAGES", ())
    with pytest.raises(ResourceError, match="is left out above"):
        BACKEND.lower(graph, plan, HOST, Path("nowhere"))


def test_without_the_packages_nothing_is_lowered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sdk, "PACKAGES", ("no_such_package",))
    graph = AnnotatedGraph(None, Path("none.onnx"), (), (), ())  # type: ignore[arg-type]
    with pytest.raises(ToolchainError, match="no_such_package") as caught:
        BACKEND.lower(graph, PrecisionPlan("model", "stats", "none", 32, ()), HOST, tmp_path)
    assert caught.value.remedy == "pip install 'vggt-edge[coreai]'"


def test_a_profile_gets_all_its_static_schemes() -> None:
    profile = load_profile("iphone-15-pro")
    listed = (*profile.schemes, *profile.on_request)
    assert BACKEND.schemes(profile) == tuple(name for name in listed if not name.endswith("8d"))
