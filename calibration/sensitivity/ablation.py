"""Sensitivity of the task outputs to each block's precision, by exact one-block-at-a-time ablation.

One block is quantized, everything else stays FP32, and the outputs are compared with the FP32 outputs. Nothing is
extrapolated from weights or layers, since rankings of VGGT's blocks do not transfer (QVGGT, arXiv 2605.31124).

The error of one output is the mean of Huber(r), delta = 0.1, over the dimensionless residuals r that its quantity
defines (``metrics/quantities.py``). The error of a candidate is the sum over the outputs, by the weights of their
quantities, averaged over the scenes. Huber is r^2 / 2 for small r: errors of independent perturbations add up, which is
what the assignment solver assumes, and sqrt(2 * error) reads as a root mean square relative deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vggt_edge.calibration.apply import block_replacements, swapped
from vggt_edge.calibration.documents import Finite
from vggt_edge.calibration.metrics.output import Output, scale_of
from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import scheme
from vggt_edge.calibration.stages.walk import StagedModel
from vggt_edge.devices.errors import InputError, UnknownNameError

HUBER_DELTA = 0.1

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sensitivity:
    """The output error that one scheme causes in one block. per_output: unweighted, by output name."""

    block: str
    scheme: str
    error: Finite
    per_output: Mapping[str, Finite]


def huber(residual: Tensor) -> Tensor:
    """Mean of r^2 / 2 up to delta, delta * (|r| - delta / 2) beyond, as a scalar tensor."""
    return nn.functional.huber_loss(residual, torch.zeros_like(residual), delta=HUBER_DELTA)


def tensor_scale(outputs: Sequence[Output], reference: Tensors) -> float:
    """The scene scale by the FP32 tensors, as ``metrics.output.scale_of`` takes it from arrays."""
    return scale_of(outputs, {name: value.detach().numpy() for name, value in reference.items()})


def output_errors(outputs: Sequence[Output], tensors: Tensors, reference: Tensors) -> dict[str, float]:
    """Error of each output of ``tensors`` against FP32; see the module's description."""
    scale = tensor_scale(outputs, reference)
    return {
        output.name: float(huber(output.quantity.residual(tensors[output.name], reference[output.name], scale)))
        for output in outputs
        if output.name in tensors
    }


def weighted(outputs: Sequence[Output], errors: Mapping[str, float]) -> float:
    """The sum of the errors by the weights of their quantities."""
    return sum(output.quantity.weight * errors[output.name] for output in outputs if output.name in errors)


class BlockMemo:
    """Remembers every block call of an FP32 run, and answers calls whose inputs are bit-identical without computing.

    With one block quantized, everything before it, and every branch beside it, is then free; the results are exactly
    those of a full run. Memory: inputs and outputs of all block calls of one scene.
    """

    def __init__(self, blocks: Mapping[str, nn.Module]) -> None:
        self.blocks = blocks
        self.calls: dict[str, list[tuple[list[Any], Any]]] = {name: [] for name in blocks}

    @contextmanager
    def recording(self) -> Iterator[None]:
        def remember(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                self.calls[name].append((tree_leaves((args, kwargs)), output))

            return hook

        handles = [block.register_forward_hook(remember(name), with_kwargs=True) for name, block in self.blocks.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def replaying(self, *, computed: str) -> Iterator[None]:
        """Within this context every block but ``computed`` answers from memory where it can."""
        others = {name: block for name, block in self.blocks.items() if name != computed}
        try:
            for name, block in others.items():
                block.forward = self._replay(block.forward, self.calls[name])
            yield
        finally:
            for block in others.values():
                block.__dict__.pop("forward", None)

    @staticmethod
    def _replay(forward: Callable[..., Any], calls: list[tuple[list[Any], Any]]) -> Callable[..., Any]:
        remaining = iter(calls)

        def answer(*args: Any, **kwargs: Any) -> Any:
            inputs, output = next(remaining)
            given = tree_leaves((args, kwargs))
            if all(_identical(new, old) for new, old in zip(given, inputs, strict=True)):
                return output
            return forward(*args, **kwargs)

        return answer


def _identical(new: Any, old: Any) -> bool:
    if new is old:
        return True
    if isinstance(new, Tensor) and isinstance(old, Tensor):
        return torch.equal(new, old)
    return bool(new == old)


def measure(
    model: StagedModel,
    stats: CalibrationStats,
    scenes: Sequence[Scene],
    candidates: Mapping[str, Sequence[str]],
    group_size: int,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Sensitivity, ...]:
    """Quantize one block at a time with each of its candidate schemes; the model is left as it was.

    candidates: schemes to try by block name. Returned in that order, errors averaged over ``scenes``. Deterministic.
    ``InputError`` without scenes, ``UnknownNameError`` for a block that the model does not have.
    """
    if not scenes:
        raise InputError("no probe scenes", expected="at least one scene", remedy="name some with --scenes")
    pairs = [(block, name) for block, names in candidates.items() for name in names]
    blocks = model.blocks()
    for block, name in pairs:
        if block not in blocks:
            raise UnknownNameError("block", block, blocks)
        scheme(name)
    sums: dict[tuple[str, str], dict[str, float]] = {pair: {} for pair in pairs}
    done = 0
    with torch.inference_mode():
        for scene in scenes:
            probe = _Probe(model, scene)
            for block, name in pairs:
                layers = block_replacements(block, blocks[block], scheme(name), group_size, stats)
                for output, error in probe.errors(block, layers).items():
                    sums[block, name][output] = sums[block, name].get(output, 0.0) + error / len(scenes)
                done += 1
                if on_progress is not None:
                    on_progress(done, len(pairs) * len(scenes))
    return tuple(
        Sensitivity(block, name, weighted(model.outputs, errors), errors) for (block, name), errors in sums.items()
    )


class _Probe:
    """One scene with its FP32 outputs and the memory of its block calls."""

    def __init__(self, model: StagedModel, scene: Scene) -> None:
        self.model = model
        self.images = images_of(scene)
        self.blocks = model.blocks()
        self.memo = BlockMemo(self.blocks)
        with self.memo.recording():
            self.reference = self._run()

    def _run(self) -> dict[str, Tensor]:
        return dict(zip(self.model.output_names, self.model(self.images), strict=True))

    def errors(self, block: str, layers: dict[str, nn.Module]) -> dict[str, float]:
        """Output errors with ``layers`` in ``block`` and all else FP32."""
        with swapped(self.blocks[block], layers), self.memo.replaying(computed=block):
            return output_errors(self.model.outputs, self._run(), self.reference)
