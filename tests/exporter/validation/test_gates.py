"""Every output of every request is gated by something; ground truth adds gates and removes none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vggt_edge.calibration.metrics.geometry import encode_pose
from vggt_edge.calibration.metrics.output import Output, of_heads
from vggt_edge.calibration.scenes.scene import GroundTruth, Scene
from vggt_edge.calibration.scenes.synthetic import render_scene
from vggt_edge.devices.profile import DeviceProfile, Tolerances, list_profiles
from vggt_edge.exporter.models.architectures import architectures
from vggt_edge.exporter.validation import Status, ValidationReport, validate
from vggt_edge.runtimes.registry import backend, backends

Arrays = dict[str, npt.NDArray[Any]]
SIDE = 14
TRUTHS = ("none", "poses", "poses and depth", "all")


def profiles() -> Mapping[str, DeviceProfile]:
    """One profile of every runtime that has one, companions included."""
    found = {name: profile for profile in list_profiles() for name in (profile.runtime, *profile.companions)}
    assert set(found) <= set(backends())
    return found


def requests() -> Iterator[Any]:
    """Every set of heads of every architecture."""
    for one in architectures().values():
        for count in range(1, len(one.heads) + 1):
            for heads in combinations(one.heads, count):
                yield pytest.param(of_heads(one.outputs, heads), id=f"{one.name}: {','.join(heads)}")


def with_truth(scene: Scene, kept: str) -> Scene:
    truth = scene.ground_truth
    assert isinstance(truth, GroundTruth)
    if kept == "none":
        return replace(scene, ground_truth=None)
    if kept == "poses":
        return replace(scene, ground_truth=replace(truth, depth=None, points=None, valid=None))
    return scene if kept == "all" else replace(scene, ground_truth=replace(truth, points=None))


def fp32_outputs(scene: Scene) -> Arrays:
    """What a model that knows the truth puts out."""
    truth = scene.ground_truth
    assert truth is not None
    assert truth.depth is not None
    assert truth.points is not None
    confidence = 1 + np.linspace(0, 1, truth.depth.size).reshape(truth.depth.shape)
    known = {
        "pose_enc": encode_pose(truth.extrinsics, truth.intrinsics, (SIDE, SIDE)),
        "depth": truth.depth,
        "depth_conf": confidence,
        "points": truth.points,
        "points_conf": confidence,
        "rays": rays(truth),
        "ray_conf": confidence[:, 3:11, 3:11],
        "sky": confidence - 1,
    }
    return {name: value[None].astype(np.float32) for name, value in known.items()}


def rays(truth: GroundTruth) -> npt.NDArray[Any]:
    """(S, 8, 8, 6): direction per unit of depth, and origin, of cells in the middle of each view."""
    assert truth.depth is not None
    assert truth.points is not None
    rotation, translation = truth.extrinsics[:, :, :3], truth.extrinsics[:, :, 3]
    origin = -np.einsum("sij,si->sj", rotation, translation)[:, None, None]
    directions = (truth.points - origin) / np.maximum(truth.depth, 1e-3)[..., None]
    whole = np.concatenate([directions, np.broadcast_to(origin, directions.shape)], axis=-1)
    return whole[:, 3:11, 3:11]


def ruined(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rng = np.random.default_rng(0)
    return (value * rng.uniform(0.3, 1.7, value.shape) + rng.normal(0, 0.3, value.shape)).astype(np.float32)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("declared", list(requests()))
def test_every_output_is_gated_whatever_the_ground_truth_and_the_runtime(
    declared: tuple[Output, ...], frames: int
) -> None:
    """One ruined output fails, on any subject of any runtime, with any ground truth or none."""
    scene = render_scene(5, frames, SIDE, SIDE)
    known = fp32_outputs(scene)
    fp32 = {output.name: known[output.name] for output in declared}
    for runtime, profile in profiles().items():
        judged = partial(judge, fp32, subjects_of(runtime), profile.tolerances, declared)
        before: set[tuple[str, str, str]] = set()
        for kept in TRUTHS:
            where, shown = f"{runtime}, truth {kept}", with_truth(scene, kept)
            whole = judged(shown, fp32)
            assert whole.status is Status.PASSED, where
            assert whole.ungated == (), where
            applied = {(r.subject, r.output, r.tolerance_key) for r in whole.rows if r.status is Status.PASSED}
            assert before <= applied, f"{where}: ground truth switched gates off"
            before = applied
            for output in declared:
                broken = judged(shown, {**fp32, output.name: ruined(fp32[output.name])})
                failed = {(row.subject, row.output) for row in broken.failures}
                assert {(subject, output.name) for subject in subjects_of(runtime)} <= failed, where


def subjects_of(runtime: str) -> tuple[str, ...]:
    return ("simulation", *(executor.subject for executor in backend(runtime).executors()))


def judge(
    fp32: Arrays,
    subjects: Sequence[str],
    tolerances: Tolerances,
    declared: Sequence[Output],
    scene: Scene,
    ours: Arrays,
) -> ValidationReport:
    """All subjects give the same outputs."""
    return validate([scene], [fp32], {name: [ours] for name in subjects}, tolerances, declared=declared)


@pytest.mark.parametrize("kept", TRUTHS)
def test_a_gate_that_does_not_apply_says_why(kept: str) -> None:
    """The same gates are listed with every kind of ground truth; none of them vanishes."""
    scene = render_scene(5, 3, SIDE, SIDE)
    fp32 = fp32_outputs(scene)
    declared = architectures()["vggt"].outputs
    tolerances = Tolerances(auc30_drop_points_max=3.0, abs_rel_increase_max=0.02, delta125_drop_max=None)
    report = validate([with_truth(scene, kept)], [fp32], {"simulation": [fp32]}, tolerances, declared=declared)
    gates = {row.tolerance_key: row for row in report.of("simulation") if row.tolerance_key}
    assert set(gates) == {
        *("auc30_drop_points_max", "abs_rel_increase_max", "delta125_drop_max", "pose_auc30_vs_fp32_min"),
        *("pose_focal_vs_fp32_max", "depth_abs_rel_vs_fp32_max", "points_rel_vs_fp32_max"),
        "confidence_rel_vs_fp32_max",
    }
    for key, row in gates.items():
        assert (row.status is Status.PASSED) == (row.reason == ""), key
    assert (gates["auc30_drop_points_max"].reason == "no scene has this ground truth") == (kept == "none")
    has_depth = kept in ("poses and depth", "all")
    missing = "the device profile sets no tolerance" if has_depth else "no scene has this ground truth"
    assert gates["delta125_drop_max"].reason == missing
