"""A report's data as an export of a model of 4 + 4 blocks gives it, from rendered scenes and a known disturbance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vggt_edge.calibration.metrics.geometry import encode_pose
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scenes.synthetic import render_scene
from vggt_edge.calibration.sensitivity.ablation import Sensitivity
from vggt_edge.devices.profile import Tolerances
from vggt_edge.exporter.models.vggt import ARCHITECTURE
from vggt_edge.exporter.report import Budget, ReportData, SceneView, component_sizes
from vggt_edge.exporter.validation import ValidationReport, validate
from vggt_edge.runtimes.base import Check, Lowered, Realised

Outputs = dict[str, npt.NDArray[Any]]
SCHEMES = ("w8a8", "w4a16", "fp16", "w8a16")
BLOCKS = tuple(
    [f"patch_embed.blocks.{index}" for index in range(4)]
    + [f"{kind}_blocks.{index}" for index in range(4) for kind in ("frame", "global")]
    + [f"camera_head.trunk.{index}" for index in range(2)]
    + ["depth_head", "point_head"]
)
PARAMETERS = dict.fromkeys(BLOCKS, 196_608)


@pytest.fixture(scope="session")
def full() -> ReportData:
    return full_report()


def full_report(scenes: int = 1, size: tuple[int, int] = (28, 42), noise: float = 0.01) -> ReportData:
    """Every part present."""
    rendered = [render_scene(seed, 3, *size) for seed in range(1, scenes + 1)]
    fp32 = [_outputs(scene, 0.002) for scene in rendered]
    quantized = [_outputs(scene, noise) for scene in rendered]
    plan = sample_plan()
    return ReportData(
        model="vggt-mini",
        target="orin-nano-8gb",
        device_title="Jetson Orin Nano 8GB (Super)",
        input_shape=(3, *size),
        outputs=("camera", "depth", "points"),
        plan=plan,
        validation=sample_validation(rendered, fp32, quantized),
        sensitivity=sample_sensitivity(),
        sizes=component_sizes(plan, PARAMETERS, 80_000),
        budget=Budget(max_memory_bytes=12_000_000, max_accuracy_drop=3.0),
        lowered=(sample_lowered(),),
        scenes=tuple(
            SceneView(scene.name, scene.images, *pair, declared=ARCHITECTURE.outputs)
            for scene, *pair in zip(rendered, fp32, quantized, strict=True)
        ),
        digests={"model": "3f" * 32, "scenes": "a0" * 32, "stats": "77" * 32},
        tools={"torch": "2.13.0", "onnx": "1.23.0"},
    )


def sample_plan() -> PrecisionPlan:
    assignments = tuple(
        Assignment(
            block,
            SCHEMES[index % 4] if "head" not in block else "w8a16",
            "the cheapest scheme within the error that the budget leaves",
            1e-4 * (1 + index % 5),
            98_304 * (1 + index % 3),
            0.05,
            ("mlp.fc2",) if index == 1 else (),
        )
        for index, block in enumerate(BLOCKS)
    )
    notes = ("int4 has no convolution form: the heads stay at 8 bits",)
    return PrecisionPlan("3f" * 32, "77" * 32, "orin-nano-8gb", 64, assignments, rest_bytes=160_000, notes=notes)


def sample_sensitivity() -> tuple[Sensitivity, ...]:
    rng = np.random.default_rng(0)
    return tuple(
        Sensitivity(block, scheme, float(10 ** rng.uniform(-6 + 0.5 * rank, -3 + 0.5 * rank)), {})
        for block in BLOCKS
        for rank, scheme in enumerate(("fp16", "w8a16", "w8a8", "w4a16"))
    )


def sample_lowered() -> Lowered:
    realised = tuple(
        Realised(each.block, each.scheme, each.scheme, "initialisers") for each in sample_plan().assignments
    )
    checks = (
        Check("compile", "passed", "TensorRT for RTX compiled the graph for SM 8.6", {"plan_bytes": 2_400_000}),
        Check("engine", "not_run", "no NVIDIA GPU on this machine", {}),
    )
    return Lowered("tensorrt", ("tensorrt/model.onnx",), realised, checks)


def sample_validation(scenes: list[Scene], fp32: list[Outputs], quantized: list[Outputs]) -> ValidationReport:
    tolerances = Tolerances(auc30_drop_points_max=5.0, abs_rel_increase_max=0.05, delta125_drop_max=0.03)
    return validate(
        scenes,
        fp32,
        {"simulation": quantized, "onnxruntime": quantized},
        tolerances,
        declared=ARCHITECTURE.outputs,
        not_run={"tensorrt": "no NVIDIA GPU on this machine: run build_and_verify.py on the device"},
    )


def _outputs(scene: Scene, noise: float) -> Outputs:
    truth = scene.ground_truth
    assert truth is not None
    assert truth.depth is not None
    assert truth.points is not None
    rng = np.random.default_rng(7)
    size = (scene.images.shape[2], scene.images.shape[3])
    poses = encode_pose(truth.extrinsics, truth.intrinsics, size)
    depth = truth.depth * (1 + noise * rng.normal(size=truth.depth.shape))
    return {
        "pose_enc": (poses + 0.3 * noise * rng.normal(size=poses.shape))[None].astype(np.float32),
        "depth": depth[None].astype(np.float32),
        "depth_conf": np.ones((1, *truth.depth.shape), np.float32),
        "points": (truth.points + 3 * noise * rng.normal(size=truth.points.shape))[None].astype(np.float32),
        "points_conf": np.ones((1, *truth.depth.shape), np.float32),
    }
