"""Reductions over axes; without ``axes`` over all."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vggt_edge.runtimes.coreml.interpreter.call import Call, kernel


def _product(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, Callable[[torch.Tensor, list[int], bool], torch.Tensor]] = {
    "reduce_mean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "reduce_max": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "reduce_prod": _product,
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
    "reduce_log_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}


@kernel(*_REDUCTIONS)
def reduce(call: Call) -> torch.Tensor:
    """Reductions to a value, by the operation's name."""
    x = call.tensor("x")
    axes = call.axes("axes", x.dim(), range(x.dim()))
    keep = call.flag("keep_dims", False)
    # Of no axes torch makes all of them.
    return _REDUCTIONS[call.operation.type](x, axes, keep) if axes else x


@kernel("reduce_argmax", "reduce_argmin")
def reduce_arg(call: Call) -> torch.Tensor:
    """Index of the largest or smallest element of an axis."""
    x = call.tensor("x")
    axis, keep = call.axis("axis", x.dim(), -1), call.flag("keep_dims", False)
    call.ignore("output_dtype")
    find = torch.argmax if call.operation.type == "reduce_argmax" else torch.argmin
    return find(x, axis, keepdim=keep).to(torch.int32)
