"""Smoothing: scales between the channels of what quantized layers read, wherever the model can carry them for free.

SmoothQuant (arXiv 2211.10438) has one exponent for all layers. Here each link takes the one with the least predicted
error of the task outputs, and links are not only LayerNorms, but also values and pairs of convolutions around a ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from vggt_edge.calibration.linear import DYNAMIC, fake_quantize_input, image_block, token_block
from vggt_edge.calibration.quantize import WEIGHT_RANGES, activation_scale
from vggt_edge.calibration.scheme import Activation, Scheme
from vggt_edge.calibration.transforms.heads import scale_values
from vggt_edge.calibration.transforms.smoothing import divide, divide_rectified
from vggt_edge.calibration.transforms.weights import layer_at, norm_at
from vggt_edge.calibration.transforms.wiring import Unit, Values
from vggt_edge.calibration.tuning.grids import uniform_grids
from vggt_edge.calibration.tuning.input_scale import Sample, predicted_error
from vggt_edge.calibration.tuning.layer import Evidence

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
LARGEST = 16.0  # a scale, and one over the smallest: beyond it the weights' own channels suffer
COMPENSATED = 0.2  # of the error of nearest rounding is about what compensation leaves of it


@dataclass(frozen=True)
class Link:
    """readers: paths of the layers that read the channels. divide: each channel of what they read, exactly. writers: of
    the layers whose weights that changes besides the readers'.
    """

    readers: tuple[str, ...]
    divide: Callable[[Tensor], None]
    writers: tuple[str, ...] = ()


def links(module: nn.Module, unit: Unit) -> Iterator[Link]:
    """Where the channels inside one block may be scaled."""
    for read in unit.reads:
        if read.norm is not None:
            layers = [layer_at(module, path) for path in read.readers]
            yield Link(read.readers, partial(divide, norm_at(module, read.norm), layers))
    if unit.values is not None:
        yield Link((unit.values.proj,), partial(_divide_values, module, unit.values), (unit.values.qkv,))
    for pair in unit.rectified:
        writer, reader = (module.get_submodule(path) for path in (pair.writer, pair.reader))
        assert isinstance(writer, nn.Conv2d)
        assert isinstance(reader, nn.Conv2d)
        yield Link((pair.reader,), partial(divide_rectified, writer, reader), (pair.writer,))


def _divide_values(module: nn.Module, values: Values, by: Tensor) -> None:
    scale_values(module, values, 1 / by)


def smooth(
    module: nn.Module, unit: Unit, schemes: Mapping[str, Scheme], group_size: int, evidence: dict[str, Evidence]
) -> None:
    """Scale the channels of every link of ``module`` in place, and what is known of its readers with them.

    schemes: by path, what each layer really gets. Links to a reader whose input is not quantized are left alone, and so
    are links of a layer that is not in it.
    """
    for link in links(module, unit):
        if not _is_open(link, schemes):
            continue
        factor = _best(module, link, schemes, group_size, evidence)
        if factor is not None:
            link.divide(factor)
            evidence.update({path: divided(evidence[path], factor) for path in link.readers})


def _is_open(link: Link, schemes: Mapping[str, Scheme]) -> bool:
    if not schemes.keys() >= {*link.readers, *link.writers}:
        return False
    return all(schemes[path].activation is not Activation.NONE for path in link.readers)


def divided(evidence: Evidence, by: Tensor) -> Evidence:
    """The same observations after each channel of the input was divided, ``by`` (in,)."""
    along = by[:, None, None] if evidence.sample.x.ndim == 4 else by
    hessian = None if evidence.hessian is None else evidence.hessian / torch.outer(by, by)
    peaks = evidence.channel_absmax / by
    return replace(
        evidence,
        hessian=hessian,
        sample=Sample(evidence.sample.x / along, evidence.sample.slopes * along, evidence.sample.share),
        channel_absmax=peaks,
    )


def _best(
    module: nn.Module, link: Link, schemes: Mapping[str, Scheme], group_size: int, evidence: Mapping[str, Evidence]
) -> Tensor | None:
    """None where no scale is better than none."""
    peaks = torch.stack([evidence[path].channel_absmax for path in link.readers]).amax(dim=0)
    columns = torch.stack([_column_peaks(layer_at(module, path)) for path in link.readers]).amax(dim=0)
    best, least = None, float("inf")
    for exponent in (None, *EXPONENTS):
        factor = torch.ones_like(peaks) if exponent is None else _factor(peaks, columns, exponent)
        error = sum(
            _error(layer_at(module, path), schemes[path], group_size, evidence[path], factor) for path in link.readers
        )
        if error < least:
            best, least = (None if exponent is None else factor), error
    return best


def _factor(peaks: Tensor, columns: Tensor, exponent: float) -> Tensor:
    """SmoothQuant's, around a geometric mean of 1. A channel that is never used is left alone."""
    used = (peaks > 0) & (columns > 0)
    raw = torch.where(used, peaks.clamp(min=1e-12) ** exponent / columns.clamp(min=1e-12) ** (1 - exponent), 1.0)
    raw = raw / (raw[used].log().mean().exp() if bool(used.any()) else 1.0)
    return torch.where(used, raw.clamp(1 / LARGEST, LARGEST), 1.0)


def _column_peaks(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """(in,): the largest magnitude of the weights that read each channel."""
    magnitudes = layer.weight.detach().abs()
    return magnitudes.amax(dim=[axis for axis in range(magnitudes.ndim) if axis != 1])


def _error(layer: nn.Module, scheme: Scheme, group_size: int, evidence: Evidence, factor: Tensor) -> float:
    given = divided(evidence, factor)
    error = 0.0
    if scheme.activation is not Activation.NONE:
        error += predicted_error(given.sample, _deviation(given, scheme)) / given.sample.share
    if isinstance(layer, nn.Linear) and given.hessian is not None and scheme.weight_bits in WEIGHT_RANGES:
        scaled = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        scaled.weight = nn.Parameter(layer.weight.detach() * factor, requires_grad=False)
        grid = next(uniform_grids(scaled, scheme, group_size, (1.0,)))
        lost = grid.rounded(scaled.weight) - scaled.weight
        error += COMPENSATED * float(((lost @ given.hessian) * lost).sum())
    return error


def _deviation(evidence: Evidence, scheme: Scheme) -> Tensor:
    x = evidence.sample.x
    if scheme.activation is Activation.DYNAMIC_TOKEN:
        block = image_block(x) if x.ndim == 4 else token_block(x)
        return fake_quantize_input(x, DYNAMIC, block, scheme.activation_bits) - x
    return fake_quantize_input(x, activation_scale(evidence.absmax), token_block(x)) - x
