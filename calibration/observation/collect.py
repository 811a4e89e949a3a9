"""Run the model over the calibration scenes and record what flows through it (observers, FP16 headroom)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from vggt_edge.calibration.observation.observe import NonFiniteError, Observer, split_tokens
from vggt_edge.calibration.observation.stats import PERCENTILES, BlockRange, CalibrationStats, Sample, TensorStats
from vggt_edge.calibration.quantization.attention import attends_of, operands_of
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.stages.journal import FileJournal, MemoryJournal
from vggt_edge.calibration.stages.walk import Journal, Stage, StagedModel, StageTime, walk
from vggt_edge.devices.errors import InputError

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def model_digest(model: StagedModel) -> str:
    """sha256 over the names, shapes and bytes of the weights."""
    content = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        content.update(np.ascontiguousarray(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()).data)
    return content.hexdigest()


def images_of(scene: Scene) -> Tensor:
    """(1, S, 3, H, W), the model's input."""
    return torch.from_numpy(np.ascontiguousarray(scene.images))[None]


def layers_of(block: nn.Module) -> dict[str, nn.Module]:
    """The linears and convolutions of a block by their path in it, in module order."""
    return {path: module for path, module in block.named_modules() if isinstance(module, LAYERS)}


# What runs in no module of its own: the model's own code between its blocks.
TOP = "model"


class HeadroomScan(TorchFunctionMode):
    """Largest magnitude of every tensor that is computed inside each block, and in the modules between the blocks.

    Attention logits never leave the fused operator: they are bounded by max ||q|| * max ||k|| * scale instead. Between
    the blocks, what an operation reads counts as well as what it computes: a block in FP32 may hand over what FP16
    cannot hold, and a normalisation that reads it computes small numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block: str | None = None
        self._between: list[str] = [TOP]
        self.ranges: dict[str, BlockRange] = {}
        self.seconds = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor):
            return result
        start = perf_counter()
        name = getattr(func, "__name__", str(func))
        for tensor in [result] if self.block is not None else [result, *tree_leaves((args, kwargs or {}))]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                self._note(name, float(torch.linalg.vector_norm(tensor, float("inf"))))
        if self.block is not None and func is functional.scaled_dot_product_attention:
            self._note("attention logits", _logit_bound(*args[:2], **(kwargs or {})))
        self.seconds += perf_counter() - start
        return result

    def _note(self, operation: str, absmax: float) -> None:
        name = self.block if self.block is not None else self._between[-1]
        known = self.ranges.setdefault(name, BlockRange(name, 0.0, ""))
        if absmax > known.absmax or not np.isfinite(absmax):
            self.ranges[name] = BlockRange(name, absmax, operation)

    def watch_between(self, path: str, module: nn.Module) -> list[Any]:
        """Hooks that attribute what runs in a module outside the blocks to its path in the model."""

        def enter(module: nn.Module, inputs: Any) -> None:
            self._between.append(path)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self._between.pop()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def watch(self, name: str, block: nn.Module) -> list[Any]:
        """Hooks that attribute what runs inside ``block`` to it."""
        self.ranges[name] = BlockRange(name, 0.0, "")

        def enter(module: nn.Module, inputs: Any) -> None:
            self.block = name

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self.block = None

        return [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]


def _logit_bound(query: Tensor, key: Tensor, **options: Any) -> float:
    scale = options.get("scale") or query.shape[-1] ** -0.5
    longest = [float(torch.linalg.vector_norm(tensor, dim=-1).max()) for tensor in (query, key)]
    return longest[0] * longest[1] * float(scale)


Groups: TypeAlias = Callable[..., Iterable[tuple[str, Tensor]]]
"""The inputs of a module as tensors that are watched apart, each with the name of its group."""


class _Watch:
    """The observers of one stage: one per layer and token group, made when first needed."""

    def __init__(self, model: StagedModel) -> None:
        self.model = model
        self.observers: dict[tuple[str, str], Observer] = {}
        self.seconds = 0.0

    def hook(self, layer: str, groups: Groups) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            start = perf_counter()
            with torch._C.DisableTorchFunction():  # the headroom scan is not to see the observers' own tensors
                self._observe(layer, groups(*inputs))
            self.seconds += perf_counter() - start

        return observe

    def tokens(self, x: Tensor) -> Iterable[tuple[str, Tensor]]:
        """The input of a layer, special tokens and patches apart."""
        return split_tokens(x, self.model.shape.tokens, self.model.special_tokens)

    def _observe(self, layer: str, groups: Iterable[tuple[str, Tensor]]) -> None:
        for group, values in groups:
            try:
                self.observers.setdefault((layer, group), Observer()).update(values)
            except NonFiniteError as error:
                raise InputError(
                    f"the input of layer {layer} is not finite: {error}",
                    where=layer,
                    expected="finite activations from the FP32 model",
                    remedy="check the checkpoint and the scene: the FP32 model itself is broken on it",
                ) from error


class _Recorder:
    """Watches one stage after the other and keeps what it saw of each as statistics of that stage alone."""

    def __init__(self, model: StagedModel, scenes: Sequence[Scene], digest: str, folder: Path | None) -> None:
        self.model, self.scenes, self.digest, self.folder = model, scenes, digest, folder
        self.samples = tuple(Sample(scene.name, scene.digest) for scene in scenes)
        self.parts: dict[int, CalibrationStats] = {}
        self.watch, self.scan = _Watch(model), HeadroomScan()

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        self.watch, self.scan = _Watch(self.model), HeadroomScan()
        blocks = self.model.blocks()
        handles = []
        try:
            for name in stage.blocks:
                handles += self.scan.watch(name, blocks[name])
                for found, groups in ((layers_of, self.watch.tokens), (attends_of, operands_of)):
                    for path, module in found(blocks[name]).items():
                        handles.append(module.register_forward_pre_hook(self.watch.hook(f"{name}.{path}", groups)))
            for path, module in _between_blocks(self.model, stage):
                handles += self.scan.watch_between(path, module)
            with self.scan:
                yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def seconds(self) -> float:
        """What watching the latest stage cost, beyond the model's own arithmetic."""
        return self.watch.seconds + self.scan.seconds

    def finished(self, index: int, stage: Stage) -> None:
        _check_ranges(self.scan)
        seen = sorted(self.watch.observers.items())
        part = CalibrationStats(
            model_digest=self.digest,
            samples=self.samples,
            tensors=tuple(_record(layer, group, observer) for (layer, group), observer in seen),
            block_ranges=tuple(self.scan.ranges[name] for name in sorted(self.scan.ranges)),
            channel_absmax={
                f"{layer}|{group}": observer.channel_absmax
                for (layer, group), observer in seen
                if observer.channel_absmax is not None
            },
        )
        self.parts[index] = part
        if self.folder is not None:
            folder = self._part(index)
            folder.mkdir(parents=True, exist_ok=True)
            part.save(folder)

    def all_parts(self, count: int) -> list[CalibrationStats]:
        """Of every stage, those of an earlier, killed run included."""
        if self.folder is not None:
            stored = [index for index in range(count) if index not in self.parts and self._part(index).is_dir()]
            self.parts |= {index: CalibrationStats.load(self._part(index)) for index in stored}
        return [self.parts[index] for index in sorted(self.parts)]

    def _part(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"stage-{index:03}"


def calibrate(
    model: StagedModel,
    scenes: Iterable[Scene],
    *,
    digest: str | None = None,
    folder: Path | None = None,
    on_stage: Callable[[StageTime], None] | None = None,
) -> CalibrationStats:
    """Observe every layer of every block over ``scenes``, one stage after the other, each over all scenes.

    digest: of the model, where the caller knows it already. folder: for running values and what was seen so far; a
    killed calibration goes on there. ``InputError`` for no scenes at all, and for activations that are not finite
    (names the layer).
    """
    scenes = tuple(scenes)
    if not scenes:
        raise InputError(
            "calibration has no scenes",
            expected="at least one scene",
            remedy="name a folder of images or a video with --scenes",
        )
    digest = digest or model_digest(model)
    journal = MemoryJournal() if folder is None else FileJournal(folder / "values")
    recorder = _Recorder(model, scenes, digest, folder)

    def finished(index: int, stage: Stage) -> None:
        _check_values(journal, stage, scenes)
        recorder.finished(index, stage)

    images = [images_of(scene) for scene in scenes]
    for time in walk(model, images, journal, around=recorder.around, finished=finished):
        if on_stage is not None:
            on_stage(replace(time, forward_s=time.forward_s - recorder.seconds))
    return _merged(recorder.all_parts(len(model.stages())), model, digest, recorder.samples)


def _merged(
    parts: Sequence[CalibrationStats], model: StagedModel, digest: str, samples: tuple[Sample, ...]
) -> CalibrationStats:
    ranges = _largest(entry for part in parts for entry in part.block_ranges)
    between = sorted(set(ranges) - set(model.blocks()))
    tensors = [entry for part in parts for entry in part.tensors]
    return CalibrationStats(
        model_digest=digest,
        samples=samples,
        tensors=tuple(sorted(tensors, key=lambda entry: (entry.layer, entry.group))),
        block_ranges=tuple(ranges[name] for name in (*model.blocks(), *between)),
        channel_absmax={key: array for part in parts for key, array in part.channel_absmax.items()},
    )


def _largest(entries: Iterable[BlockRange]) -> dict[str, BlockRange]:
    """By name, the entry with the largest magnitude: what runs between blocks runs in several stages."""
    found: dict[str, BlockRange] = {}
    for entry in entries:
        if entry.block not in found or entry.absmax > found[entry.block].absmax:
            found[entry.block] = entry
    return found


def _between_blocks(model: StagedModel, stage: Stage) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a stage that belong to no block, by their paths in the model."""
    inside = {id(module) for block in model.blocks().values() for module in block.modules()}
    mine = {id(module) for module in stage.module.modules()} - inside
    return ((path, module) for path, module in model.named_modules() if id(module) in mine)


def _record(layer: str, group: str, seen: Observer) -> TensorStats:
    percentiles = tuple(seen.percentile(percent) for percent in PERCENTILES)
    return TensorStats(layer, group, seen.minimum, seen.maximum, percentiles, seen.count)


def _check_values(journal: Journal, stage: Stage, scenes: Sequence[Scene]) -> None:
    for index, scene in enumerate(scenes):
        for name in stage.writes:
            if not bool(torch.isfinite(journal.get(index, name).sum(dtype=torch.float64))):
                raise InputError(
                    f"{stage.name} of the FP32 model computes NaN or Inf ({name}) on scene {scene.name}",
                    where=stage.name,
                    expected="finite values from the FP32 model",
                    remedy="check the checkpoint: NaN or Inf in its weights does this",
                )


def _check_ranges(scan: HeadroomScan) -> None:
    for entry in scan.ranges.values():
        if not np.isfinite(entry.absmax):
            raise InputError(
                f"block {entry.block} computes NaN or Inf ({entry.operation})",
                where=entry.block,
                expected="finite activations from the FP32 model",
                remedy="check the checkpoint: the FP32 model itself is broken on it",
            )
