"""What every step works on: the request, the device, the model and the scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.metadata import version
from time import perf_counter

from torch import nn

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.planning.assign import (
    candidate_schemes,
)
from vggt_edge.calibration.planning.cost import BlockCost, block_scheme, describe_blocks, widened
from vggt_edge.calibration.planning.exclude import excluded_layers, is_whole, kept_by, kept_scheme, pin
from vggt_edge.calibration.scenes.camera import CameraFrames
from vggt_edge.calibration.scenes.framing import Preprocess
from vggt_edge.calibration.stages.walk import StageTime
from vggt_edge.calibration.tuning.parts import EFFORTS
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.exporter.bundle import tool_versions
from vggt_edge.exporter.machine.progress import Progress
from vggt_edge.exporter.machine.usage import Measured, Timing, peak_memory_bytes
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.models.checkpoint import Checkpoint, build_model
from vggt_edge.exporter.models.prepared import model_of_form
from vggt_edge.exporter.models.shape import InputShape
from vggt_edge.exporter.request import ExportRequest
from vggt_edge.exporter.steps.cache import StepCache
from vggt_edge.exporter.steps.inputs import SceneSets
from vggt_edge.runtimes.base import Backend, Figures, Lowered, Options

MODEL, ANNOTATED = "model.onnx", "annotated.onnx"
SAMPLING, SENSITIVITY = "sampling.json", "sensitivity.json"
# Of every export; each backend declares its own besides.
TOOLS = ("vggt-edge", "torch", "torchao", "onnx", "onnx-ir", "onnxruntime", "numpy", "scipy")
EXACT_UP_TO_BYTES = 200_000_000  # of FP32 weights, for sensitivities by exact ablation


def options_of(request: ExportRequest) -> Options:
    """What the request asks of a lowering."""
    return Options(**{one.name: getattr(request, one.name) for one in fields(Options)})


@dataclass(frozen=True)
class Job:
    """What every step needs: the request, and what it works on.

    companions: further backends of the profile that this machine has. absent: those that it lacks, and why.
    """

    request: ExportRequest
    profile: DeviceProfile
    backend: Backend
    companions: tuple[Backend, ...]
    absent: Mapping[str, str]
    checkpoint: Checkpoint
    scenes: SceneSets
    cache: StepCache
    progress: Progress
    timings: list[Timing] = field(default_factory=list)
    checks: dict[str, dict[str, Figures]] = field(default_factory=dict)

    def on(self, scenes: SceneSets) -> Job:
        """The same job on other scenes of the same shape; what is known of the model stays as it is."""
        other = copy(self)
        vars(other)["scenes"] = scenes  # the class is frozen, and replace() would forget the model
        return other

    @property
    def shape(self) -> InputShape:
        """Of the input; ``UsageError`` for scenes that this architecture cannot cut into patches."""
        return self.checkpoint.architecture.shape(*self.scenes.size)

    @property
    def preprocess(self) -> Preprocess:
        """How a picture becomes the input."""
        return Preprocess(self.request.preprocess, self.shape.patch)

    @property
    def heads(self) -> tuple[str, ...]:
        """Those that were asked for, by default all that the checkpoint has."""
        return self.checkpoint.heads(self.request.outputs)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the weights before they are worked on."""
        missing = [head for head in self.checkpoint.architecture.heads if head not in self.heads]
        if self.request.outputs is not None or not missing:
            return self.checkpoint.notes
        lacks = f"the checkpoint has no head for {', '.join(missing)}: exporting {', '.join(self.heads)}"
        return (*self.checkpoint.notes, lacks)

    @cached_property
    def model(self) -> Model:
        """The FP32 reference."""
        return build_model(self.checkpoint, self.shape, self.heads)

    @property
    def transforms(self) -> bool:
        """Whether what is quantized is a prepared and tuned model, and not the FP32 one as it came."""
        return self.request.effort != "none"

    @property
    def tuned_on(self) -> int:
        """How many of the calibration scenes tuning looks at."""
        if not self.transforms:
            return 0
        return len(self.scenes.calibration[: EFFORTS[self.request.effort].scenes])

    @cached_property
    def form(self) -> Model:
        """A model with the shapes of what is quantized; of its weights nothing is said."""
        if not self.transforms:
            return self.model
        _ = self.model  # a checkpoint that does not fit ends there, with a word about why
        return model_of_form(self.checkpoint, self.shape, self.heads)

    @cached_property
    def all_blocks(self) -> tuple[BlockCost, ...]:
        """The cost of the blocks before any exclusion."""
        return describe_blocks(self.form, self.form.example_input())

    @cached_property
    def excluded(self) -> Mapping[str, tuple[str, ...]]:
        return excluded_layers(self.all_blocks, self.request.exclude)

    @cached_property
    def kept_by_runtime(self) -> Mapping[str, tuple[str, ...]]:
        """Layers that the target's runtime computes in floating point whatever their scheme."""
        return kept_by(self.all_blocks, self.backend.keeps)

    @cached_property
    def blocks(self) -> tuple[BlockCost, ...]:
        """The cost of the blocks as this export gets them."""
        costs = pin(self.all_blocks, self.kept_by_runtime, kept_scheme(self.profile))
        costs = pin(costs, self.excluded, kept_scheme(self.profile))
        return widened(costs, self.backend.widens)

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The target's own first."""
        return (self.backend, *self.companions)

    @property
    def options(self) -> Options:
        return options_of(self.request)

    @property
    def tools(self) -> dict[str, str]:
        """The versions that a result depends on."""
        return tool_versions((*TOOLS, *(name for one in self.backends for name in one.distributions)))

    @cached_property
    def stage_count(self) -> int:
        return len(self.model.stages())

    @property
    def sensitivity_method(self) -> str:
        """Exact ablation costs a forward per block and scheme: only small models can afford it."""
        if self.request.sensitivity != "auto":
            return self.request.sensitivity
        return "exact" if fp32_bytes(self.model) <= EXACT_UP_TO_BYTES else "probe"

    @contextmanager
    def timed(self, name: str, total: int | None = None) -> Iterator[Callable[[StageTime], None]]:
        """A step that the progress shows, and whose time, with the model's forwards apart, is kept in ``measured``."""
        start, forward_s = perf_counter(), 0.0

        def on_stage(time: StageTime) -> None:
            nonlocal forward_s
            forward_s += time.forward_s
            step.update(time.done, time.total)

        with self.progress.step(name, total) as step:
            yield on_stage
        self.timings.append(Timing(name, perf_counter() - start, forward_s))

    def keep_measured(self, lowered: Lowered) -> None:
        """Figures that the checks of a lowering measured."""
        self.checks[lowered.backend] = {check.name: check.measured for check in lowered.checks if check.measured}

    @property
    def measured(self) -> Measured:
        """Seconds and memory of this run so far."""
        return Measured(peak_memory_bytes(), tuple(self.timings), self.checks)

    @property
    def prepared_identity(self) -> dict[str, object]:
        """What the prepared model depends on besides: the seed of its rotations."""
        return self.identity | ({"transforms": self.request.seed} if self.transforms else {})

    @property
    def identity(self) -> dict[str, object]:
        """What every step depends on."""
        return {
            "vggt_edge": version("vggt-edge"),
            "torch": version("torch"),
            "model": self.checkpoint.digest,
            "architecture": self.checkpoint.architecture.name,
            "outputs": self.heads,
            "calibration": [scene.digest for scene in self.scenes.calibration],
        }

    def tuned_identity(self, stats: CalibrationStats, plan: PrecisionPlan) -> dict[str, object]:
        """What the quantized model depends on."""
        return self.prepared_identity | {"plan": plan.digest, "stats": stats.digest, "effort": self.request.effort}

    @property
    def camera(self) -> CameraFrames | None:
        """The camera of ``--fuse-io``; None without one."""
        return None if self.request.fuse_io is None else CameraFrames.parse(self.request.fuse_io)

    def check_camera(self) -> None:
        """``UsageError`` where the model's input shows too little of the camera's frames."""
        if self.camera is not None:
            self.camera.check_fits((self.shape.height, self.shape.width), self.preprocess)

    def schemes_of(self, block: BlockCost) -> tuple[str, ...]:
        """What the planner may give a block: the asked precision, or under ``mixed`` all that the device runs."""
        if is_whole(block, self.excluded):
            return (kept_scheme(self.profile),)
        if self.request.precision != "mixed":
            return (block_scheme(block, self.request.precision),)
        runnable = self.backend.schemes(self.profile)
        return tuple(name for name in candidate_schemes(block, self.profile) if name in runnable)


def fp32_bytes(model: nn.Module) -> int:
    """What the model's parameters take in FP32."""
    return 4 * sum(parameter.numel() for parameter in model.parameters())
