"""Operations that treat every element alone, and activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from vggt_edge.runtimes.coreml.interpreter.call import Call, kernel
from vggt_edge.runtimes.coreml.interpreter.numbers import torch_type
from vggt_edge.runtimes.coreml.mil import NUMPY_TYPES

_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": lambda x: x,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "relu6": F.relu6,
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "softsign": F.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.div,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}
_INTEGER_DIVISION = frozenset({"real_div", "floor_div", "mod"})
# Added to the argument where the program gives none (defaults of the operation, coremltools 9).
_LOG_EPSILON, _RSQRT_EPSILON, _INVERSE_EPSILON = 1e-45, 1e-12, 1e-4


@kernel(*_UNARY)
def unary(call: Call) -> torch.Tensor:
    """Functions of one operand, by the operation's name."""
    return _UNARY[call.operation.type](call.tensor("x"))


@kernel(*_BINARY)
def binary(call: Call) -> torch.Tensor:
    """Arithmetic and comparisons of two operands, by the operation's name."""
    x, y = call.tensor("x"), call.tensor("y")
    name = call.operation.type
    if x.is_floating_point() != y.is_floating_point():
        raise call.wrong(f"x is {x.dtype} and y is {y.dtype}", "two of a kind")
    if not x.is_floating_point() and name == "real_div":
        raise call.lacks("a division of integers by real_div", "floats")
    if not x.is_floating_point() and name in _INTEGER_DIVISION and not bool(torch.all(y != 0)):
        raise call.wrong("an integer division by zero", "divisors other than zero")
    call.reserve(_broadcast(call, x, y))
    return _BINARY[name](x, y)


def _broadcast(call: Call, *values: torch.Tensor) -> list[int]:
    try:
        return list(np.broadcast_shapes(*(value.shape for value in values)))
    except ValueError:
        shapes = " and ".join(str(list(value.shape)) for value in values)
        raise call.wrong(f"shapes {shapes} cannot be broadcast", "shapes that fit") from None


@kernel("select")
def select(call: Call) -> torch.Tensor:
    """``a`` where the condition holds, else ``b``."""
    condition, a, b = call.tensor("cond"), call.tensor("a"), call.tensor("b")
    call.reserve(_broadcast(call, condition, a, b))
    return torch.where(condition != 0, a, b)


@kernel("cast")
def cast(call: Call) -> torch.Tensor:
    """Between floats a no-op: the border of the operation rounds. Floats to integers: cut, held in the range."""
    x, dtype = call.tensor("x"), call.text("dtype")
    if dtype not in NUMPY_TYPES or dtype == "string":
        raise call.lacks(f"dtype {dtype!r}", "a number type")
    if dtype != call.declared[0].dtype:
        raise call.wrong(f"casts to {dtype} and declares {call.declared[0].dtype}", "one type")
    target = torch_type(dtype)
    if target is torch.bool:
        return x != 0
    if x.is_floating_point() and target is not torch.float32:
        limits = torch.iinfo(target)
        x = torch.nan_to_num(x, nan=0.0).to(torch.float64).clamp(limits.min, limits.max).trunc()
    return x.to(target)


@kernel("clip")
def clip(call: Call) -> torch.Tensor:
    """Values limited to [alpha, beta]."""
    return call.tensor("x").clamp(call.number("alpha"), call.number("beta"))


@kernel("log")
def log(call: Call) -> torch.Tensor:
    """Logarithm of x + epsilon."""
    return torch.log(call.floats("x") + call.number("epsilon", _LOG_EPSILON))


@kernel("rsqrt")
def rsqrt(call: Call) -> torch.Tensor:
    """One over the square root of x + epsilon."""
    return torch.rsqrt(call.floats("x") + call.number("epsilon", _RSQRT_EPSILON))


@kernel("inverse")
def inverse(call: Call) -> torch.Tensor:
    """One over x + epsilon."""
    return torch.reciprocal(call.floats("x") + call.number("epsilon", _INVERSE_EPSILON))


@kernel("threshold")
def threshold(call: Call) -> torch.Tensor:
    """Values not below alpha."""
    return call.tensor("x").clamp(min=call.number("alpha"))


@kernel("gelu")
def gelu(call: Call) -> torch.Tensor:
    """GELU, exact or by one of its two approximations."""
    x = call.floats("x")
    mode = call.choice("mode", "EXACT", {"EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"})
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


@kernel("leaky_relu")
def leaky_relu(call: Call) -> torch.Tensor:
    """Leaky ReLU with slope alpha below zero."""
    return F.leaky_relu(call.floats("x"), call.number("alpha"))


@kernel("elu")
def elu(call: Call) -> torch.Tensor:
    """Exponential linear unit."""
    return F.elu(call.floats("x"), call.number("alpha"))


@kernel("prelu")
def prelu(call: Call) -> torch.Tensor:
    """Leaky ReLU with one slope per channel."""
    return F.prelu(call.floats("x"), call.floats("alpha"))


@kernel("thresholded_relu")
def thresholded_relu(call: Call) -> torch.Tensor:
    """x where it is at least alpha, else zero."""
    x = call.floats("x")
    return torch.where(x >= call.number("alpha"), x, torch.zeros_like(x))


@kernel("clamped_relu")
def clamped_relu(call: Call) -> torch.Tensor:
    """Leaky ReLU, not above beta."""
    return F.leaky_relu(call.floats("x"), call.number("alpha")).clamp(max=call.number("beta"))


@kernel("linear_activation")
def linear_activation(call: Call) -> torch.Tensor:
    """alpha * x + beta."""
    return call.floats("x") * call.number("alpha") + call.number("beta")


@kernel("scaled_tanh")
def scaled_tanh(call: Call) -> torch.Tensor:
    """alpha * tanh(beta * x)."""
    return call.number("alpha") * torch.tanh(call.floats("x") * call.number("beta"))


@kernel("sigmoid_hard")
def sigmoid_hard(call: Call) -> torch.Tensor:
    """alpha * x + beta, limited to [0, 1]."""
    return (call.floats("x") * call.number("alpha") + call.number("beta")).clamp(0.0, 1.0)


@kernel("cumsum")
def cumsum(call: Call) -> torch.Tensor:
    """Cumulative sum along an axis, forward or backward, with or without the element itself."""
    x = call.tensor("x")
    axis = call.axis("axis", x.dim(), 0)
    reverse, exclusive = call.flag("reverse", False), call.flag("exclusive", False)
    x = x.flip(axis) if reverse else x
    total = torch.cumsum(x, axis) - (x if exclusive else 0)
    return total.flip(axis) if reverse else total


@kernel("fill")
def fill(call: Call) -> torch.Tensor:
    """A tensor of one value."""
    value = call.optional("value")
    shape = call.reserve(call.integers("shape"))
    return torch.zeros(shape) if value is None else value.reshape(()).expand(shape).clone()


@kernel("range_1d")
def range_1d(call: Call) -> torch.Tensor:
    """Numbers from start to end in equal steps."""
    start, end, step = call.tensor("start"), call.tensor("end"), call.tensor("step")
    if float(step) == 0 or not math.isfinite(float(end - start) / float(step)):
        raise call.wrong(f"a range from {start} to {end} in steps of {step}", "finite steps other than zero")
    count = max(0, math.ceil((float(end) - float(start)) / float(step)))
    call.reserve([count])
    return start + step * torch.arange(count, dtype=start.dtype)
