"""The figures of merit, against answers known by hand and the laws that they obey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vggt_edge.calibration.metrics import figures as metrics
from vggt_edge.calibration.metrics.geometry import Array, compose_poses, unproject
from vggt_edge.calibration.metrics.scale import scene_scale
from vggt_edge.devices.errors import InputError

SEEDS = st.integers(0, 10_000)
INTRINSICS = np.array([[12.0, 0, 8], [0, 12, 6], [0, 0, 1]])


def cameras(seed: int, frames: int = 4) -> Array:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(frames, rng=rng).as_matrix()
    return np.concatenate([rotation, rng.normal(size=(frames, 3, 1))], axis=-1)


def turned(axis: str, degrees: float) -> Array:
    return np.concatenate([Rotation.from_euler(axis, degrees, degrees=True).as_matrix(), np.zeros((3, 1))], axis=-1)


def wavy(seed: int, frames: int = 2) -> tuple[Array, Array, Array]:
    """Depth (S, 12, 16) of a smooth surface, its cameras and its world points."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.linspace(0, 3, 12), np.linspace(0, 4, 16), indexing="ij")
    depth = np.stack([3 + 0.3 * np.sin(rows + phase) + 0.3 * np.cos(columns) for phase in rng.uniform(0, 3, frames)])
    poses = np.stack([turned("y", 5.0 * frame) for frame in range(frames)])
    poses[:, 0, 3] = 0.5 * np.arange(frames)
    return depth, poses, unproject(depth, np.tile(INTRINSICS, (frames, 1, 1)), poses)


class TestPose:
    @given(SEEDS)
    def test_equal_poses_have_no_error_and_a_full_auc(self, seed: int) -> None:
        errors = metrics.pose_errors(cameras(seed), cameras(seed))
        assert errors.worst_deg.shape == (6,)
        assert errors.worst_deg.max() < 1e-5
        assert [metrics.auc(errors.worst_deg, limit) for limit in metrics.AUC_THRESHOLDS] == [100.0] * 4

    @given(SEEDS, st.floats(0.05, 20))
    def test_neither_the_world_nor_its_scale_counts(self, seed: int, scale: float) -> None:
        moved = compose_poses(cameras(seed), cameras(seed + 1, frames=1))
        moved[..., 3] *= scale
        assert metrics.pose_errors(moved, cameras(seed)).worst_deg.max() < 1e-4

    @given(SEEDS, st.floats(0, 180))
    def test_a_known_rotation_is_measured(self, seed: int, degrees: float) -> None:
        reference = cameras(seed, frames=2)
        predicted = reference.copy()
        predicted[1, :, :3] = turned("z", degrees)[:, :3] @ reference[1, :, :3]
        errors = metrics.pose_errors(predicted, reference)
        np.testing.assert_allclose(errors.rotation_deg, [degrees], atol=1e-4)

    @pytest.mark.parametrize(
        ("direction", "error"), [((1, 0, 0), 0), ((-1, 0, 0), 0), ((0, 1, 0), 90), ((1, 1, 0), 45)]
    )
    def test_translation_error_is_that_of_the_direction_without_its_sign(
        self, direction: tuple[float, ...], error: float
    ) -> None:
        reference, predicted = (np.tile(np.eye(3, 4), (2, 1, 1)) for _ in range(2))
        reference[1, :, 3], predicted[1, :, 3] = (2, 0, 0), direction
        np.testing.assert_allclose(metrics.pose_errors(predicted, reference).translation_deg, [error], atol=1e-6)

    def test_cameras_in_one_place(self) -> None:
        standing, moving = (np.tile(np.eye(3, 4), (2, 1, 1)) for _ in range(2))
        moving[1, 0, 3] = 1
        assert metrics.pose_errors(moving, standing).translation_deg == [0]
        assert metrics.pose_errors(standing, moving).translation_deg == [90]

    def test_auc_is_the_mean_share_below_each_whole_degree(self) -> None:
        # Below 1: none; 2: one of two (1.5); 3: one, since 3 is not below 3; 4 and 5: both.
        assert metrics.auc(np.array([1.5, 3.0]), 5) == pytest.approx(100 * (0 + 0.5 + 0.5 + 1 + 1) / 5)

    @given(st.lists(st.floats(0, 180), min_size=1))
    def test_auc_grows_with_its_threshold(self, errors: list[float]) -> None:
        values = [metrics.auc(np.array(errors), limit) for limit in (3, 5, 15, 30)]
        assert values == sorted(values)

    @pytest.mark.parametrize("frames", [0, 1])
    def test_fewer_than_two_frames_have_no_pairs(self, frames: int) -> None:
        with pytest.raises(InputError, match="single frame"):
            metrics.pose_errors(cameras(0)[:frames], cameras(0)[:frames])

    def test_nan_is_an_error_and_not_a_figure(self) -> None:
        broken = cameras(0)
        broken[2, 0, 0] = np.nan
        with pytest.raises(InputError, match="NaN") as caught:
            metrics.pose_errors(broken, cameras(0))
        assert caught.value.where == "predicted extrinsics"


class TestDepth:
    @given(SEEDS, st.floats(0.01, 100))
    def test_scale_does_not_count(self, seed: int, factor: float) -> None:
        depth = np.random.default_rng(seed).uniform(0.5, 5, size=(2, 4, 6))
        errors = metrics.depth_errors(factor * depth, depth)
        assert errors.abs_rel < 1e-9
        assert errors.delta125 == 1
        assert errors.scale == pytest.approx(1 / factor)

    def test_a_known_error(self) -> None:
        reference = np.array([[[1.0, 2.0, 2.0, 2.0, 4.0]]])
        predicted = np.array([[[1.5, 2.0, 2.0, 2.0, 4.4]]])
        errors = metrics.depth_errors(predicted, reference)
        assert errors.abs_rel == pytest.approx((0.5 + 0.1) / 5)
        assert errors.rmse == pytest.approx(np.sqrt((0.25 + 0.16) / 5))
        assert errors.delta125 == pytest.approx(4 / 5)

    def test_pixels_without_depth_and_invalid_ones_do_not_count(self) -> None:
        reference = np.array([[[0.0, 2.0, 2.0, 9.0]]])
        predicted = np.array([[[np.nan, 2.0, 2.0, np.inf]]])
        valid = np.array([[[True, True, True, False]]])
        assert metrics.depth_errors(predicted, reference, valid).abs_rel == 0

    def test_a_depth_below_zero_is_never_within_delta(self) -> None:
        errors = metrics.depth_errors(np.array([[[-1.0, 1, 1]]]), np.ones((1, 1, 3)))
        assert errors.delta125 == pytest.approx(2 / 3)

    @pytest.mark.parametrize(
        ("predicted", "reference", "message"),
        [(1.0, 0.0, "no pixel"), (0.0, 1.0, "median depth is 0"), (np.nan, 1.0, "NaN")],
    )
    def test_what_leaves_it_undefined_is_an_error(self, predicted: float, reference: float, message: str) -> None:
        with pytest.raises(InputError, match=message):
            metrics.depth_errors(np.full((1, 2, 2), predicted), np.full((1, 2, 2), reference))


class TestPoints:
    @given(SEEDS, st.floats(0.1, 10))
    def test_umeyama_finds_the_similarity(self, seed: int, scale: float) -> None:
        points = np.random.default_rng(seed).normal(size=(20, 3))
        pose = cameras(seed, frames=1)[0]
        target = scale * points @ pose[:, :3].T + pose[:, 3]
        found = metrics.umeyama(points, target)
        assert found.scale == pytest.approx(scale)
        np.testing.assert_allclose(found.rotation, pose[:, :3], atol=1e-8)
        np.testing.assert_allclose(found(points), target, atol=1e-8)

    def test_umeyama_never_mirrors(self) -> None:
        points = np.random.default_rng(0).normal(size=(20, 3))
        assert np.linalg.det(metrics.umeyama(points, points * [1, 1, -1]).rotation) == pytest.approx(1)

    @given(SEEDS, st.floats(0.1, 10))
    def test_a_similar_point_map_is_perfect(self, seed: int, scale: float) -> None:
        _, _, points = wavy(seed)
        pose = cameras(seed, frames=1)[0]
        errors = metrics.point_errors(scale * points @ pose[:, :3].T + pose[:, 3], points)
        assert max(errors.accuracy, errors.completeness) < 1e-6
        assert errors.normal_consistency == pytest.approx(1, abs=1e-4)

    def test_noise_costs_accuracy_and_normals(self) -> None:
        _, _, points = wavy(0)
        noise = np.random.default_rng(1).normal(scale=0.05, size=points.shape)
        little, much = (metrics.point_errors(points + factor * noise, points) for factor in (1, 4))
        assert 0 < little.accuracy < much.accuracy
        assert 0 < little.completeness < much.completeness
        assert much.normal_consistency < little.normal_consistency < 0.999

    def test_invalid_pixels_may_hold_anything(self) -> None:
        _, _, points = wavy(0)
        broken, valid = points.copy(), np.ones(points.shape[:-1], dtype=bool)
        broken[0, 2:4], valid[0, 2:4] = np.nan, False
        assert metrics.point_errors(broken, points, valid).accuracy < 1e-9

    def test_normals_of_a_plane_are_its_normal(self) -> None:
        plane = unproject(np.full((1, 5, 6), 2.0), INTRINSICS[None], np.eye(3, 4)[None])
        normals = metrics.point_normals(plane, np.ones((1, 5, 6), dtype=bool))
        np.testing.assert_allclose(np.abs(normals[0, 1:-1, 1:-1, 2]), 1)
        assert not normals[0, 0].any()

    def test_coinciding_points_fix_no_scale(self) -> None:
        with pytest.raises(InputError, match="coincide"):
            metrics.point_errors(np.ones((1, 3, 3, 3)), wavy(0)[2][:1, :3, :3])


class TestCrossHead:
    def test_consistent_heads_agree_and_a_shift_is_its_share_of_the_scene(self) -> None:
        depth, poses, points = wavy(0)
        cameras = poses, np.tile(INTRINSICS, (2, 1, 1))
        assert metrics.cross_head_error(cameras, depth, points) < 1e-9
        shifted = points + np.array([0.3, 0, 0])
        expected = 0.3 / scene_scale(np.linalg.norm(shifted, axis=-1))
        assert metrics.cross_head_error(cameras, depth, shifted) == pytest.approx(expected)

    def test_only_confident_pixels_count(self) -> None:
        depth, poses, points = wavy(0)
        cameras = poses, np.tile(INTRINSICS, (2, 1, 1))
        confidence = np.where(np.arange(12)[:, None] < 6, 5.0, 1.0) * np.ones(depth.shape)
        points[:, 6:] += 10
        assert metrics.cross_head_error(cameras, depth, points, (confidence,)) < 1e-9
        assert metrics.cross_head_error(cameras, depth, points) > 0.1

    @given(SEEDS)
    def test_at_least_half_of_the_pixels_are_confident(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        kept = metrics.confident_pixels(*rng.integers(1, 4, size=(2, 3, 4, 5)).astype(float))
        assert kept.mean() >= 0.5

    @given(SEEDS, st.floats(0.1, 10))
    def test_relative_point_error_is_free_of_units(self, seed: int, scale: float) -> None:
        _, _, points = wavy(seed)
        moved = points + np.random.default_rng(seed).normal(scale=0.01, size=points.shape)
        plain, scaled = (metrics.points_relative_error(f * moved, f * points) for f in (1.0, scale))
        assert plain == pytest.approx(scaled)
        assert 0 < plain < 0.05


class TestDrift:
    @given(SEEDS)
    def test_equal_arrays(self, seed: int) -> None:
        values = np.random.default_rng(seed).normal(size=(3, 5))
        drift = metrics.drift(values, values)
        assert drift.cosine == pytest.approx(1)
        assert drift.sqnr_db == metrics.SQNR_LIMIT_DB
        assert (drift.max_abs, drift.p99_abs, drift.max_rel, drift.p99_rel) == (0, 0, 0, 0)

    @pytest.mark.parametrize(("share", "decibel"), [(0.1, 20), (0.01, 40), (1.0, 0)])
    def test_sqnr_of_a_known_noise(self, share: float, decibel: float) -> None:
        reference = np.array([1.0, -1, 1, -1])
        drift = metrics.drift(reference * (1 + share), reference)
        assert drift.sqnr_db == pytest.approx(decibel)
        assert drift.max_rel == pytest.approx(share)

    @given(SEEDS, st.floats(1e-3, 1e3))
    def test_all_but_absolute_errors_are_free_of_units(self, seed: int, scale: float) -> None:
        rng = np.random.default_rng(seed)
        reference = rng.normal(size=50)
        value = reference + rng.normal(scale=0.1, size=50)
        plain, scaled = metrics.drift(value, reference), metrics.drift(scale * value, scale * reference)
        assert scaled.max_abs == pytest.approx(scale * plain.max_abs)
        assert scaled.sqnr_db == pytest.approx(plain.sqnr_db)
        assert scaled.p99_rel == pytest.approx(plain.p99_rel)
        assert scaled.cosine == pytest.approx(plain.cosine)

    def test_zero_references(self) -> None:
        zeros = np.zeros(4)
        assert metrics.drift(zeros, zeros).cosine == 1
        away = metrics.drift(np.full(4, 0.5), zeros)
        assert (away.cosine, away.sqnr_db, away.max_rel) == (0, -metrics.SQNR_LIMIT_DB, 0.5)

    @pytest.mark.parametrize(
        ("value", "message"), [(np.array([np.inf, 1]), "infinite"), (np.ones(3), "differ")], ids=["infinite", "shape"]
    )
    def test_what_cannot_be_compared_is_an_error(self, value: Array, message: str) -> None:
        with pytest.raises(InputError, match=message):
            metrics.drift(value, np.ones(2))


class TestSky:
    def test_only_a_change_of_side_counts(self) -> None:
        reference = np.array([0.0, 0.29, 0.3, 2.0])
        assert metrics.sky_changed(np.array([0.2, 0.0, 5.0, 0.31]), reference) == 0
        assert metrics.sky_changed(np.array([0.3, 0.29, 0.29, 2.0]), reference) == 0.5

    @pytest.mark.parametrize(
        ("value", "message"), [(np.array([np.nan, 1]), "NaN"), (np.ones(3), "differ")], ids=["NaN", "shape"]
    )
    def test_what_cannot_be_compared_is_an_error(self, value: Array, message: str) -> None:
        with pytest.raises(InputError, match=message):
            metrics.sky_changed(value, np.ones(2))
