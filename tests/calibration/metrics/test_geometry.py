"""Conversions between VGGT's encodings and cameras, against known answers and each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vggt_edge.calibration.metrics import geometry
from vggt_edge.calibration.scenes.framing import PIXEL_CENTERS
from vggt_edge.calibration.scenes.synthetic import render_scene
from vggt_edge.devices.errors import InputError

SEEDS = st.integers(0, 10_000)


def cameras(seed: int, frames: int = 3) -> geometry.Array:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(frames, rng=rng).as_matrix()
    return np.concatenate([rotation, rng.normal(size=(frames, 3, 1))], axis=-1)


def test_quarter_turn_about_z_is_the_known_matrix() -> None:
    half = np.sqrt(0.5)
    got = geometry.quaternion_to_rotation(np.array([0.0, 0.0, half, half]))
    np.testing.assert_allclose(got, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)


@given(SEEDS)
def test_quaternions_round_trip_whatever_their_length_and_sign(seed: int) -> None:
    quaternions = np.random.default_rng(seed).normal(size=(5, 4))
    back = geometry.rotation_to_quaternion(geometry.quaternion_to_rotation(quaternions))
    unit = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    np.testing.assert_allclose(back, unit * np.where(unit[:, 3:] < 0, -1, 1), atol=1e-9)


@given(SEEDS)
def test_pose_encoding_round_trips(seed: int) -> None:
    extrinsics, size = cameras(seed), (56, 84)
    intrinsics = np.tile([[70.0, 0, 42], [0, 60, 28], [0, 0, 1]], (3, 1, 1))
    decoded = geometry.decode_pose(geometry.encode_pose(extrinsics, intrinsics, size), size)
    np.testing.assert_allclose(decoded[0], extrinsics, atol=1e-9)
    np.testing.assert_allclose(decoded[1], intrinsics, atol=1e-9)


def test_right_angle_of_view_has_a_focal_length_of_half_the_image() -> None:
    encoding = np.array([[0, 0, 0, 0, 0, 0, 1, np.pi / 2, np.pi / 2]])
    _, intrinsics = geometry.decode_pose(encoding, (100, 60))
    np.testing.assert_allclose(intrinsics[0], [[30, 0, 30], [0, 50, 50], [0, 0, 1]], atol=1e-9)


def test_field_of_view_of_zero_still_gives_a_finite_camera() -> None:
    encoding = np.array([[0, 0, 0, 0, 0, 0, 1, 0, 0]])
    assert np.isfinite(geometry.decode_pose(encoding, (14, 14))[1]).all()


@given(SEEDS)
def test_a_pose_after_its_inverse_is_the_identity(seed: int) -> None:
    poses = cameras(seed)
    identity = np.broadcast_to(np.eye(3, 4), poses.shape)
    np.testing.assert_allclose(geometry.compose_poses(poses, geometry.invert_pose(poses)), identity, atol=1e-9)


@given(SEEDS)
def test_relative_poses_do_not_depend_on_the_world(seed: int) -> None:
    poses, world = cameras(seed), cameras(seed + 1, frames=1)
    moved = geometry.compose_poses(poses, world)
    np.testing.assert_allclose(geometry.relative_poses(moved), geometry.relative_poses(poses), atol=1e-9)


def test_relative_poses_are_ordered_by_pairs() -> None:
    poses = np.tile(np.eye(3, 4), (3, 1, 1))
    poses[:, 0, 3] = [0, 1, 5]
    np.testing.assert_allclose(geometry.relative_poses(poses)[:, 0, 3], [1, 5, 4])


@given(SEEDS)
def test_projection_undoes_unprojection(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 4, size=(3, 5, 7))
    intrinsics = np.tile([[9.0, 0, 3.5], [0, 8, 2.5], [0, 0, 1]], (3, 1, 1))
    points = geometry.unproject(depth, intrinsics, cameras(seed))
    pixels, z = geometry.project(points, intrinsics, cameras(seed))
    np.testing.assert_allclose(z, depth, atol=1e-9)
    rows, columns = np.meshgrid(np.arange(5) + 0.5, np.arange(7) + 0.5, indexing="ij")
    np.testing.assert_allclose(pixels, np.broadcast_to(np.stack([columns, rows], -1), pixels.shape), atol=1e-8)


def test_integer_centres_move_the_rays_by_half_a_pixel() -> None:
    """As if the principal point lay half a pixel further: depth / focal / 2 to the side, as VGGT's first releases."""
    depth = np.random.default_rng(0).uniform(1, 4, (1, 5, 7))
    lens, pose = np.array([[[9.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]]]), np.eye(3, 4)[None]
    half, integer = (geometry.unproject(depth, lens, pose, centers) for centers in PIXEL_CENTERS)
    columns, rows = np.meshgrid(np.arange(7), np.arange(5))
    np.testing.assert_allclose(integer[..., 0], (columns - 3.5) * depth / 9)
    np.testing.assert_allclose(integer[..., 1], (rows - 2.5) * depth / 8)
    np.testing.assert_allclose(half - integer, depth[..., None] * np.array([0.5 / 9, 0.5 / 8, 0]))


def test_unprojection_agrees_with_the_renderer() -> None:
    truth = render_scene(3, frames=2, height=28, width=42).ground_truth
    assert truth is not None
    assert truth.depth is not None
    assert truth.points is not None
    points = geometry.unproject(truth.depth, truth.intrinsics, truth.extrinsics)
    np.testing.assert_allclose(points, truth.points, atol=1e-3)


@pytest.mark.parametrize("bad", [np.zeros(4), np.array([0, np.nan, 0, 1])])
def test_a_quaternion_that_is_no_rotation_is_refused(bad: geometry.Array) -> None:
    with pytest.raises(InputError, match=r"length 0|NaN"):
        geometry.quaternion_to_rotation(bad)
