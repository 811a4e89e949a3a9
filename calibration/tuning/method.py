"""Our whole recipe on a model that fits in memory, for comparison with others; an export runs the same passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.apply import apply_plan
from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.linear import QuantLayer
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import Scheme
from vggt_edge.calibration.transforms.prepare import prepare
from vggt_edge.calibration.transforms.wiring import WiredModel
from vggt_edge.calibration.tuning.parts import EFFORTS
from vggt_edge.calibration.tuning.tokens import TokenScales, fake_quantize_tokens, token_scales
from vggt_edge.calibration.tuning.tune import tune

M = TypeVar("M", bound=WiredModel)
GROUP_SIZE = 64  # recorded in plans whose scheme has no groups


def quantize(
    model: M,
    scenes: Sequence[Scene],
    scheme: Scheme,
    seed: int,
    effort: str,
    *,
    rotate: bool = True,
    balance: bool = True,
    heads: bool = False,
    tuned: bool = True,
    special_scales: bool = False,
    **parts: Any,
) -> M:
    """A quantized copy of ``model``, every block in ``scheme``. seed: of the rotations and of the probe.

    effort: one of ``tune.EFFORTS``. parts: of tuning, other than the effort's. special_scales: static inputs get a
    scale of their own for special tokens, which no backend has.
    """
    ours = prepare(model, seed, rotate=rotate, balance=balance, heads=heads)
    stats = calibrate(ours, scenes)
    plan = uniform(ours, scheme, stats.model_digest, stats.digest)
    if tuned:
        level = EFFORTS[effort]
        tune(ours, plan, stats, scenes[: level.scenes], seed=seed, parts=replace(level.parts, **parts))
    apply_plan(ours, plan, stats)
    if special_scales:
        split_scales(ours, stats)
    return ours


def uniform(model: WiredModel, scheme: Scheme, model_digest: str, stats_digest: str) -> PrecisionPlan:
    """One scheme for all blocks; what their layers get is up to ``Form.of``."""
    assignments = tuple(Assignment(name, scheme.name, "uniform", 0.0, 0, 0.0) for name in model.blocks())
    group_size = scheme.group_size or GROUP_SIZE
    return PrecisionPlan(model_digest, stats_digest, "comparison", group_size, assignments, rest_scheme="fp16")


class SplitLinear(nn.Module):
    """A quantized linear whose static input has one scale for patch tokens and one for special ones."""

    def __init__(self, source: QuantLayer, scales: TokenScales, tokens_per_frame: int, special_tokens: int) -> None:
        super().__init__()
        self.source, self.scales, self.tokens = source, scales, (tokens_per_frame, special_tokens)

    def forward(self, x: Tensor) -> Tensor:
        x = fake_quantize_tokens(x, self.scales.patch, self.scales.special, *self.tokens)
        return functional.linear(x, self.source.dequantized(), self.source.bias)


def split_scales(model: WiredModel, stats: CalibrationStats) -> None:
    """Replace every linear with a static input scale, in place. The scales are tuning's, as far as groups differ."""
    for name, block in model.blocks().items():
        for path, layer in list(block.named_modules()):
            if isinstance(layer, QuantLayer) and layer.geometry is None and layer.input_scale is not None:
                found = token_scales(stats, f"{name}.{path}")
                share = layer.input_scale / max(found.patch, found.special)
                scales = TokenScales(found.patch * share, found.special * share)
                block.set_submodule(path, SplitLinear(layer, scales, model.shape.tokens, model.special_tokens))


# By what is left out, or added (with-).
ABLATIONS: Mapping[str, Callable[..., WiredModel]] = MappingProxyType(
    {
        "ours-rotation": partial(quantize, rotate=False),
        "ours-smoothing": partial(quantize, smoothing=False),
        "ours-shift": partial(quantize, shift=False),
        "ours-compensation": partial(quantize, compensation=False),
        "ours-task-weights": partial(quantize, task=False),
        "ours-bias": partial(quantize, bias=False),
        "ours-tuning": partial(quantize, tuned=False),
        "ours-with-head-rotation": partial(quantize, heads=True),
        "ours-with-token-filter": partial(quantize, tokens="filtered"),
        "ours-with-design-tokens": partial(quantize, tokens="designed"),
        "ours-with-special-scales": partial(quantize, special_scales=True),
        "ours-with-reconstruction": partial(quantize, reconstruction=True),
    }
)
