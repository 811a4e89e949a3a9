"""QuantVGGT (arXiv 2509.21302), the quantizer: rotation, channel smoothing, and clipping learnt block by block.

Of each linear, with H a Hadamard matrix of random signs: X W^T = (X H / c) (c W H)^T, smoothed after the rotation by
c_i = max|(X H)_i|^0.5 / max|(W H)_i|^0.5. Then, per block, all else being as it is, 15 passes over the calibration
scenes minimise the mean squared error of the block's output: over a factor on the range of every weight scale and one
on the range of every input (sigmoids that start at 4, so at 0.982), and over c. AdamW, 1e-2 for the factors and 1e-3
for c, falling to 1e-6 along a cosine, gradients straight through the rounding. Inputs and targets of a block are those
of FP32. All of that is the released code's, but for what follows.

What differs, and why:

- The paper has 40 scenes, so 600 steps; with fewer, both rates are larger by as much (5 times at most), since a step of
  AdamW has a fixed size and the factors would end near where they start.
- c is learnt through its logarithm: as a plain number, a step can take it through zero.
- Grids are those of the comparison (exporter/contest/peers/layer.py): groups where the scheme has them, and asymmetric
  dynamic inputs. A weight range is symmetric, so it has one factor, not one for each end; so has an input.
- Where a scheme's inputs are static, the range is the factor times max_i of max|(X H)_i| / c_i: the largest value seen.
- Every block with linears is quantized, DINO and the camera trunk too. Each is calibrated on the very tokens that it
  gets in the model: the released code trains global blocks on tokens shaped like single frames, so without attention
  between frames. Nothing is stored and loaded again, and scenes are those that the caller chose (its sampling,
  which the released code throws away, is calibration/observation/sampling.py).

The rotation is an online product, as in the released code: none of our backends is given that (docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from vggt_edge.calibration.observation.collect import calibrate, images_of
from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.operators import DYNAMIC_SCALE_MIN
from vggt_edge.calibration.quantization.ranges import INPUT_RANGES, Range
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import INT8, Activation, Scheme
from vggt_edge.calibration.stages.journal import MemoryJournal
from vggt_edge.calibration.stages.walk import Stage, StagedModel, walk
from vggt_edge.calibration.transforms.hadamard import random_hadamard
from vggt_edge.exporter.contest.peers.inputs import M, generator_of, linears_of, quantized_copy
from vggt_edge.exporter.contest.peers.layer import (
    SimulatedLinear,
    form_of,
    grid,
    group_of,
    rounded_weight,
    static_scale,
)

ALPHA = 0.5
EPOCHS = 15
CLIP_RATE, SMOOTHING_RATE, LAST_RATE = 1e-2, 1e-3, 1e-6
RELEASED_STEPS, MOST_HURRY = 600, 5.0
STATIC_RANGE = INPUT_RANGES[INT8]
START = 4.0  # of the sigmoids
SMALLEST = 1e-5  # of a channel's range: one that is always zero needs no smoothing


def quantize(model: M, scenes: Sequence[Scene], scheme: Scheme, seed: int) -> M:
    """A quantized copy for simulation; ``model`` is left as it is. seed: of the rotations' signs.

    Memory: what one stage's blocks take in and put out, of all scenes, and the gradients of one block.
    ``InputError`` without scenes.
    """
    stats = calibrate(model, scenes)
    tuned: dict[str, SimulatedLinear] = {}
    for name, block, calls in block_calls(model, scenes):
        tuned |= tuned_linears(name, block, calls, scheme, seed)
    return quantized_copy(model, stats, scheme, lambda name, layer: tuned[name])


@dataclass(frozen=True)
class Call:
    """One call of a block by the FP32 model: what it was given, and what it gave."""

    arguments: tuple[Any, ...]
    output: Tensor


def block_calls(model: StagedModel, scenes: Sequence[Scene]) -> Iterator[tuple[str, nn.Module, list[list[Call]]]]:
    """Each block that has linears, by name, with its calls: a list per scene. One stage at a time is held."""
    blocks = {name: block for name, block in model.blocks().items() if linears_of(name, block)}
    calls: dict[str, list[Call]] = {}

    @contextmanager
    def around(stage: Stage) -> Iterator[None]:
        calls.clear()
        here = [name for name in stage.blocks if name in blocks]
        calls.update((name, []) for name in here)
        handles = [blocks[name].register_forward_hook(_keep(calls[name])) for name in here]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    for _ in walk(model, [images_of(scene) for scene in scenes], MemoryJournal(), around=around):
        for name, found in calls.items():
            per_scene = len(found) // len(scenes)
            yield name, blocks[name], [found[at : at + per_scene] for at in range(0, len(found), per_scene)]


def _keep(calls: list[Call]) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        # Tensors of inference mode take no part in gradients; copies made outside of it do.
        with torch.inference_mode(False):
            calls.append(Call(tree_map(_outside, arguments), _outside(output)))

    return hook


def _outside(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def tuned_linears(
    name: str, block: nn.Module, calls: Sequence[Sequence[Call]], scheme: Scheme, seed: int
) -> dict[str, SimulatedLinear]:
    """The quantized linears of one block, by ``<name>.<path in the block>``. calls: of the FP32 block, by scene."""
    working = deepcopy(block).requires_grad_(False)
    layers = {}
    for full, source in linears_of(name, working).items():
        layers[full] = LearntLinear(source, scheme, random_hadamard(source.in_features, generator_of(full, seed)))
        working.set_submodule(full.removeprefix(f"{name}."), layers[full])
    with torch.no_grad():
        for call in (call for scene in calls for call in scene):
            working(*call.arguments)
    for layer in layers.values():
        layer.start()
    train(working, list(layers.values()), calls)
    return {full: layer.finished() for full, layer in layers.items()}


def train(block: nn.Module, layers: Sequence[LearntLinear], calls: Sequence[Sequence[Call]]) -> None:
    """Fit the parameters of ``layers`` inside ``block``: one step per scene, on the error of all its calls."""
    smoothing = [layer.log_smoothing for layer in layers]
    clips = [clip for layer in layers for clip in layer.clips()]
    steps = EPOCHS * len(calls)
    hurry = min(max(RELEASED_STEPS / steps, 1.0), MOST_HURRY)
    groups = [{"params": smoothing, "lr": hurry * SMOOTHING_RATE}, {"params": clips, "lr": hurry * CLIP_RATE}]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=LAST_RATE)
    with torch.enable_grad():
        for scene in [scene for _ in range(EPOCHS) for scene in calls]:
            for layer in layers:
                layer.renew()
            losses = [functional.mse_loss(block(*call.arguments), call.output) for call in scene]
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


class LearntLinear(nn.Module):
    """A linear while its ranges and smoothing are learnt: it computes as FP32 and watches its inputs, until ``start``.

    weight_clip: of each weight scale, (out,) or (out, groups); input_clip: one number; both before the sigmoid.
    restored: the quantized weight, as of the latest ``renew``.
    """

    rotation: Tensor
    rotated: Tensor
    seen: Tensor
    weight_clip: nn.Parameter
    restored: Tensor | None

    def __init__(self, source: nn.Linear, scheme: Scheme, rotation: Tensor) -> None:
        super().__init__()
        self.source, self.scheme, self.restored = source, scheme, None
        self.form = form_of(source.weight, scheme)
        self.register_buffer("rotation", rotation)
        self.register_buffer("rotated", source.weight.detach().float() @ rotation)
        self.register_buffer("seen", torch.zeros(source.in_features))
        self.log_smoothing = nn.Parameter(torch.zeros(source.in_features))
        self.input_clip = nn.Parameter(torch.tensor(START))

    def start(self) -> None:
        """What learning starts from, once the inputs were observed."""
        ranges = self.seen.clamp(min=SMALLEST), self.rotated.abs().amax(dim=0).clamp(min=SMALLEST)
        self.log_smoothing.data = ALPHA * ranges[0].log() - (1 - ALPHA) * ranges[1].log()
        shape = _ranges(self.rotated, self.scheme).shape
        self.weight_clip = nn.Parameter(torch.full(shape, START))
        self.renew()

    def renew(self) -> None:
        """Quantize the weight anew; once for all calls of a step."""
        weight = self.rotated * self.log_smoothing.exp()
        self.restored = clipped_weight(weight, self.scheme, self.weight_clip.sigmoid())

    def clips(self) -> list[nn.Parameter]:
        return [self.weight_clip, self.input_clip]

    def forward(self, x: Tensor) -> Tensor:
        rotated = x @ self.rotation
        if self.restored is None:
            self.seen = torch.maximum(self.seen, rotated.abs().flatten(0, -2).amax(dim=0))
            return functional.linear(rotated, self.rotated, self.source.bias)
        entering = self._quantized(rotated / self.log_smoothing.exp())
        return functional.linear(entering, self.restored, self.source.bias)

    def _quantized(self, x: Tensor) -> Tensor:
        if self.form.activation is Activation.NONE:
            return x
        if self.form.activation is Activation.STATIC_TENSOR:
            return static_input(x, self._static_range())
        return dynamic_input(x, self.input_clip.sigmoid(), self.form.input_range)

    def _static_range(self) -> Tensor:
        return self.input_clip.sigmoid() * (self.seen / self.log_smoothing.exp()).amax()

    @torch.no_grad()
    def finished(self) -> SimulatedLinear:
        """The layer with what was learnt, on the grids of the comparison."""
        smoothing = self.log_smoothing.exp()
        return SimulatedLinear(
            self.source,
            rounded_weight(self.rotated * smoothing, self.scheme, self.weight_clip.sigmoid()),
            self.scheme,
            input_scale=static_scale(self.scheme, float(self._static_range())),
            rotation=self.rotation / smoothing,
            clip=float(self.input_clip.sigmoid()),
        )


def straight_round(x: Tensor) -> Tensor:
    """Rounded, with the gradient of x itself."""
    return x + (x.round() - x).detach()


def clipped_weight(weight: Tensor, scheme: Scheme, clip: Tensor) -> Tensor:
    """The value of ``rounded_weight``, differentiable by the weight and by ``clip``, a factor on each scale's range."""
    if not form_of(weight, scheme).is_quantized:
        return weight + (rounded_weight(weight, scheme) - weight).detach()
    stored, limits = grid(weight, scheme, clip.detach())
    exact = q.spread(_ranges(weight, scheme) * clip / limits.levels, weight)
    scale = exact + (stored - exact).detach()
    return straight_round(weight / scale).clamp(limits.low, limits.high) * scale


def _ranges(weight: Tensor, scheme: Scheme) -> Tensor:
    """Largest magnitude of what shares a scale: (out,), or (out, groups)."""
    group = group_of(weight, scheme)
    return weight.abs().amax(dim=1) if group is None else weight.unflatten(1, (-1, group)).abs().amax(dim=2)  # type: ignore[no-untyped-call]


def static_input(x: Tensor, peak: Tensor) -> Tensor:
    """x to int8 and back, with a range that reaches ``peak``; differentiable by both."""
    exact = peak / STATIC_RANGE.levels
    scale = exact + (q.activation_scale(float(peak.detach())) - exact).detach()
    return straight_round(x / scale).clamp(STATIC_RANGE.low, STATIC_RANGE.high) * scale


def dynamic_input(x: Tensor, clip: Tensor, integers: Range) -> Tensor:
    """The value of ``layer.fake_quantized`` with a dynamic scale per token, differentiable by x and ``clip``."""
    low, high = x.aminmax(dim=-1, keepdim=True)
    low, high = clip * low.clamp(max=0), clip * high.clamp(min=0)
    scale = ((high - low) / (integers.high - integers.low)).clamp(min=DYNAMIC_SCALE_MIN)
    zero = (integers.low - (low / scale).round()).clamp(integers.low, integers.high).detach()
    return (straight_round(x / scale + zero).clamp(integers.low, integers.high) - zero) * scale
