"""Before minutes of work: what an export will need of disk, memory and time, and whether this machine has it.

Rough by intent (within a factor of two): arithmetic is counted exactly from the blocks, the machine's speed is measured
for a fifth of a second, everything else is bytes over the rates below.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter

import torch

from vggt_edge.calibration.planning.cost import BlockCost, peak_activation_bytes, weight_bytes
from vggt_edge.calibration.scheme import SCHEMES, NumberType
from vggt_edge.calibration.stages.journal import MEMORY_BYTES
from vggt_edge.calibration.tuning.collected import sampled_places
from vggt_edge.devices.errors import ResourceError
from vggt_edge.exporter.machine.progress import format_duration
from vggt_edge.exporter.models.shape import InputShape
from vggt_edge.runtimes.base import Rates
from vggt_edge.runtimes.common.memory import available_memory_bytes, held_bytes

# Measured on two shared x86-64 cores with VGGT-1B (docs/benchmarks/full-size.md); they set the scale of an estimate.
HASH_BYTES_PER_S = 0.5e9  # of a checkpoint: digested, and scanned for NaN
PIXELS_PER_S = 0.5e6  # of a scene: rendered, or read and resized
OBSERVED_SHARE = 0.5  # of a forward's time: what observers and the headroom scan add
PROBE_FORWARDS = 2.5  # a probe's pull-back: recomputation, gradients, and rounding in every scheme
PREPARE_BYTES_PER_S = 0.05e9  # of FP32 weights, rewritten in double precision
TUNE_FORWARDS = 4.0  # of each scene: a walk, and a pull-back that multiplies all inputs with themselves
ROUND_BYTES_PER_S = 0.02e9  # of FP32 weights, rounded column by column with several scales
LEARN_FORWARDS = 900.0  # of one scene, all steps of block reconstruction together: 100 of 4 scenes, forth and back
QUANTIZE_BYTES_PER_S = 0.5e9  # of FP32 weights, quantized and written, or put in place for a simulation
TRANSLATE_S = 0.7  # tracing and translating one stage of each kind
PALETTE_BYTES_PER_S = 0.05e9  # of FP32 weights, clustered into palettes instead
BUNDLE_S = 3.0  # the report
BASE_BYTES = 450_000_000  # the interpreter and its libraries
ARENA_SHARE = 2.7  # what ONNX Runtime reserves, of the memory that its largest tensors need
# Walking forward: the tapped values, 4 x 2 of them, what the heads read of them (as much again), and the running one.
_LIVE_VALUES = 17
_SPEED_SHAPES = ((1374, 1024, 1024), (1374, 1024, 4096))  # (rows, inner, columns)
_MODEL_SHARE = 0.8  # of a plain product's speed: what a whole forward comes to


@dataclass(frozen=True)
class Sizes:
    """What an export works on; all that an estimate needs to know.

    - rest_bytes: stored outside the blocks.
    - calibration, validation: numbers of scenes. pool: scenes that the former are chosen from, 0 without a choice.
    - probe_forwards: what sensitivity costs, in forwards of one scene.
    - whole_forward: whether sensitivity holds a whole forward (exact ablation) or one stage at a time.
    - heads: of an attention. output_values: numbers in all outputs of one scene.
    - effort, tuned_on: of calibration, and the scenes that tuning looks at.
    - max_memory_bytes: the budget of a mix, None for none.
    - lowering: rates of the target's backend, then of its companions, the backends that give a second opinion.
    - writes_form: whether the target's backend stores the weights once more; ONNX Runtime runs the graph as it is.
    - executions: of each validation scene, by ONNX Runtime and by what runs the artifact.
    """

    blocks: tuple[BlockCost, ...]
    rest_bytes: int
    fp32_bytes: int
    shape: InputShape
    embed_dim: int
    heads: int
    output_values: int
    calibration: int
    probe_forwards: float
    validation: int
    precision: str
    whole_forward: bool = False
    effort: str = "none"
    tuned_on: int = 0
    pool: int = 0
    max_memory_bytes: int | None = None
    lowering: tuple[Rates, ...] = (Rates(),)
    writes_form: bool = True
    executions: int = 1

    @property
    def tunes(self) -> bool:
        """Whether a prepared and a tuned copy of the weights lie on the disk."""
        return self.effort != "none"

    @property
    def quantize_s(self) -> float:
        """Quantizing every weight once."""
        palette = self.precision in SCHEMES and SCHEMES[self.precision].weight.type is NumberType.PALETTE
        return self.fp32_bytes / (PALETTE_BYTES_PER_S if palette else QUANTIZE_BYTES_PER_S)

    @property
    def value_bytes(self) -> int:
        """Of one running value of one scene, FP32 (frames * tokens, embed_dim)."""
        return 4 * self.shape.frames * self.shape.tokens * self.embed_dim

    @property
    def output_bytes(self) -> int:
        """Of the outputs of one scene."""
        return 4 * self.output_values

    @property
    def image_bytes(self) -> int:
        """Of the images of all scenes, which stay in memory."""
        pixels = self.shape.frames * self.shape.height * self.shape.width
        return 4 * 3 * pixels * (max(self.calibration, self.pool) + self.validation)

    @property
    def walk_bytes(self) -> int:
        """Of what a walk keeps of one scene, at its most."""
        return _LIVE_VALUES * self.value_bytes + self.output_bytes

    @property
    def stage_bytes(self) -> int:
        """Of the largest block's weights in FP32."""
        return max(
            4 * (block.other_count + sum(layer.shape.weights for layer in block.layers)) for block in self.blocks
        )

    @property
    def calls_bytes(self) -> int:
        """Of what enters and leaves every block of one scene."""
        return 4 * sum(block.input_count + block.output_count for block in self.blocks)

    @property
    def graph_bytes(self) -> int:
        """Of what autograd keeps of the largest block."""
        return max(4 * sum(layer.input_count + layer.output_count for layer in block.layers) for block in self.blocks)

    @property
    def sampled_bytes(self) -> int:
        """Size of the samples that tuning keeps for the largest block: inputs, and as much of their gradients."""
        return max(
            2 * 4 * sum(layer.shape.in_channels * sampled_places(layer.shape.kind) for layer in block.layers)
            for block in self.blocks
        )

    @property
    def stored_bytes(self) -> int:
        """Of the weights in the graph; a mix may keep everything at 16 bits unless a budget forbids it."""
        scheme = "fp16" if self.precision == "mixed" else self.precision
        stored = self.rest_bytes + sum(weight_bytes(block, scheme) for block in self.blocks)
        return stored if self.max_memory_bytes is None else min(stored, self.max_memory_bytes)


@dataclass(frozen=True)
class StepEstimate:
    """One step. forward_seconds: of ``seconds``, the model's own forwards.

    memory_bytes: the most that is held during the step. disk_bytes: of all that is there by then, at its most.
    """

    step: str
    seconds: float
    forward_seconds: float
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class Estimate:
    """memory_bytes, disk_bytes: of the largest step; disk of work folder and bundle together."""

    steps: tuple[StepEstimate, ...]
    memory_bytes: int
    disk_bytes: int

    @classmethod
    def of(cls, steps: Sequence[StepEstimate]) -> Estimate:
        memory, disk = max(step.memory_bytes for step in steps), max(step.disk_bytes for step in steps)
        return cls(tuple(steps), memory, disk)

    def up_to(self, last: str) -> Estimate:
        """Without the steps after ``last``."""
        names = [step.step for step in self.steps]
        return Estimate.of(self.steps[: names.index(last) + 1])

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def forward_seconds(self) -> float:
        return sum(step.forward_seconds for step in self.steps)

    def to_dict(self) -> dict[str, object]:
        """All figures, the sums included."""
        return asdict(self) | {"seconds": self.seconds, "forward_seconds": self.forward_seconds}

    @property
    def text(self) -> str:
        """``about 12 min, 4.1 GB memory, 5.3 GB disk``."""
        size, disk = format_gigabytes(self.memory_bytes), format_gigabytes(self.disk_bytes)
        return f"about {_roughly(self.seconds)}, {size} memory, {disk} disk"


def estimate(sizes: Sizes, macs_per_s: float | None = None) -> Estimate:
    """Time, memory and disk by step. macs_per_s: of a forward on this machine; measured if not given."""
    forward_s = sum(block.macs for block in sizes.blocks) / (macs_per_s or measured_macs_per_s())
    opening = [_load(sizes)]
    prepared = [*_calibration(sizes, forward_s)]
    tuned = [_annotating(sizes), _lowering(sizes, forward_s), _validation(sizes, forward_s), _bundling(sizes)]
    if sizes.pool:
        opening.append(_sampling(sizes, forward_s))
    if sizes.tunes:  # a copy of the weights is on the disk once they are prepared, another one once they are tuned
        prepared = _beside(sizes.fp32_bytes, [_preparing(sizes), *prepared])
        tuned = _beside(2 * sizes.fp32_bytes, [_tuning(sizes, forward_s), *tuned])
    return Estimate.of((*opening, *prepared, *tuned))


def _beside(disk_bytes: int, steps: Sequence[StepEstimate]) -> list[StepEstimate]:
    """The steps, with so much more on the disk."""
    return [replace(step, disk_bytes=step.disk_bytes + disk_bytes) for step in steps]


def _load(sizes: Sizes) -> StepEstimate:
    pixels = sizes.image_bytes / (4 * 3)
    seconds = sizes.fp32_bytes / HASH_BYTES_PER_S + pixels / PIXELS_PER_S
    return StepEstimate("load model and scenes", seconds, 0.0, BASE_BYTES + sizes.image_bytes)


def _sampling(sizes: Sizes, forward_s: float) -> StepEstimate:
    """Most of a forward of every scene of the pool."""
    held = BASE_BYTES + sizes.image_bytes + _cached(sizes, sizes.pool) + sizes.stage_bytes
    memory = held + 2 * peak_activation_bytes(sizes.blocks, 4)
    return StepEstimate("sample", sizes.pool * forward_s, sizes.pool * forward_s, memory, sizes.pool * sizes.walk_bytes)


def _preparing(sizes: Sizes) -> StepEstimate:
    memory = BASE_BYTES + sizes.image_bytes + 3 * sizes.stage_bytes
    return StepEstimate("prepare", sizes.fp32_bytes / PREPARE_BYTES_PER_S, 0.0, memory)


def _tuning(sizes: Sizes, forward_s: float) -> StepEstimate:
    """Forward and back over the scenes, stage by stage, with what one stage collects; then the learning of blocks."""
    learned_s = LEARN_FORWARDS * forward_s if sizes.effort == "max" else 0.0
    hessians = max(4 * sum(layer.shape.in_channels**2 for layer in block.layers) for block in sizes.blocks)
    values = (len(sizes.blocks) + 2 * _LIVE_VALUES) * sizes.value_bytes + sizes.output_bytes
    return StepEstimate(
        "tune",
        TUNE_FORWARDS * sizes.tuned_on * forward_s + sizes.fp32_bytes / ROUND_BYTES_PER_S + learned_s,
        sizes.tuned_on * forward_s,
        BASE_BYTES + sizes.image_bytes + 6 * sizes.stage_bytes + sizes.graph_bytes + 8 * hessians + sizes.sampled_bytes,
        sizes.tuned_on * values,
    )


def _calibration(sizes: Sizes, forward_s: float) -> tuple[StepEstimate, StepEstimate]:
    """Calibration, and sensitivity: one forward of its own where it pulls back, all of them extra where it ablates."""
    held = BASE_BYTES + sizes.image_bytes
    live = peak_activation_bytes(sizes.blocks, 4)
    observed = StepEstimate(
        "calibrate",
        (1 + OBSERVED_SHARE) * sizes.calibration * forward_s,
        sizes.calibration * forward_s,
        # Twice: observers make absolute values of what they see.
        held + _cached(sizes, sizes.calibration) + sizes.stage_bytes + 2 * live,
        sizes.calibration * sizes.walk_bytes,
    )
    every_value = (len(sizes.blocks) + 2 * _LIVE_VALUES) * sizes.value_bytes + sizes.output_bytes
    probed = StepEstimate(
        "sensitivity",
        sizes.probe_forwards * forward_s,
        0.0 if sizes.whole_forward else forward_s,
        held + 2 * (sizes.stage_bytes + live) + (sizes.calls_bytes if sizes.whole_forward else sizes.graph_bytes),
        0 if sizes.whole_forward else every_value,
    )
    return observed, probed


def _annotating(sizes: Sizes) -> StepEstimate:
    kinds = len({block.name.split(".")[0] for block in sizes.blocks}) + 2
    seconds = sizes.quantize_s + kinds * TRANSLATE_S
    memory = BASE_BYTES + sizes.image_bytes + 3 * sizes.stage_bytes
    return StepEstimate("annotate", seconds, 0.0, memory, sizes.stored_bytes)


def _lowering(sizes: Sizes, forward_s: float) -> StepEstimate:
    """By the rates that each backend declares, one backend after the other."""
    stored = sizes.stored_bytes
    seconds = sum(one.seconds + stored / one.bytes_per_s + one.forwards * forward_s for one in sizes.lowering)
    working = max(
        one.memory_bytes + one.copies * stored + (_session_bytes(sizes) if one.forwards else 0)
        for one in sizes.lowering
    )
    memory = BASE_BYTES + sizes.image_bytes + stored + working
    return StepEstimate("lower", seconds, 0.0, memory, (3 if sizes.writes_form else 1) * stored)


def _validation(sizes: Sizes, forward_s: float) -> StepEstimate:
    """FP32, the simulation, ONNX Runtime, and what else runs here."""
    walk = _cached(sizes, sizes.validation) + 2 * sizes.stage_bytes + peak_activation_bytes(sizes.blocks, 4)
    outputs = (2 + sizes.executions) * sizes.validation * sizes.output_bytes
    forwards_s = (2 + sizes.executions) * sizes.validation * forward_s
    starts_s = sizes.validation * sum(one.scene_seconds for one in sizes.lowering)
    return StepEstimate(
        "validate",
        forwards_s + sizes.quantize_s + starts_s,
        forwards_s,
        BASE_BYTES + sizes.image_bytes + outputs + max(walk, _session_bytes(sizes)),
        _lowered_bytes(sizes) + sizes.validation * (sizes.walk_bytes + sizes.output_bytes),
    )


def _session_bytes(sizes: Sizes) -> int:
    """Of ONNX Runtime, which holds the whole graph and writes attention out."""
    tokens = sizes.shape.frames * sizes.shape.tokens
    scores = 2 * 4 * sizes.heads * tokens * tokens
    return sizes.stored_bytes + int(ARENA_SHARE * (scores + 2 * peak_activation_bytes(sizes.blocks, 4)))


def _lowered_bytes(sizes: Sizes) -> int:
    """Of the graph, and of the backend's own form where it makes one."""
    return (2 if sizes.writes_form else 1) * sizes.stored_bytes


def _bundling(sizes: Sizes) -> StepEstimate:
    """Files are linked, not copied, and digested once."""
    stored = _lowered_bytes(sizes)
    disk = stored + 2 * (2 * sizes.output_bytes + sizes.image_bytes)
    return StepEstimate(
        "report and bundle", BUNDLE_S + stored / HASH_BYTES_PER_S, 0.0, BASE_BYTES + sizes.image_bytes, disk
    )


def _cached(sizes: Sizes, scenes: int) -> int:
    """What a journal holds in memory beside its files."""
    return min(MEMORY_BYTES, scenes * sizes.walk_bytes)


def check(found: Estimate, output: Path, work: Path) -> None:
    """``ResourceError`` that says how much of what is missing; what an earlier run left in ``work`` counts as free."""
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    disk, memory = shutil.disk_usage(parent).free + _stored(work), available_memory_bytes() + held_bytes(os.getpid())
    problems = {
        "disk": _shortage("disk", found.disk_bytes, disk),
        "memory": _shortage("memory", found.memory_bytes, memory),
    }
    missing = [kind for kind, problem in problems.items() if problem]
    if missing:
        raise ResourceError(
            f"not enough {' and '.join(missing)}: {'; '.join(filter(None, problems.values()))}",
            where=str(parent) if problems["disk"] else "",
            expected=found.text,
            remedy="; ".join(_REMEDIES[kind] for kind in missing),
        )


_REMEDIES = {
    "disk": "free some space or choose an -o on a larger disk, or lower --calibration-scenes and --validation-scenes",
    "memory": "close other programs or use a larger machine, or lower --frames or --resolution",
}


def _shortage(kind: str, needed: int, available: int) -> str:
    """``the export needs about 5.3 GB of disk and 1.0 GB are available``; empty if that suffices."""
    if needed <= available:
        return ""
    needs, has = format_gigabytes(needed), format_gigabytes(available)
    return f"the export needs about {needs} of {kind}, and {has} are available"


def _stored(work: Path) -> int:
    if not work.is_dir():
        return 0
    return sum(path.stat().st_size for path in work.rglob("*") if path.is_file())


def measured_macs_per_s() -> float:
    """Multiply-accumulates per second of a forward, from a few FP32 products of a transformer's size."""
    return _MODEL_SHARE * max(_product_macs_per_s(*shape) for shape in (*_SPEED_SHAPES[:1], *_SPEED_SHAPES))


def _product_macs_per_s(rows: int, inner: int, columns: int) -> float:
    left, right = torch.ones(rows, inner), torch.ones(inner, columns)
    start = perf_counter()
    torch.mm(left, right)
    return rows * inner * columns / (perf_counter() - start)


def format_gigabytes(count: int) -> str:
    """``4.1 GB``; ``620 MB`` below one."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _roughly(seconds: float) -> str:
    """No more digits than an estimate has: seconds up to a minute, then whole minutes."""
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def shares(found: Estimate) -> Sequence[tuple[str, str]]:
    """(what, how much) lines for people."""
    steps = [(step.step, _needs(step)) for step in found.steps]
    return (
        *steps,
        ("time in all", format_duration(found.seconds)),
        ("of it the model's own forwards", format_duration(found.forward_seconds)),
        ("memory at most", format_gigabytes(found.memory_bytes)),
        ("disk at most", format_gigabytes(found.disk_bytes)),
        ("processors", str(os.cpu_count())),
    )


def _needs(step: StepEstimate) -> str:
    memory, disk = format_gigabytes(step.memory_bytes), format_gigabytes(step.disk_bytes)
    return f"{format_duration(step.seconds)}, {memory} memory, {disk} disk"
