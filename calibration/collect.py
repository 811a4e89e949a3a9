"""Run the model over the calibration scenes and record what flows through it (observers, FP16 headroom)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vggt_edge.calibration.observe import NonFiniteError, Observer, split_tokens
from vggt_edge.calibration.scenes import Scene
from vggt_edge.calibration.stats import PERCENTILES, BlockRange, CalibrationStats, Sample, TensorStats
from vggt_edge.devices.errors import InputError

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class HasTokens(Protocol):
    @property
    def tokens(self) -> int: ...


class CalibratedModel(Protocol):
    """What calibration needs of a model; every model in ``exporter/models`` has it.

    shape.tokens: tokens of one frame, the first ``special_tokens`` of them special.
    """

    @property
    def special_tokens(self) -> int: ...

    @property
    def shape(self) -> HasTokens: ...

    @property
    def output_names(self) -> tuple[str, ...]: ...

    def blocks(self) -> dict[str, nn.Module]: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]: ...


def model_digest(model: CalibratedModel) -> str:
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


class HeadroomScan(TorchFunctionMode):
    """Largest magnitude of every tensor that is computed inside each block.

    Attention logits never leave the fused operator: they are bounded by max ||q|| * max ||k|| * scale instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block: str | None = None
        self.ranges: dict[str, BlockRange] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.block is not None and isinstance(result, Tensor) and result.is_floating_point() and result.numel():
            name = getattr(func, "__name__", str(func))
            self._note(name, float(torch.linalg.vector_norm(result, float("inf"))))
            if func is functional.scaled_dot_product_attention:
                self._note("attention logits", _logit_bound(*args[:2], **(kwargs or {})))
        return result

    def _note(self, operation: str, absmax: float) -> None:
        assert self.block is not None
        if absmax > self.ranges[self.block].absmax or not np.isfinite(absmax):
            self.ranges[self.block] = BlockRange(self.block, absmax, operation)

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


class _Watch:
    """The observers of a model: one per layer and token group, made when first needed."""

    def __init__(self, model: CalibratedModel) -> None:
        self.model = model
        self.observers: dict[tuple[str, str], Observer] = {}

    def hook(self, layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            with torch._C.DisableTorchFunction():  # the headroom scan is not to see the observers' own tensors
                self._observe(layer, inputs[0])

        return observe

    def _observe(self, layer: str, x: Tensor) -> None:
        for group, values in split_tokens(x, self.model.shape.tokens, self.model.special_tokens):
            try:
                self.observers.setdefault((layer, group), Observer()).update(values)
            except NonFiniteError as error:
                raise InputError(
                    f"the input of layer {layer} is not finite: {error}",
                    where=layer,
                    expected="finite activations from the FP32 model",
                    remedy="check the checkpoint and the scene: the FP32 model itself is broken on it",
                ) from error


@contextmanager
def _attached(model: CalibratedModel, watch: _Watch, scan: HeadroomScan) -> Iterator[None]:
    handles = []
    try:
        for name, block in model.blocks().items():
            handles += scan.watch(name, block)
            for path, layer in layers_of(block).items():
                handles.append(layer.register_forward_pre_hook(watch.hook(f"{name}.{path}")))
        yield
    finally:
        for handle in handles:
            handle.remove()


def calibrate(
    model: CalibratedModel,
    scenes: Iterable[Scene],
    *,
    digest: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CalibrationStats:
    """Observe every layer of every block over ``scenes``, one scene at a time, in one pass.

    digest: of the model, where the caller knows it already. ``InputError`` for no scenes at all, and for activations
    that are not finite (names the layer).
    """
    scenes = tuple(scenes)
    if not scenes:
        raise InputError(
            "calibration has no scenes",
            expected="at least one scene",
            remedy="name a folder of images or a video with --scenes",
        )
    watch, scan = _Watch(model), HeadroomScan()
    with torch.inference_mode(), ExitStack() as stack:
        stack.enter_context(_attached(model, watch, scan))
        for index, scene in enumerate(scenes):
            with scan:
                outputs = model(images_of(scene))
            _check_outputs(model.output_names, outputs, scene.name)
            _check_ranges(scan, scene.name)
            if on_progress is not None:
                on_progress(index + 1, len(scenes))
    return CalibrationStats(
        model_digest=digest or model_digest(model),
        samples=tuple(Sample(scene.name, scene.digest) for scene in scenes),
        tensors=tuple(_record(layer, group, seen) for (layer, group), seen in sorted(watch.observers.items())),
        block_ranges=tuple(scan.ranges[name] for name in model.blocks()),
        channel_absmax={
            f"{layer}|{group}": seen.channel_absmax
            for (layer, group), seen in sorted(watch.observers.items())
            if seen.channel_absmax is not None
        },
    )


def _record(layer: str, group: str, seen: Observer) -> TensorStats:
    percentiles = tuple(seen.percentile(percent) for percent in PERCENTILES)
    return TensorStats(layer, group, seen.minimum, seen.maximum, percentiles, seen.count)


def _check_outputs(names: tuple[str, ...], outputs: tuple[Tensor, ...], scene: str) -> None:
    for name, output in zip(names, outputs, strict=True):
        if not bool(torch.isfinite(output).all()):
            raise InputError(
                f"output {name} of the FP32 model is not finite on scene {scene}",
                where=scene,
                expected="finite outputs",
                remedy="check the checkpoint: NaN or Inf in its weights does this",
            )


def _check_ranges(scan: HeadroomScan, scene: str) -> None:
    for entry in scan.ranges.values():
        if not np.isfinite(entry.absmax):
            raise InputError(
                f"block {entry.block} computes NaN or Inf ({entry.operation}) on scene {scene}",
                where=entry.block,
                expected="finite activations from the FP32 model",
                remedy="check the checkpoint: the FP32 model itself is broken on it",
            )
