"""What an export works on: the model at a fixed input shape, and the scenes that calibrate, probe and judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.observation.sampling import Sampling
from vggt_edge.calibration.scenes.camera import CameraFrames
from vggt_edge.calibration.scenes.framing import Preprocess
from vggt_edge.calibration.scenes.opening import open_scenes
from vggt_edge.calibration.scenes.resize import resize_frame
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scenes.synthetic import render_scene
from vggt_edge.calibration.stages.walk import StagedModel
from vggt_edge.devices.errors import UsageError
from vggt_edge.exporter.models.checkpoint import Checkpoint
from vggt_edge.exporter.models.shape import InputShape
from vggt_edge.exporter.request import ExportRequest
from vggt_edge.runtimes.base import Frames

Outputs: TypeAlias = Mapping[str, npt.NDArray[np.float32]]

# Synthetic scenes are drawn from separate ranges of seeds, below those that vggt-mini was trained on.
CALIBRATION_SEED, VALIDATION_SEED, BENCH_SEED = 1_000_000, 2_000_000, 3_000_000
SEEDS_PER_RUN = 10_000
CALIBRATION_SCENES, PROBE_SCENES, VALIDATION_SCENES = 16, 2, 8
POOL_PER_SCENE, POOL_SCENES = 4, 64  # to choose one scene from; and what a pool never exceeds, as it is in memory
_HELD_OUT_SHARE = 4
RENDERED_SIDE = 480


@dataclass(frozen=True)
class SceneSets:
    """Scenes to calibrate on, those of them that probe sensitivity, and those that judge the result.

    held_out: False when there was only one scene, so that it had to serve for everything. pool: all that there is to
    choose from, where that is more than is wanted; until it is ``sampled``, the calibration scenes are its first ones.
    sampling: how they were chosen. notes: what the user should know of how they were read. camera: for ``fuse_io``,
    what the camera sees of one scene, (S, height, width, 3) uint8 of its own size.
    """

    calibration: tuple[Scene, ...]
    probes: tuple[Scene, ...]
    validation: tuple[Scene, ...]
    held_out: bool
    pool: tuple[Scene, ...] = ()
    sampling: Sampling | None = None
    notes: tuple[str, ...] = ()
    camera: Frames | None = None

    def sampled(self, sampling: Sampling) -> SceneSets:
        """With the chosen scenes of the pool; the rest is let go."""
        chosen = tuple(self.pool[index] for index in sampling.chosen)
        return replace(self, calibration=chosen, probes=chosen[:PROBE_SCENES], pool=(), sampling=sampling)

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width of every scene."""
        frames, _, height, width = self.calibration[0].images.shape
        return frames, height, width


def choose_scenes(request: ExportRequest, checkpoint: Checkpoint, *, read: bool = True) -> SceneSets:
    """The scenes to work on; with ``image_input`` as 8 bits per channel hold them: that is what the model gets.

    Without ``read`` the scenes of files are only counted and named; their images are black.
    """
    chosen = _chosen(request, checkpoint, read)
    if request.fuse_io is not None and read:
        seen = camera_frames(request, request.validate_on or request.scenes, chosen.size[0])
        chosen = replace(chosen, camera=seen)
    if not request.image_input or not read:
        return chosen
    calibration, probes, validation, pool = (
        tuple(map(in_8_bits, scenes)) for scenes in (chosen.calibration, chosen.probes, chosen.validation, chosen.pool)
    )
    return replace(chosen, calibration=calibration, probes=probes, validation=validation, pool=pool)


def scenes_to_judge(request: ExportRequest, path: Path, shape: InputShape) -> SceneSets:
    """The scenes of ``path`` fitted to a model's input, to run it again on; there is nothing to calibrate."""
    scenes, notes = _to_judge(request, path, shape, read=True)
    if request.image_input:
        scenes = tuple(map(in_8_bits, scenes))
    camera = None if request.fuse_io is None else camera_frames(request, path, shape.frames)
    return SceneSets(scenes, scenes, scenes, held_out=True, notes=notes, camera=camera)


def camera_frames(request: ExportRequest, path: Path | None, frames: int) -> Frames:
    """The frames of the camera of ``fuse_io``: the first scene of ``path`` in its size, or a synthetic room.

    A room is rendered with at most 480 pixels a side and enlarged, since rendering in full size takes a minute.
    """
    camera = CameraFrames.parse(request.fuse_io or "")
    if path is None:
        shrink = min(1.0, RENDERED_SIDE / max(camera.size))
        height, width = (max(1, round(side * shrink)) for side in camera.size)
        (room,) = synthetic(VALIDATION_SEED, 1, request.seed, frames, height, width)
        return enlarged(room, camera.size)
    (scene, *_) = open_scenes(path, frames=frames, shape=camera.size, rule=Preprocess(patch=1), max_scenes=1)
    return np.ascontiguousarray(_levels(scene).transpose(0, 2, 3, 1))


def enlarged(scene: Scene, size: tuple[int, int]) -> Frames:
    """The frames of a scene as a camera of ``size`` (height, width) would give them, (S, height, width, 3)."""
    resized = [resize_frame(np.ascontiguousarray(frame.transpose(1, 2, 0)), *size) for frame in _levels(scene)]
    levels = np.round(255 * np.stack(resized)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def in_8_bits(scene: Scene) -> Scene:
    """The scene with its pixels rounded to 8 bits, as files and cameras hold them."""
    return replace(scene, images=_levels(scene).astype(np.float32) / np.float32(255))


def _levels(scene: Scene) -> Frames:
    return np.round(255 * np.clip(scene.images, 0, 1)).astype(np.uint8)


def _chosen(request: ExportRequest, checkpoint: Checkpoint, read: bool) -> SceneSets:
    """Size: the request's, else the model's native long side. Without ``--scenes``: synthetic rooms, seeded."""
    wanted = request.calibration_scenes or CALIBRATION_SCENES
    judging = request.validation_scenes or VALIDATION_SCENES
    size, patch = request.resolution or checkpoint.config.native_resolution, checkpoint.architecture.patch
    _check_size(size, patch)
    frames = request.frames or checkpoint.architecture.default_frames
    if request.scenes is None:
        chosen = _synthetic(request, frames, size, wanted, judging)
    else:
        chosen = _given(request, request.scenes, frames, size, patch, wanted, judging, read)
    if request.validate_on is None:
        return chosen
    return _judged_on(chosen, request, request.validate_on, InputShape(*chosen.size, patch), read)


def _synthetic(
    request: ExportRequest, frames: int, size: int | tuple[int, int], wanted: int, judging: int
) -> SceneSets:
    height, width = (size, size) if isinstance(size, int) else size
    return SceneSets(
        calibration := synthetic(CALIBRATION_SEED, wanted, request.seed, frames, height, width),
        calibration[:PROBE_SCENES],
        synthetic(VALIDATION_SEED, judging, request.seed, frames, height, width),
        held_out=True,
    )


def _judged_on(chosen: SceneSets, request: ExportRequest, path: Path, shape: InputShape, read: bool) -> SceneSets:
    """With the scenes of ``--validate-on``. ``UsageError`` where one of them is among those to calibrate on."""
    scenes, notes = _to_judge(request, path, shape, read)
    known = {scene.digest for scene in chosen.pool or chosen.calibration} if read else set()
    if shared := [scene.name for scene in scenes if scene.digest in known]:
        raise UsageError(
            f"{len(shared)} of the scenes to judge on are also there to calibrate on, such as {shared[0]}",
            where=f"--validate-on {path}",
            expected="another capture than that of --scenes",
            remedy="leave --validate-on away to hold out a part of --scenes",
        )
    return replace(chosen, validation=scenes, held_out=True, notes=(*chosen.notes, *notes))


def _to_judge(
    request: ExportRequest, path: Path, shape: InputShape, read: bool
) -> tuple[tuple[Scene, ...], tuple[str, ...]]:
    """Scenes of ``path`` fitted to ``shape``, and what to say about them."""
    notes: list[str] = []
    scenes = open_scenes(
        path,
        frames=shape.frames,
        shape=(shape.height, shape.width),
        rule=Preprocess(request.preprocess, shape.patch),
        max_scenes=request.validation_scenes or VALIDATION_SCENES,
        note=notes.append,
        read=read,
    )
    if len(scenes) < (request.validation_scenes or 1):
        raise UsageError(
            f"there are not {request.validation_scenes} scenes to validate on",
            where=str(path),
            expected=f"at most {len(scenes)}: so many scenes of {shape.frames} frames are there",
            remedy="lower --validation-scenes or --frames, or add images",
        )
    return scenes, tuple(notes)


def _given(
    request: ExportRequest,
    path: Path,
    frames: int,
    size: int | tuple[int, int],
    patch: int,
    wanted: int,
    judging: int,
    read: bool,
) -> SceneSets:
    """Scenes of ``path``; the last ones are held out for validation, unless others are there to judge on.

    Open counts: a fourth of the wanted scenes is held out, or of those that are there (at least one), and beside them
    is read a pool to choose from. A single scene serves for everything. ``UsageError`` where more are asked for, by
    number, than there are.
    """
    fewest, most = request.calibration_scenes or 1, min(judging, max(1, (wanted + judging) // _HELD_OUT_SHARE))
    holds_out = request.validate_on is None
    notes: list[str] = []
    scenes = open_scenes(
        path,
        frames=frames,
        long_side=size if isinstance(size, int) else None,
        shape=size if isinstance(size, tuple) else None,
        rule=Preprocess(request.preprocess, patch),
        max_scenes=max(wanted, min(POOL_PER_SCENE * wanted, POOL_SCENES))
        + ((request.validation_scenes or most) if holds_out else 0),
        note=notes.append,
        read=read,
    )
    asked = request.validation_scenes if holds_out else None
    if len(scenes) == 1 and request.calibration_scenes in (None, 1) and asked in (None, 1):
        return SceneSets(scenes, scenes, scenes, held_out=False, notes=tuple(notes))
    held_out = (asked or min(max(1, len(scenes) // _HELD_OUT_SHARE), most)) if holds_out else 0
    pool, validation = scenes[: len(scenes) - held_out], scenes[len(scenes) - held_out :]
    if len(pool) < fewest:
        raise UsageError(
            f"there are not {fewest} scenes to calibrate on beside {held_out} to validate on",
            where=str(path),
            expected=f"together at most {len(scenes)}: so many scenes of {frames} frames are there",
            remedy="lower --calibration-scenes or --validation-scenes, lower --frames, or add images",
        )
    return SceneSets(
        calibration=pool[:wanted],
        probes=pool[: min(wanted, PROBE_SCENES)],
        validation=validation,
        held_out=True,
        pool=pool if len(pool) > wanted else (),
        notes=tuple(notes),
    )


def synthetic(first: int, count: int, seed: int, frames: int, height: int, width: int) -> tuple[Scene, ...]:
    """``count`` rooms of one purpose (``first``) and one run (``seed``)."""
    start = first + seed % (VALIDATION_SEED - CALIBRATION_SEED - SEEDS_PER_RUN)
    return tuple(render_scene(start + index, frames, height, width) for index in range(count))


def _check_size(size: int | tuple[int, int], patch: int) -> None:
    """``UsageError`` for a side that cannot be cut into patches of this size."""
    for side in (size,) if isinstance(size, int) else size:
        if side % patch:
            nearest = max(patch, round(side / patch) * patch)
            raise UsageError(
                f"{side} pixels cannot be cut into patches of {patch}",
                where="--resolution",
                expected=f"a multiple of {patch}",
                remedy=f"try {nearest}",
            )


def run_model(model: StagedModel, scene: Scene) -> dict[str, npt.NDArray[np.float32]]:
    """The model's outputs for one scene, by name, each (1, S, ...)."""
    with torch.inference_mode():
        values = model(images_of(scene))
    return {name: value.numpy() for name, value in zip(model.output_names, values, strict=True)}
