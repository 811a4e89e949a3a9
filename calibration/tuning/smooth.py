"""Smoothing: scales, and shifts, of the channels that quantized layers read, wherever the model carries them for free.

SmoothQuant (arXiv 2211.10438) has one exponent for all layers. Here each link takes the one with the least predicted
error of the task outputs, and links are not only LayerNorms, but also values and pairs of convolutions around a ReLU.
What a scale is weighed against is not only the weights behind a channel, but also what the task makes of its errors.

Shifting (Outlier Suppression+, arXiv 2304.09145) takes the mean of each channel out of inputs whose ranges are found at
run time: what is the same for all tokens costs range without telling anything. Static ranges of integers are left as
they are: with them poses were worse for it. So are FP4 blocks, whose poses lost a third. FP8 gains: the error of a
float is a share of it, so that what is nearer to zero is stored better, whatever its range. There the mean is that of
the tokens by their weight for the task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from vggt_edge.calibration.quantization.form import Form
from vggt_edge.calibration.scheme import FP8, Activation
from vggt_edge.calibration.transforms.heads import scale_values, shift_values
from vggt_edge.calibration.transforms.smoothing import divide, divide_rectified, shift
from vggt_edge.calibration.transforms.weights import Layer, layer_at, norm_at
from vggt_edge.calibration.transforms.wiring import Unit, Values
from vggt_edge.calibration.tuning.grids import uniform_grids
from vggt_edge.calibration.tuning.input_scale import Sample, predicted_error
from vggt_edge.calibration.tuning.layer import Evidence

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SLOPE_EXPONENTS = (0.25, 0.5, 0.75)
LARGEST = 16.0  # a scale, and one over the smallest: beyond it the weights' own channels suffer
COMPENSATED = 0.2  # of the error of nearest rounding is about what compensation leaves of it


@dataclass(frozen=True)
class Link:
    """readers: paths of the layers that read the channels. divide: each channel of what they read, exactly. shift:
    subtract from each channel, exactly; None where nothing can. writers: of the layers whose weights that changes
    besides the readers'.
    """

    readers: tuple[str, ...]
    divide: Callable[[Tensor], None]
    shift: Callable[[Tensor], None] | None = None
    writers: tuple[str, ...] = ()


def links(module: nn.Module, unit: Unit) -> Iterator[Link]:
    """Where the channels inside one block may be scaled."""
    for read in unit.reads:
        if read.norm is not None:
            norm, layers = norm_at(module, read.norm), [layer_at(module, path) for path in read.readers]
            yield Link(read.readers, partial(divide, norm, layers), partial(shift, norm, layers))
    if unit.values is not None:
        qkv = layer_at(module, unit.values.qkv)
        move = None if qkv.bias is None else partial(shift_values, module, unit.values)
        yield Link((unit.values.proj,), partial(_divide_values, module, unit.values), move, (unit.values.qkv,))
    for pair in unit.rectified:
        writer, reader = (module.get_submodule(path) for path in (pair.writer, pair.reader))
        assert isinstance(writer, nn.Conv2d)
        assert isinstance(reader, nn.Conv2d)
        yield Link((pair.reader,), partial(divide_rectified, writer, reader), writers=(pair.writer,))


def _divide_values(module: nn.Module, values: Values, by: Tensor) -> None:
    scale_values(module, values, 1 / by)


def smooth(
    module: nn.Module,
    unit: Unit,
    forms: Mapping[str, Form],
    evidence: dict[str, Evidence],
    shifts: bool = True,
) -> None:
    """Shift and scale the channels of every link of ``module`` in place, and what is known of its readers with them.

    forms: by path, of each layer. shifts: a part that an ablation switches off. Links to a reader whose
    input is not quantized are left alone, and so are links of a layer that is not in it.
    """
    for link in links(module, unit):
        if not _is_open(link, forms):
            continue
        if shifts and link.shift is not None and (offset := _best_shift(link, forms, evidence)) is not None:
            link.shift(offset)
            evidence.update({path: shifted(evidence[path], offset) for path in link.readers})
        factor = _best(module, link, forms, evidence)
        if factor is not None:
            link.divide(factor)
            evidence.update({path: divided(evidence[path], factor) for path in link.readers})


def _is_open(link: Link, forms: Mapping[str, Form]) -> bool:
    if not forms.keys() >= {*link.readers, *link.writers}:
        return False
    return all(forms[path].activation is not Activation.NONE for path in link.readers)


def divided(evidence: Evidence, by: Tensor) -> Evidence:
    """The same observations after each channel of the input was divided, ``by`` (in,)."""
    along = by[:, None, None] if evidence.sample.x.ndim == 4 else by
    hessian = None if evidence.hessian is None else evidence.hessian / torch.outer(by, by)
    return replace(
        evidence,
        hessian=hessian,
        sample=Sample(evidence.sample.x / along, evidence.sample.slopes * along, evidence.sample.share),
        channel_absmax=evidence.channel_absmax / by,
        mean=None if evidence.mean is None else evidence.mean / by,
    )


def shifted(evidence: Evidence, by: Tensor) -> Evidence:
    """Observations of a linear as if ``by`` (in,) had been subtracted from its input.

    Peaks exceed those of the sample by as much as before: the side on which the others lie is not known.
    """
    assert evidence.mean is not None
    x = evidence.sample.x - by
    beyond = evidence.channel_absmax - evidence.sample.x.abs().amax(dim=0)
    peaks = x.abs().amax(dim=0) + beyond.clamp(min=0)
    return replace(evidence, sample=replace(evidence.sample, x=x), channel_absmax=peaks, mean=evidence.mean - by)


def _best_shift(link: Link, forms: Mapping[str, Form], evidence: Mapping[str, Evidence]) -> Tensor | None:
    """The means or the middles of the channels; None where neither is better than nothing, or none can be."""
    seen = [(evidence[path], forms[path]) for path in link.readers]
    if any(one.mean is None for one, _ in seen):
        return None
    x = seen[0][0].sample.x  # all readers read the same
    candidates: tuple[Tensor | None, ...] = (None,)
    if all(form.activation is Activation.DYNAMIC_TOKEN for _, form in seen):
        candidates = (None, x.mean(dim=0), (x.amin(dim=0) + x.amax(dim=0)) / 2)
    elif all((form.activation, form.input) == (Activation.STATIC_TENSOR, FP8) for _, form in seen):
        candidates = (None, *(one.mean for one, _ in seen))
    return min(candidates, key=lambda by: sum(_input_error(_after(one, by), form) for one, form in seen))


def _after(evidence: Evidence, by: Tensor | None) -> Evidence:
    return evidence if by is None else shifted(evidence, by)


def _best(module: nn.Module, link: Link, forms: Mapping[str, Form], evidence: Mapping[str, Evidence]) -> Tensor | None:
    """None where no scale is better than none."""
    readers = [(layer_at(module, path), forms[path], evidence[path]) for path in link.readers]
    factors = list(_factors([(layer, seen) for layer, _, seen in readers]))
    nothing = torch.ones_like(factors[0])
    errors = [sum(_error(*reader, factor) for reader in readers) for factor in (nothing, *factors)]
    best = min(range(len(errors)), key=lambda index: errors[index])
    return factors[best - 1] if best else None


def _factors(readers: Sequence[tuple[Layer, Evidence]]) -> Iterator[Tensor]:
    """The peaks of channels against the largest weights behind them, and against the task's gradients by them."""
    peaks = torch.stack([seen.channel_absmax for _, seen in readers]).amax(dim=0)
    weights = torch.stack([_column_peaks(layer) for layer, _ in readers]).amax(dim=0)
    slopes = torch.stack([_square_slopes(seen.sample) for _, seen in readers]).sum(dim=0).sqrt()
    yield from (_factor(peaks, weights, exponent) for exponent in EXPONENTS)
    yield from (_factor(peaks, slopes, exponent) for exponent in SLOPE_EXPONENTS)


def _square_slopes(sample: Sample) -> Tensor:
    """(in,): mean squares of the gradients by each channel."""
    return sample.slopes.square().mean(dim=(0, 2, 3) if sample.slopes.ndim == 4 else 0)


def _factor(peaks: Tensor, against: Tensor, exponent: float) -> Tensor:
    """SmoothQuant's, around a geometric mean of 1. A channel that is never used is left alone."""
    used = (peaks > 0) & (against > 0)
    raw = torch.where(used, peaks.clamp(min=1e-12) ** exponent / against.clamp(min=1e-12) ** (1 - exponent), 1.0)
    raw = raw / (raw[used].log().mean().exp() if bool(used.any()) else 1.0)
    return torch.where(used, raw.clamp(1 / LARGEST, LARGEST), 1.0)


def _column_peaks(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """(in,): the largest magnitude of the weights that read each channel."""
    magnitudes = layer.weight.detach().abs()
    return magnitudes.amax(dim=[axis for axis in range(magnitudes.ndim) if axis != 1])


def _error(layer: Layer, form: Form, evidence: Evidence, factor: Tensor) -> float:
    given = divided(evidence, factor)
    error = _input_error(given, form)
    if isinstance(layer, nn.Linear) and given.hessian is not None and form.scale is not None:
        scaled = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        scaled.weight = nn.Parameter(layer.weight.detach() * factor, requires_grad=False)
        grid = next(uniform_grids(scaled, form, (1.0,)))
        lost = grid.rounded(scaled.weight) - scaled.weight
        error += COMPENSATED * float(((lost @ given.hessian) * lost).sum())
    return error


def _input_error(evidence: Evidence, form: Form) -> float:
    if form.activation is Activation.NONE:
        return 0.0
    return predicted_error(evidence.sample, _deviation(evidence, form)) / evidence.sample.share


def _deviation(evidence: Evidence, form: Form) -> Tensor:
    x = evidence.sample.x
    scale = form.input_scale(evidence.absmax) if form.activation.is_calibrated else None
    return form.fake_quantize_input(x, scale) - x
