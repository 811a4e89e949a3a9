"""Exact changes inside an attention: its values, head by head, and what ``proj`` reads of them.

A head mixes the values of its tokens with the same weights for every channel, so whatever is done to the channels of
all values can be undone behind it. Turning them by a Hadamard matrix is QuaRot's (arXiv 2404.00456, section 4).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vggt_edge.calibration.transforms.hadamard import sylvester
from vggt_edge.calibration.transforms.rotation import flat_rotation
from vggt_edge.calibration.transforms.smoothing import checked_factors
from vggt_edge.calibration.transforms.weights import Layer, columns, layer_at, put, rows, shift_bias, wide
from vggt_edge.calibration.transforms.wiring import Values


def rotate_values(module: nn.Module, values: Values, rng: np.random.Generator) -> None:
    """Turn the values of each head by a matrix of its own, and ``proj`` back, in place."""
    qkv, proj = layer_at(module, values.qkv), layer_at(module, values.proj)
    size = proj.weight.shape[1] // values.heads
    turns = torch.stack([signed_hadamard(size, rng) for _ in range(values.heads)])
    weight, bias = value_rows(qkv)
    _put_value_rows(qkv, (turns @ weight.view(values.heads, size, -1)).flatten(0, 1))
    if bias is not None:
        _put_value_bias(qkv, (turns @ bias.view(values.heads, size, 1)).flatten())
    turned = columns(proj).view(-1, values.heads, size).transpose(0, 1) @ turns.transpose(1, 2)
    put(proj, "weight", turned.transpose(0, 1).flatten(1))


def scale_values(module: nn.Module, values: Values, by: Tensor) -> None:
    """Multiply each value channel, ``by`` (heads * head dim,) and positive; ``proj`` makes up for it. In place.

    ``ValueError`` for a factor that is not positive and finite.
    """
    qkv, proj = layer_at(module, values.qkv), layer_at(module, values.proj)
    factor = checked_factors(by, proj.weight.shape[1])
    weight, bias = value_rows(qkv)
    _put_value_rows(qkv, weight * factor[:, None])
    if bias is not None:
        _put_value_bias(qkv, bias * factor)
    put(proj, "weight", columns(proj) / factor)


def shift_values(module: nn.Module, values: Values, by: Tensor) -> None:
    """Subtract ``by`` (heads * head dim,) from all values, in place; the bias of ``proj`` makes up for it.

    Exact because the weights with which a head mixes tokens sum to one. ``ValueError`` for a layer without bias.
    """
    qkv, proj = layer_at(module, values.qkv), layer_at(module, values.proj)
    if qkv.bias is None:
        raise ValueError(f"{values.qkv} without bias cannot shift the values that it puts out")
    offset = wide(by)
    shift_bias(proj, columns(proj) @ offset)
    _put_value_bias(qkv, wide(qkv.bias)[-len(offset) :] - offset)


def balance_values(module: nn.Module, values: Values) -> None:
    """Scale each value channel so that the weights that make it are as long as those that read it, in place.

    Cross-layer equalization (arXiv 1906.04721, section 4.1), of 2-norms. Whatever scales the channels came with is
    gone then: a rotation that mixes large and small ones would leave columns of ``proj`` that four bits cannot hold.
    """
    made = value_rows(layer_at(module, values.qkv))[0].norm(dim=1)
    read = columns(layer_at(module, values.proj)).norm(dim=0)
    unused = (made == 0) | (read == 0)
    scale_values(module, values, torch.where(unused, 1.0, (read / made).sqrt()))


def signed_hadamard(size: int, rng: np.random.Generator) -> Tensor:
    """Orthogonal (size, size), float64: Sylvester's Hadamard matrix for a power of two, else ``flat_rotation``; columns
    with random signs, so that no fixed pattern of channels falls into one.
    """
    is_power = size & (size - 1) == 0
    matrix = sylvester(size).double() / size**0.5 if is_power else flat_rotation(size, rng)
    return matrix * torch.from_numpy(rng.choice([-1.0, 1.0], size))


def value_rows(qkv: Layer) -> tuple[Tensor, Tensor | None]:
    """Weight (heads * head dim, in) and bias of the values: the last third of what ``qkv`` puts out."""
    start = 2 * len(qkv.weight) // 3
    return rows(qkv)[start:], None if qkv.bias is None else wide(qkv.bias)[start:]


def _put_value_rows(qkv: Layer, weight: Tensor) -> None:
    put(qkv, "weight", torch.cat([rows(qkv)[: -len(weight)], weight]))


def _put_value_bias(qkv: Layer, bias: Tensor) -> None:
    assert qkv.bias is not None
    put(qkv, "bias", torch.cat([wide(qkv.bias)[: -len(bias)], bias]))
