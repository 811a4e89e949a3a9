"""Everything a report is made from; any part may be missing, and the report then leaves its section out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.metrics.output import Output
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.sensitivity.ablation import Sensitivity
from vggt_edge.exporter.lowered import REST
from vggt_edge.exporter.machine.runtimes import JudgedWith
from vggt_edge.exporter.validation import ValidationReport
from vggt_edge.runtimes.base import Lowered

Outputs: TypeAlias = Mapping[str, npt.NDArray[Any]]

FP32_BYTES, FP16_BYTES = 4, 2


@dataclass(frozen=True)
class ComponentSize:
    """Weights of one component (``patch_embed``, ``frame_blocks`` ..) as this export stores them."""

    component: str
    parameters: int
    weight_bytes: int


@dataclass(frozen=True)
class Budget:
    """What the user asked for; None: no limit. max_accuracy_drop: of the summed predicted error."""

    max_memory_bytes: int | None = None
    max_latency_ms: float | None = None
    max_accuracy_drop: float | None = None


@dataclass(frozen=True)
class SceneView:
    """One held-out scene to look at.

    images: (S, 3, H, W) in [0, 1]. fp32, quantized: outputs by name, with their batch axis of 1. declared: what the
    model says of them.
    """

    name: str
    images: npt.NDArray[np.float32]
    fp32: Outputs
    quantized: Outputs
    declared: tuple[Output, ...]


@dataclass(frozen=True)
class ReportData:
    """device_title, device_chip: the profile's. input_shape: (frames, height, width). digests, tools: name to value.
    judged_with: what computed the numbers of each subject of the validation.

    random_weights: how random weights were drawn; empty for a trained model. calibration: on how many scenes, and with
    what effort. notes: of how the scenes were read. components, output_titles: titles of groups of blocks and of
    outputs, by name.
    """

    model: str
    target: str
    device_title: str
    input_shape: tuple[int, int, int]
    outputs: tuple[str, ...]
    plan: PrecisionPlan | None = None
    validation: ValidationReport | None = None
    sensitivity: tuple[Sensitivity, ...] = ()
    sizes: tuple[ComponentSize, ...] = ()
    budget: Budget | None = None
    lowered: tuple[Lowered, ...] = ()
    judged_with: tuple[JudgedWith, ...] = ()
    scenes: tuple[SceneView, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    random_weights: str = ""
    calibration: str = ""
    notes: tuple[str, ...] = ()
    components: Mapping[str, str] = field(default_factory=dict)
    output_titles: Mapping[str, str] = field(default_factory=dict)
    device_chip: str = ""


def component_of(block: str) -> str:
    """``frame_blocks.3`` -> ``frame_blocks``; ``depth_head`` stays itself."""
    return block.split(".")[0]


def component_sizes(
    plan: PrecisionPlan, parameters: Mapping[str, int], rest_parameters: int
) -> tuple[ComponentSize, ...]:
    """Sizes by component from the plan; parameters: count by block. The rest comes last."""
    counts: dict[str, int] = {}
    stored: dict[str, int] = {}
    for assignment in plan.assignments:
        component = component_of(assignment.block)
        counts[component] = counts.get(component, 0) + parameters[assignment.block]
        stored[component] = stored.get(component, 0) + assignment.weight_bytes
    sizes = tuple(ComponentSize(name, counts[name], stored[name]) for name in counts)
    return (*sizes, ComponentSize(REST, rest_parameters, plan.rest_bytes))
