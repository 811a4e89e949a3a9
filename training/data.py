"""Batches of freshly rendered rooms for training, made in worker processes off the critical path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vggt_edge.calibration.metrics.geometry import rotation_to_quaternion
from vggt_edge.calibration.scenes.synthetic import render_room

Batch: TypeAlias = dict[str, Tensor]
TRAIN_SEED = 10_000_000  # evaluation draws its seeds from below this
_TO_HOMOGENEOUS = np.array([[0.0, 0.0, 0.0, 1.0]])


def training_scene(seed: int, frames: int, side: int) -> dict[str, np.ndarray]:
    """One scene with its targets in the coordinates of frame 0, divided by the mean distance of its points.

    images (S, 3, H, W); depth (S, H, W); points (S, H, W, 3); pose (S, 9); room_points (S, H, W, 3) and room_pose
    (S, 3, 4), absolute in the room's axes: auxiliary targets which tell what a single frame shows.
    """
    views = render_room(seed, frames, side, side)
    reference = views.rig.extrinsics[0]
    extrinsics = views.rig.extrinsics @ np.linalg.inv(np.concatenate([reference, _TO_HOMOGENEOUS]))
    points = views.room_points @ reference[:, :3].T + reference[:, 3]
    scale = float(np.linalg.norm(points, axis=-1).mean())
    extrinsics[:, :, 3] /= scale
    rotation = rotation_to_quaternion(extrinsics[:, :, :3])
    pose = np.concatenate([extrinsics[:, :, 3], rotation, np.full((frames, 2), views.rig.fov_rad)], axis=1)
    return {
        "images": views.images,
        "depth": (views.depth / scale).astype(np.float32),
        "points": (points / scale).astype(np.float32),
        "pose": pose.astype(np.float32),
        "room_points": views.room_points.astype(np.float32),
        "room_pose": views.rig.extrinsics.astype(np.float32),
    }


class Rooms(IterableDataset[Batch]):
    """Endless batches; batch ``step`` always holds the same scenes, so a resumed training goes on where it stopped."""

    def __init__(self, start_step: int, scenes: int, frames: int, side: int) -> None:
        self.start_step, self.scenes, self.frames, self.side = start_step, scenes, frames, side

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.start_step + offset
        while True:
            first = TRAIN_SEED + step * self.scenes
            rendered = [training_scene(first + index, self.frames, self.side) for index in range(self.scenes)]
            yield {key: torch.from_numpy(np.stack([scene[key] for scene in rendered])) for key in rendered[0]}
            step += stride


def loader(start_step: int, scenes: int, frames: int, side: int, workers: int) -> Iterator[Batch]:
    dataset = Rooms(start_step, scenes, frames, side)
    return iter(DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=4))
