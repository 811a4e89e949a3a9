"""The figures of one simulated model over held-out scenes: against ground truth, and against FP32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vggt_edge.calibration.metrics.output import Output
from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.sensitivity.ablation import output_errors, weighted
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.validation import figures
from vggt_edge.exporter.validation.outputs import Outputs, without_batch

# SQNR of the outputs that hold geometry; a confidence has no unit to be wrong in.
_DRIFTING = {"pose_enc": "pose_sqnr_db", "points": "points_sqnr_db"}


class HeldOut:
    """Scenes that no method has seen, and what FP32 makes of them (computed once, when first needed)."""

    def __init__(self, model: Model, scenes: Sequence[Scene]) -> None:
        self.model, self.scenes = model, tuple(scenes)

    @cached_property
    def reference(self) -> list[Outputs]:
        return self.outputs(self.model)

    def outputs(self, model: nn.Module) -> list[Outputs]:
        """By scene, then by name, without a batch axis; ``model`` gives what the FP32 model gives, in its order."""
        found: list[Outputs] = []
        for scene in self.scenes:
            with torch.inference_mode():
                values = cast(tuple[Tensor, ...], model(images_of(scene)))
            named = dict(zip(self.model.output_names, (value.numpy() for value in values), strict=True))
            frames, _, height, width = scene.images.shape
            found.append(without_batch(self.model.outputs, named, (frames, height, width), scene.name))
        return found

    def figures(self, outputs: Sequence[Outputs]) -> dict[str, float]:
        """Figures by column key. A figure that cannot be had (an output is not finite) is not a number; only those of
        outputs that the model does not have are left out.
        """
        values = geometry(self.model.outputs, self.scenes, outputs) | {"output_error": self._output_error(outputs)}
        reference = [{name: each[name] for name in _DRIFTING if name in each} for each in self.reference]
        drifts = figures.drifts(self.model.outputs, outputs, reference, self.scenes)
        return values | {_DRIFTING[one.output]: _number(one) for one in drifts if one.metric == "sqnr_db"}

    def _output_error(self, outputs: Sequence[Outputs]) -> float:
        pairs, declared = zip(outputs, self.reference, strict=True), self.model.outputs
        errors = [output_errors(declared, _tensors(ours), _tensors(fp32)) for ours, fp32 in pairs]
        return float(np.mean([weighted(declared, each) for each in errors]))


def geometry(declared: Sequence[Output], scenes: Sequence[Scene], outputs: Sequence[Outputs]) -> dict[str, float]:
    """By metric: figures against ground truth, and how far the heads disagree with each other.

    outputs: without a batch axis. ``InputError`` for scenes without ground truth.
    """
    if any(scene.ground_truth is None for scene in scenes):
        raise InputError("a held-out scene has no ground truth", expected="synthetic rooms, or scenes with geometry")
    samples = [figures.Sample(scene, each, each) for scene, each in zip(scenes, outputs, strict=True)]
    found = [*figures.against_ground_truth(declared, samples), *figures.cross_head(declared, samples)]
    return {one.metric: _number(one) for one in found}


def _number(figure: figures.Figure) -> float:
    return float("nan") if figure.value is None else figure.value


def _tensors(outputs: Outputs) -> Mapping[str, Tensor]:
    return {name: torch.from_numpy(cast(npt.NDArray[np.float32], value))[None] for name, value in outputs.items()}
