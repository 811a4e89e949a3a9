"""Seeded renderer of synthetic multi-view scenes with exact depth, points, poses and intrinsics.

A scene is a furnished room whose four walls, floor and ceiling can be told apart (each has its own hue, colour gradient
and pattern, jittered per scene), so that a camera pose can be read off a single frame; cameras stand on a ring around
the middle, wide apart against the scene's depth, so that translation directions are well defined. The world is a box
with axes x (east), y (down), z (north), in metres; rays go through pixel centres (u + 0.5, v + 0.5), the
principal point is the image centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.scenes.scene import Float, GroundTruth, Scene

Array = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]

# Surfaces in the order east, west, floor, ceiling, north, south: mean colour, change along u, change along v,
# stripes per half-width along u and v. Hue names the surface, gradients name the place on it.
_SURFACES: tuple[tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], tuple[float, float]], ...] = (
    ((0.30, 0.60, 0.30), (0.00, 0.20, -0.22), (0.12, 0.0, 0.0), (3.0, 0.0)),
    ((0.70, 0.62, 0.22), (-0.2, 0.10, 0.18), (0.0, 0.12, 0.0), (2.0, 2.0)),
    ((0.45, 0.36, 0.30), (0.18, 0.00, -0.18), (-0.12, 0.18, 0.0), (2.5, 2.5)),
    ((0.82, 0.82, 0.84), (0.00, -0.16, 0.12), (0.12, 0.0, -0.16), (0.0, 0.0)),
    ((0.66, 0.28, 0.26), (0.20, 0.00, 0.20), (0.0, 0.12, 0.0), (0.0, 3.0)),
    ((0.26, 0.36, 0.70), (0.22, 0.16, 0.00), (0.0, 0.0, 0.14), (1.5, 1.5)),
)


@dataclass(frozen=True)
class Furniture:
    """An upright box (half extents) or, where ``round``, an ellipsoid, turned by ``yaw`` about the vertical."""

    centre: Array
    half: Array
    yaw: float
    colour: Array
    gradient: Array
    round: bool


@dataclass(frozen=True)
class Room:
    """A box-shaped room: its half extents in metres, and the colours and stripes of its surfaces."""

    half: Array
    colour: Array
    along_u: Array
    along_v: Array
    stripes: Array
    phase: Array
    stripe_contrast: Array
    furniture: tuple[Furniture, ...]


@dataclass(frozen=True)
class Rig:
    """extrinsics: (S, 3, 4) world-to-camera in the room's axes; fov_rad: vertical field of view."""

    extrinsics: Array
    fov_rad: float


@dataclass(frozen=True)
class RenderedViews:
    """images (S, 3, H, W) in [0, 1]; depth (S, H, W); room_points (S, H, W, 3) in the room's axes; the rig."""

    images: Float
    depth: Float
    room_points: Float
    rig: Rig


def sample_room(rng: np.random.Generator) -> Room:
    """A random room of about 6 m x 3 m x 6 m with random surfaces."""
    half = np.array([rng.uniform(2.6, 3.4), rng.uniform(1.3, 1.6), rng.uniform(2.6, 3.4)])
    colour, along_u, along_v, stripes = (np.array(column) for column in zip(*_SURFACES, strict=True))
    brightness = rng.uniform(0.85, 1.12)
    return Room(
        half=half,
        colour=brightness * (colour + rng.uniform(-0.05, 0.05, colour.shape)),
        along_u=brightness * along_u * rng.uniform(0.85, 1.15, (6, 1)),
        along_v=brightness * along_v * rng.uniform(0.85, 1.15, (6, 1)),
        stripes=stripes * rng.uniform(0.9, 1.1, stripes.shape),
        phase=rng.uniform(-0.4, 0.4, (6, 2)),
        stripe_contrast=rng.uniform(0.04, 0.10, 6),
        furniture=tuple(_sample_furniture(rng, half) for _ in range(rng.integers(2, 6))),
    )


def _sample_furniture(rng: np.random.Generator, room_half: Array) -> Furniture:
    half = np.array([rng.uniform(0.2, 0.55), rng.uniform(0.2, 0.7), rng.uniform(0.2, 0.55)])
    angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 1.0) ** 0.5
    reach = room_half - 0.6
    return Furniture(
        centre=np.array([np.cos(angle) * radius * reach[0], room_half[1] - half[1], np.sin(angle) * radius * reach[2]]),
        half=half,
        yaw=rng.uniform(0, np.pi),
        colour=rng.uniform(0.1, 0.9, 3),
        gradient=rng.uniform(-0.12, 0.12, (3, 3)),
        round=bool(rng.random() < 0.35),
    )


def sample_rig(rng: np.random.Generator, room: Room, frames: int) -> Rig:
    """Cameras on a ring, neighbours 40 to 100 degrees apart, looking about the middle of the room."""
    steps = rng.uniform(np.radians(40), np.radians(100), frames) * rng.choice([-1.0, 1.0])
    azimuths = rng.uniform(0, 2 * np.pi) + np.cumsum(steps)
    poses = []
    for azimuth in azimuths[rng.permutation(frames)]:
        radius = rng.uniform(0.45, 0.72)
        position = np.array([np.cos(azimuth), 0, np.sin(azimuth)]) * radius * room.half
        position[1] = rng.uniform(-0.5, 0.4)
        target = rng.uniform(-1, 1, 3) * np.array([0.7, 0.45, 0.7])
        poses.append(_look_at(_out_of_furniture(position, room), target, np.radians(rng.uniform(-6, 6))))
    return Rig(np.stack(poses), fov_rad=rng.uniform(np.radians(62), np.radians(78)))


def _out_of_furniture(position: Array, room: Room) -> Array:
    """Lift a camera that stands inside or right in front of a piece of furniture above it."""
    for piece in room.furniture:
        near = np.hypot(*(position - piece.centre)[[0, 2]]) < np.hypot(piece.half[0], piece.half[2]) + 0.15
        if near:
            position[1] = min(position[1], piece.centre[1] - piece.half[1] - 0.15)
    return position


def _look_at(position: Array, target: Array, roll: float) -> Array:
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll), np.sin(roll)
    rotation = np.stack([cos * right + sin * down, cos * down - sin * right, forward])
    return np.concatenate([rotation, (-rotation @ position)[:, None]], axis=1)


def render_views(rng: np.random.Generator, room: Room, rig: Rig, height: int, width: int) -> RenderedViews:
    """Cast one ray per pixel into the room and its furniture; exact depth, mild sensor noise."""
    focal = height / 2 / np.tan(rig.fov_rad / 2)
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    local = np.stack([(u - width / 2) / focal, (v - height / 2) / focal, np.ones_like(u)], axis=-1)
    rotation, translation = rig.extrinsics[:, :, :3], rig.extrinsics[:, :, 3]
    origins = -np.einsum("sji,sj->si", rotation, translation)
    # (S, HW, 3), not normalised: the ray parameter is then the z-depth itself.
    rays = (local.reshape(1, -1, 3) @ rotation).astype(np.float32)
    start = origins[:, None, :].astype(np.float32)
    depth, colour = _hit_room(room, start, rays)
    for piece in room.furniture:
        _hit_furniture(piece, start, rays, depth, colour)
    shape = (len(origins), height, width)
    noisy = colour + rng.normal(0, 0.01, colour.shape).astype(np.float32)
    images = noisy.clip(0, 1).reshape(*shape, 3).transpose(0, 3, 1, 2)
    points = start + depth[..., None] * rays
    return RenderedViews(np.ascontiguousarray(images), depth.reshape(shape), points.reshape(*shape, 3), rig)


def _hit_room(room: Room, start: FloatArray, rays: FloatArray) -> tuple[FloatArray, FloatArray]:
    half = room.half.astype(np.float32)
    away = np.where(rays > 0, half, -half)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(np.abs(rays) > 1e-7, (away - start) / rays, np.inf)
    axis = distance.argmin(axis=2)
    depth = np.take_along_axis(distance, axis[..., None], 2)[..., 0]
    point = (start + depth[..., None] * rays) / half
    surface = 2 * axis + (np.take_along_axis(rays, axis[..., None], 2)[..., 0] < 0)
    # u and v of a surface: the two axes that are not its normal.
    u = np.where(axis == 0, point[..., 2], point[..., 0])
    v = np.where(axis == 1, point[..., 2], point[..., 1])
    return depth.astype(np.float32), _paint(room, surface, u, v)


def _paint(room: Room, surface: npt.NDArray[np.intp], u: FloatArray, v: FloatArray) -> FloatArray:
    def table(values: Array) -> FloatArray:
        return values.astype(np.float32)[surface]

    stripes, phase = table(np.pi * room.stripes), table(room.phase)
    pattern = np.sin(stripes[..., 0] * u + phase[..., 0]) * np.cos(stripes[..., 1] * v + phase[..., 1])
    colour = table(room.colour) + table(room.along_u) * u[..., None] + table(room.along_v) * v[..., None]
    return np.asarray(colour + (table(room.stripe_contrast) * pattern)[..., None], dtype=np.float32)


def _hit_furniture(
    piece: Furniture, start: FloatArray, rays: FloatArray, depth: FloatArray, colour: FloatArray
) -> None:
    """Where the piece is nearer than what ``depth`` holds, overwrite depth and colour in place."""
    cos, sin = np.cos(piece.yaw), np.sin(piece.yaw)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    into = (turn / piece.half[:, None]).T.astype(np.float32)  # unit box or unit ball in these axes
    origin = (start - piece.centre.astype(np.float32)) @ into
    direction = rays @ into
    entry, hit = _enter_ball(origin, direction) if piece.round else _enter_box(origin, direction)
    hit &= (entry > 0.05) & (entry < depth)
    local = (origin + entry[..., None] * direction)[hit]
    normal = local if piece.round else np.sign(local) * (np.abs(local) > 1 - 1e-3)
    shade = 0.85 + 0.15 * normal @ np.array([0.5, -0.8, 0.3], dtype=np.float32)
    paint = piece.colour.astype(np.float32) + local @ piece.gradient.astype(np.float32)
    depth[hit] = entry[hit]
    colour[hit] = paint * shade[:, None]


def _enter_box(origin: FloatArray, direction: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    safe = np.where(np.abs(direction) < 1e-7, np.float32(1e-7), direction)
    near, far = (-1 - origin) / safe, (1 - origin) / safe
    entry = np.minimum(near, far).max(axis=2)
    return entry, entry < np.maximum(near, far).min(axis=2)


def _enter_ball(origin: FloatArray, direction: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    a = (direction * direction).sum(axis=2)
    b = (origin * direction).sum(axis=2)
    c = (origin * origin).sum(axis=2) - 1
    root = b * b - a * c
    return (-b - np.sqrt(root.clip(0))) / a, root > 0


def render_room(seed: int, frames: int, height: int, width: int) -> RenderedViews:
    """Everything about the scene follows from ``seed`` and ``frames``; the size only sets the sampling."""
    rng = np.random.default_rng([seed, 0x5CE2E])
    room = sample_room(rng)
    rig = sample_rig(rng, room, frames)
    return render_views(rng, room, rig, height, width)


def render_scene(seed: int, frames: int, height: int, width: int) -> Scene:
    """A synthetic scene with ground truth in the coordinates of its first camera."""
    views = render_room(seed, frames, height, width)
    reference = views.rig.extrinsics[0]
    extrinsics = views.rig.extrinsics @ np.linalg.inv(np.concatenate([reference, [[0, 0, 0, 1]]]))
    points = views.room_points @ reference[:, :3].T + reference[:, 3]
    focal = height / 2 / np.tan(views.rig.fov_rad / 2)
    camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    truth = GroundTruth(
        extrinsics=extrinsics.astype(np.float32),
        intrinsics=np.repeat(camera[None], frames, axis=0).astype(np.float32),
        depth=views.depth,
        points=points.astype(np.float32),
        valid=np.ones(views.depth.shape, dtype=np.bool_),
    )
    name = f"room-{seed}"
    return Scene(name, views.images, tuple(f"{name}#{index}" for index in range(frames)), truth)
