"""Layers: products with weights, attention, normalisations, convolutions and pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from vggt_edge.runtimes.coreml.interpreter.call import Call, kernel

_CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@kernel("linear")
def linear(call: Call) -> torch.Tensor:
    """``x @ weight.T + bias``; weight (outputs, inputs)."""
    x, weight, bias = call.floats("x"), call.floats("weight"), call.optional("bias")
    if x.dim() < 1 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        raise call.wrong(f"x {list(x.shape)} with weight {list(weight.shape)}", "(outputs, inputs) of x's last axis")
    call.reserve([*x.shape[:-1], weight.shape[0]])
    return F.linear(x, weight, None if bias is None else bias.expand(weight.shape[0]))


@kernel("matmul")
def matmul(call: Call) -> torch.Tensor:
    """Batched matrix product, either operand transposed on request."""
    x, y = call.floats("x"), call.floats("y")
    x = x.transpose(-1, -2) if call.flag("transpose_x", False) else x
    y = y.transpose(-1, -2) if call.flag("transpose_y", False) else y
    inner = y.shape[-2] if y.dim() > 1 else y.shape[0]
    if x.shape[-1] != inner:
        raise call.wrong(f"x {list(x.shape)} times y {list(y.shape)}", "shapes that fit")
    call.reserve([*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), *x.shape[-2:-1], *y.shape[1:][-1:]])
    return torch.matmul(x, y)


@kernel("einsum")
def einsum(call: Call) -> torch.Tensor:
    """Sum of products in Einstein's notation."""
    equation, values = call.text("equation").replace(" ", ""), call.tensors("values")
    terms, arrow, result = equation.partition("->")
    sizes = {
        letter: size
        for term, value in zip(terms.split(","), values, strict=True)
        for letter, size in zip(term, value.shape, strict=True)
    }
    if not arrow or not set(result) <= set(sizes):
        raise call.lacks(f"equation {equation!r}", "one with -> and plain letters")
    call.reserve([sizes[letter] for letter in result])
    try:
        return torch.einsum(equation, *values)
    except RuntimeError as error:
        raise call.wrong(f"equation {equation!r}: {error}", "an equation that fits the values") from error


@kernel("scaled_dot_product_attention")
def attention(call: Call) -> torch.Tensor:
    """softmax(q @ k.T / sqrt(E) + mask) @ v, in FP32 from end to end. A boolean mask keeps where it is true."""
    query, key, value = call.floats("query"), call.floats("key"), call.floats("value")
    fits = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.shape[-1] == key.shape[-1]
    if query.dim() < 3 or not fits or key.shape[-2] != value.shape[-2]:
        shapes = " ".join(str(list(tensor.shape)) for tensor in (query, key, value))
        raise call.wrong(f"attention on {shapes}", "query (B, L, E), key (B, S, E), value (B, S, V), B the same")
    return F.scaled_dot_product_attention(query, key, value, attn_mask=call.optional("attn_mask"))


@kernel("softmax")
def softmax(call: Call) -> torch.Tensor:
    """Softmax along an axis."""
    x = call.floats("x")
    return torch.softmax(x, call.axis("axis", x.dim(), -1))


@kernel("layer_norm")
def layer_norm(call: Call) -> torch.Tensor:
    """Normalisation over axes, with optional gain and bias."""
    x = call.floats("x")
    axes = sorted(call.axes("axes", x.dim(), range(x.dim())))
    gamma, beta = call.optional("gamma"), call.optional("beta")
    epsilon = call.number("epsilon", 1e-5)
    if axes == list(range(x.dim() - len(axes), x.dim())):
        return F.layer_norm(x, x.shape[x.dim() - len(axes) :], gamma, beta, epsilon)
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.dim())]
    normal = (x - mean) * torch.rsqrt(variance + epsilon)
    normal = normal if gamma is None else normal * gamma.reshape(shape)
    return normal if beta is None else normal + beta.reshape(shape)


@kernel("batch_norm")
def batch_norm(call: Call) -> torch.Tensor:
    """Normalisation by stored mean and variance."""
    return F.batch_norm(
        call.floats("x"),
        call.floats("mean"),
        call.floats("variance"),
        call.optional("gamma"),
        call.optional("beta"),
        eps=call.number("epsilon", 1e-5),
    )


@kernel("instance_norm")
def instance_norm(call: Call) -> torch.Tensor:
    """Normalisation of each channel of each instance."""
    gamma, beta = call.optional("gamma"), call.optional("beta")
    return F.instance_norm(call.floats("x"), weight=gamma, bias=beta, eps=call.number("epsilon", 1e-5))


@kernel("l2_norm")
def l2_norm(call: Call) -> torch.Tensor:
    """Over the last three axes."""
    x = call.floats("x")
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + call.number("epsilon", 1e-6))


@kernel("conv")
def conv(call: Call) -> torch.Tensor:
    """Weight (outputs, inputs / groups, kernel); 1 to 3 spatial axes."""
    x, weight, bias = call.floats("x"), call.floats("weight"), call.optional("bias")
    axes = x.dim() - 2
    groups = call.integer("groups", 1)
    fits = axes in _CONVOLUTIONS and weight.dim() == x.dim() and groups > 0 and x.shape[1] == weight.shape[1] * groups
    if not fits or weight.shape[0] % groups:
        raise call.wrong(f"x {list(x.shape)}, weight {list(weight.shape)}, {groups} groups", "shapes that fit")
    strides, dilations = _steps(call, "strides", axes), _steps(call, "dilations", axes)
    spans = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    x = _padded(call, x, _paddings(call, x, spans, strides), 0.0)
    if any(size < span for size, span in zip(x.shape[2:], spans, strict=True)):
        raise call.wrong(f"a kernel of {spans} on {list(x.shape[2:])}", "an input of at least its size")
    grown = [(size - span) // step + 1 for size, span, step in zip(x.shape[2:], spans, strides, strict=True)]
    call.reserve([x.shape[0], weight.shape[0], *grown])
    return _CONVOLUTIONS[axes](x, weight, bias, stride=strides, dilation=dilations, groups=groups)


@kernel("conv_transpose")
def conv_transpose(call: Call) -> torch.Tensor:
    """Weight (inputs, outputs / groups, kernel). The full result, cut by ``pad`` and filled up to ``output_shape``."""
    x, weight, bias = call.floats("x"), call.floats("weight"), call.optional("bias")
    axes, groups = x.dim() - 2, call.integer("groups", 1)
    fits = axes in _TRANSPOSED and weight.dim() == x.dim() and groups > 0 and x.shape[1] == weight.shape[0]
    if not fits or x.shape[1] % groups:
        raise call.wrong(f"x {list(x.shape)}, weight {list(weight.shape)}, {groups} groups", "shapes that fit")
    strides, dilations = _steps(call, "strides", axes), _steps(call, "dilations", axes)
    mode = call.choice("pad_type", "valid", {"valid", "custom"})
    pads = call.integers("pad", [0] * 2 * axes) if mode == "custom" else [0] * 2 * axes
    call.ignore("pad")
    full = [
        (size - 1) * step + (extent - 1) * dilation + 1
        for size, step, extent, dilation in zip(x.shape[2:], strides, weight.shape[2:], dilations, strict=True)
    ]
    kept = [size - before - after for size, before, after in zip(full, pads[::2], pads[1::2], strict=True)]
    if call.has("output_shape"):
        kept = call.integers("output_shape")[-axes:]
    call.reserve([x.shape[0], weight.shape[1] * groups, *full])
    call.reserve([x.shape[0], weight.shape[1] * groups, *kept])
    result = _TRANSPOSED[axes](x, weight, stride=strides, dilation=dilations, groups=groups)
    for axis, (before, size) in enumerate(zip(pads[::2], kept, strict=True)):
        missing = before + size - result.shape[axis + 2]
        if missing > 0:
            result = F.pad(result, [0, 0] * (axes - 1 - axis) + [0, missing])
        result = result.narrow(axis + 2, before, size)
    return result if bias is None else result + bias.reshape([-1] + [1] * axes)


@kernel("max_pool", "avg_pool")
def pool(call: Call) -> torch.Tensor:
    """Average, largest or L2 value of each window."""
    x = call.floats("x")
    axes = x.dim() - 2
    sizes = call.integers("kernel_sizes")
    strides = _steps(call, "strides", axes)
    if axes not in _CONVOLUTIONS or len(sizes) != axes or min(sizes) < 1:
        raise call.wrong(f"kernel sizes {sizes} on a tensor of rank {x.dim()}", "one for each spatial axis")
    pads = _paddings(call, x, sizes, strides)
    if call.flag("ceil_mode", False):
        raise call.lacks("pools with ceil_mode", "ceil_mode false")
    if call.operation.type == "max_pool":
        return _windows(_padded(call, x, pads, -torch.inf), sizes, strides).amax(-1)
    total = _windows(_padded(call, x, pads, 0.0), sizes, strides).sum(-1)
    if not call.flag("exclude_padding_from_average", False):
        return total / float(torch.tensor(sizes).prod())
    return total / _windows(_padded(call, torch.ones_like(x), pads, 0.0), sizes, strides).sum(-1)


def _windows(x: torch.Tensor, sizes: Sequence[int], strides: Sequence[int]) -> torch.Tensor:
    """(n, c, *positions, elements of a window)."""
    for axis, (size, step) in enumerate(zip(sizes, strides, strict=True)):
        x = x.unfold(axis + 2, size, step)
    return x.flatten(2 + len(sizes))


def _steps(call: Call, name: str, axes: int) -> list[int]:
    steps = call.integers(name, [1] * axes)
    if len(steps) != axes or min(steps, default=1) < 1:
        raise call.wrong(f"{name} {steps} for {axes} spatial axes", "one of 1 or more for each")
    return steps


def _paddings(call: Call, x: torch.Tensor, spans: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Before and after for each spatial axis. ``same`` keeps ceil(size / stride), the odd one at the end."""
    axes = x.dim() - 2
    mode = call.choice("pad_type", "valid", {"valid", "custom", "same", "same_lower"})
    pads = call.integers("pad", [0] * 2 * axes)
    if mode == "valid":
        return [0] * 2 * axes
    if mode == "custom":
        if len(pads) != 2 * axes or min(pads) < 0:
            raise call.wrong(f"pad {pads} for {axes} spatial axes", "two of 0 or more for each")
        return pads
    result = []
    for size, span, step in zip(x.shape[2:], spans, strides, strict=True):
        total = max((-(-size // step) - 1) * step + span - size, 0)
        small = total // 2
        result += [small, total - small] if mode == "same" else [total - small, small]
    return result


def _padded(call: Call, x: torch.Tensor, pads: Sequence[int], value: float) -> torch.Tensor:
    if not any(pads):
        return x
    grown = [size + before + after for size, before, after in zip(x.shape[2:], pads[::2], pads[1::2], strict=True)]
    call.reserve([*x.shape[:2], *grown])
    # torch wants the last axis first.
    pairs = [pads[2 * axis : 2 * axis + 2] for axis in reversed(range(len(grown)))]
    return F.pad(x, [amount for pair in pairs for amount in pair], value=value)
