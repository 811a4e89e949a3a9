"""What one layer adds to the predicted error of its block (sensitivity/probes.py has the formula and the walk)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vggt_edge.calibration.apply import replacement
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.linear import StoredLayer
from vggt_edge.calibration.scheme import Activation, scheme

SAMPLED_ROWS = 256  # on vggt-mini a quarter of the rows, 32 of 128, still ranks at 0.986
TOKENS_AT_ONCE = 512
Candidate: TypeAlias = tuple[StoredLayer, Form]
"""A stored layer, and its form under one scheme; the layer may serve forms whose inputs are quantized otherwise."""


class ProbeArithmetic(TorchFunctionMode):
    """Lets gradients through ``detach``: what training does not learn from, quantization errors still flow through.

    Linears are recomputed, and so pulled back, in BF16 where the CPU has it: a quarter less time, no other ranking.
    (Convolutions gain nothing, and would keep their inputs twice.)
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.detach:
            return args[0]
        if func is functional.linear and has_bfloat16():
            return func(*(_narrow(arg) for arg in args), **(kwargs or {})).float()
        return func(*args, **(kwargs or {}))


def _narrow(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and has_bfloat16() else value


@cache
def has_bfloat16() -> bool:
    """Whether the CPU has instructions for BF16."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


@dataclass(frozen=True)
class Sample:
    """Some output channels of a layer, and the gradient by them; ``factor`` times their error is that of them all."""

    layer: nn.Module
    by_output: Tensor
    factor: float


def sampled(layer: nn.Module, by_output: Tensor, name: str) -> Sample:
    """``SAMPLED_ROWS`` output channels of a linear, drawn by its name; the whole of any other or smaller layer.

    Every output channel is quantized on its own (those that share the table of a palette are then others than in the
    whole layer), so that nothing is lost but precision; the weight's gradient and its quantization, which would cost as
    much as another forward, then cost next to nothing.
    """
    if not isinstance(layer, nn.Linear) or layer.out_features <= SAMPLED_ROWS:
        return Sample(layer, by_output, 1.0)
    rows = torch.randperm(layer.out_features, generator=seeded(name))[:SAMPLED_ROWS].sort().values
    part = nn.Linear(layer.in_features, len(rows), bias=False, device="meta")
    part.weight = nn.Parameter(layer.weight.detach()[rows], requires_grad=False)
    return Sample(part, by_output[..., rows], layer.out_features / len(rows))


def seeded(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))


def quantized_forms(
    name: str, layer: nn.Module, schemes: Sequence[str], group_size: int, stats: CalibrationStats
) -> dict[str, Candidate]:
    """By scheme (fp32 left out): the layer, shared by schemes that store it alike, and its form."""
    shape = LayerShape.of(layer)
    forms = {wanted: Form.of(scheme(wanted), shape, group_size) for wanted in schemes}
    by_storage: dict[Form, nn.Module] = {}
    found: dict[str, Candidate] = {}
    # Those with a static scale first: theirs is the layer that also knows it.
    for wanted, form in sorted(forms.items(), key=lambda item: not item[1].activation.is_calibrated):
        if form.storage not in by_storage:
            by_storage[form.storage] = replacement(layer, name, form, stats)
        stored = by_storage[form.storage]
        if isinstance(stored, StoredLayer):
            found[wanted] = stored, form
    return found


def layer_errors(
    sample: Sample,
    x: Tensor,
    by_input: Tensor,
    candidates: Mapping[str, Candidate],
) -> dict[str, float]:
    """Error that each scheme causes through one layer. x, by_input: its input and the gradient by it, the calls joined
    along the first dimension.
    """
    gradient = weight_gradient(sample.layer, x, sample.by_output)
    of_weight: dict[int, float] = {}
    errors = {}
    for wanted, (stored, form) in candidates.items():
        if id(stored) not in of_weight:
            deviation = stored.dequantized().sub_(sample.layer.get_parameter("weight"))
            of_weight[id(stored)] = sample.factor * _half_square(gradient, deviation)
        errors[wanted] = of_weight[id(stored)]
        if form.activation is not Activation.NONE:
            # Tokens in runs, maps frame by frame: a deviation as large as the input itself would be the peak of memory.
            parts = zip(*(torch.split(whole, _run_of(x)) for whole in (x, by_input)), strict=True)
            scale = stored.input_scale
            errors[wanted] += sum(_half_square(slope, _input_deviation(part, form, scale)) for part, slope in parts)
    return errors


def _run_of(x: Tensor) -> int:
    return 1 if x.ndim == 4 else TOKENS_AT_ONCE


def _input_deviation(x: Tensor, form: Form, scale: float | None) -> Tensor:
    """A static one as ``Form.fake_quantize_input`` has it but for the last bit."""
    if form.activation.is_dynamic:
        return form.fake_quantize_input(x, scale).sub_(x)
    assert scale is not None
    return form.input_range.nearest(x.div(scale)).mul_(scale).sub_(x)


def _half_square(gradient: Tensor, deviation: Tensor) -> float:
    """1/2 * sum (gradient * deviation)^2; ``deviation`` is overwritten."""
    return 0.5 * float(torch.linalg.vector_norm(deviation.mul_(gradient))) ** 2


def weight_gradient(layer: nn.Module, x: Tensor, by_output: Tensor) -> Tensor:
    """Gradient by the weight of a linear or convolution, given its input and the gradient by its output."""
    if isinstance(layer, nn.Linear):
        columns, rows = _narrow(x).flatten(0, -2), _narrow(by_output).flatten(0, -2)
        return (rows.T @ columns).float()  # type: ignore[no-any-return]
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
        by_output,
        x,
        layer.weight,
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        isinstance(layer, nn.ConvTranspose2d),
        layer.output_padding,
        layer.groups,
        [False, True, False],
    )[1]
