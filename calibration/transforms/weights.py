"""Reading and replacing the weights of layers, in float64 whatever they are stored in."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

Layer: TypeAlias = nn.Linear | nn.Conv2d


def layer_at(module: nn.Module, path: str) -> Layer:
    """The linear or convolution at a path inside a module."""
    layer = module.get_submodule(path)
    assert isinstance(layer, Layer), f"{path} is {type(layer).__name__}, no linear or convolution"
    return layer


def norm_at(module: nn.Module, path: str) -> nn.LayerNorm:
    """The LayerNorm at a path inside a module."""
    norm = module.get_submodule(path)
    assert isinstance(norm, nn.LayerNorm), f"{path} is {type(norm).__name__}, no LayerNorm"
    return norm


def wide(tensor: Tensor) -> Tensor:
    """A float64 tensor; of one that is float64 already itself, so never written to."""
    return tensor.detach().double()


def put(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter, in the dtype of the old one. What was mapped from a file is not written to."""
    old = module.get_parameter(name)
    owner = module.get_submodule(name.rpartition(".")[0])
    stored = value.reshape(old.shape).to(old.dtype).contiguous()
    setattr(owner, name.rpartition(".")[2], nn.Parameter(stored, requires_grad=old.requires_grad))


def rows(layer: Layer) -> Tensor:
    """(out, all inputs of one output)."""
    return wide(layer.weight).flatten(1)


def columns(layer: Layer) -> Tensor:
    """(out, in) of a linear or a 1x1 convolution; ``ValueError`` for one that sees more than one place at once."""
    if isinstance(layer, nn.Conv2d) and (layer.kernel_size != (1, 1) or layer.groups != 1 or layer.padding != (0, 0)):
        raise ValueError(f"a convolution of {layer.kernel_size} with padding {layer.padding} does not read one vector")
    return rows(layer)


def shift_bias(layer: Layer, by: Tensor) -> None:
    """``by``: (out,). ``ValueError`` for a layer without bias, unless there is nothing to add."""
    if layer.bias is not None:
        put(layer, "bias", wide(layer.bias) + by)
    elif bool(by.any()):
        raise ValueError("a layer without bias cannot take up an offset of its input")


def scale_rows(layer: Layer, by: Tensor) -> None:
    """Multiply each output channel, ``by`` (out,)."""
    put(layer, "weight", rows(layer) * by[:, None])
    if layer.bias is not None:
        put(layer, "bias", wide(layer.bias) * by)


def mix_rows(layer: Layer, by: Tensor) -> None:
    """``by`` (out, out) times the vector of output channels."""
    put(layer, "weight", by @ rows(layer))
    if layer.bias is not None:
        put(layer, "bias", by @ wide(layer.bias))


def is_trivial(norm: nn.LayerNorm) -> bool:
    """Whether nothing is left of its affine."""
    return bool(torch.all(norm.weight == 1)) and not bool(norm.bias.any())
