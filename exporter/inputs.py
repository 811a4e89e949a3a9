"""What an export works on: the model at a fixed input shape, and the scenes that calibrate, probe and judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from vggt_edge.calibration.collect import images_of
from vggt_edge.calibration.readers import open_scenes
from vggt_edge.calibration.scenes import Scene
from vggt_edge.calibration.synthetic import render_scene
from vggt_edge.calibration.walk import StagedModel
from vggt_edge.devices.errors import UsageError
from vggt_edge.exporter.config import ExportRequest
from vggt_edge.exporter.models.config import InputShape, VGGTConfig

Outputs: TypeAlias = Mapping[str, npt.NDArray[np.float32]]

DEFAULT_FRAMES = 4
# Synthetic scenes are drawn from separate ranges of seeds, below those that vggt-mini was trained on.
CALIBRATION_SEED, VALIDATION_SEED, BENCH_SEED = 1_000_000, 2_000_000, 3_000_000
SEEDS_PER_RUN = 10_000
CALIBRATION_SCENES, PROBE_SCENES, VALIDATION_SCENES = 8, 2, 8
_HELD_OUT_SHARE = 4


@dataclass(frozen=True)
class SceneSets:
    """Scenes to calibrate on, those of them that probe sensitivity, and those that judge the result.

    held_out: False when there was only one scene, so that it had to serve for everything.
    """

    calibration: tuple[Scene, ...]
    probes: tuple[Scene, ...]
    validation: tuple[Scene, ...]
    held_out: bool

    @property
    def shape(self) -> InputShape:
        frames, _, height, width = self.calibration[0].images.shape
        return InputShape(frames, height, width)


def choose_scenes(request: ExportRequest, config: VGGTConfig) -> SceneSets:
    """The scenes to work on; with ``image_input`` as 8 bits per channel hold them: that is what the model gets."""
    chosen = _chosen(request, config)
    if not request.image_input:
        return chosen
    calibration, probes, validation = (
        tuple(map(in_8_bits, scenes)) for scenes in (chosen.calibration, chosen.probes, chosen.validation)
    )
    return SceneSets(calibration, probes, validation, chosen.held_out)


def in_8_bits(scene: Scene) -> Scene:
    levels = np.round(255 * np.clip(scene.images, 0, 1)).astype(np.float32)
    return replace(scene, images=levels / np.float32(255))


def _chosen(request: ExportRequest, config: VGGTConfig) -> SceneSets:
    """The requested scenes at the requested size; every fourth one (at least one) is held out for validation.

    Without ``--scenes``: synthetic rooms, seeded. Size: the request's, else the model's native long side. A single
    scene serves for everything. ``UsageError`` where more are asked for, by number, than there are.
    """
    frames = request.frames or DEFAULT_FRAMES
    wanted = request.calibration_scenes or CALIBRATION_SCENES
    judging = request.validation_scenes or VALIDATION_SCENES
    if request.scenes is None:
        height, width = _synthetic_size(request, config)
        return SceneSets(
            calibration := synthetic(CALIBRATION_SEED, wanted, request.seed, frames, height, width),
            calibration[:PROBE_SCENES],
            synthetic(VALIDATION_SEED, judging, request.seed, frames, height, width),
            held_out=True,
        )
    size = request.resolution or config.native_resolution
    scenes = open_scenes(
        request.scenes,
        frames=frames,
        long_side=size if isinstance(size, int) else None,
        shape=size if isinstance(size, tuple) else None,
        max_scenes=wanted + judging,
    )
    if len(scenes) == 1 and request.calibration_scenes in (None, 1) and request.validation_scenes in (None, 1):
        return SceneSets(scenes, scenes, scenes, held_out=False)
    held_out = request.validation_scenes or min(max(1, len(scenes) // _HELD_OUT_SHARE), judging)
    calibration = scenes[:-held_out][:wanted]
    if len(calibration) < (request.calibration_scenes or 1):
        raise UsageError(
            f"there are not {request.calibration_scenes or 1} scenes to calibrate on beside {held_out} to validate on",
            where=str(request.scenes),
            expected=f"together at most {len(scenes)}: so many scenes of {frames} frames are there",
            remedy="lower --calibration-scenes or --validation-scenes, lower --frames, or add images",
        )
    return SceneSets(calibration, calibration[:PROBE_SCENES], scenes[-held_out:], held_out=True)


def synthetic(first: int, count: int, seed: int, frames: int, height: int, width: int) -> tuple[Scene, ...]:
    """``count`` rooms of one purpose (``first``) and one run (``seed``)."""
    start = first + seed % (VALIDATION_SEED - CALIBRATION_SEED - SEEDS_PER_RUN)
    return tuple(render_scene(start + index, frames, height, width) for index in range(count))


def _synthetic_size(request: ExportRequest, config: VGGTConfig) -> tuple[int, int]:
    size = request.resolution or config.native_resolution
    return (size, size) if isinstance(size, int) else size


def run_model(model: StagedModel, scene: Scene) -> dict[str, npt.NDArray[np.float32]]:
    """The model's outputs for one scene, by name, each (1, S, ...)."""
    with torch.inference_mode():
        values = model(images_of(scene))
    return {name: value.numpy() for name, value in zip(model.output_names, values, strict=True)}
