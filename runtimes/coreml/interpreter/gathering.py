"""Operations that pick elements by index, or write them by index."""

from __future__ import annotations

import math

import torch

from vggt_edge.runtimes.coreml.interpreter.call import Call, kernel


def _checked(call: Call, indices: torch.Tensor, size: int) -> torch.Tensor:
    """int64 indices from 0; negative ones count from the end, as iOS 16 has it.

    Outside the range the device's result is undefined, so that a program which reads there is broken.
    """
    if indices.is_floating_point():
        raise call.wrong(f"indices of {indices.dtype}", "integers")
    indices = indices.to(torch.int64)
    if indices.numel() and not bool(((indices >= -size) & (indices < size)).all()):
        low, high = int(indices.min()), int(indices.max())
        raise call.wrong(f"indices from {low} to {high} of an axis of {size}", "indices inside it")
    return torch.where(indices < 0, indices + size, indices)


@kernel("gather")
def gather(call: Call) -> torch.Tensor:
    """numpy's ``take`` along ``axis``, for each of the ``batch_dims`` leading axes on its own."""
    x = call.tensor("x")
    axis, batch = call.axis("axis", x.dim(), 0), call.integer("batch_dims", 0)
    indices = _checked(call, call.tensor("indices"), x.shape[axis])
    call.ignore("validate_indices")
    if not 0 <= batch <= axis or x.shape[:batch] != indices.shape[:batch]:
        raise call.wrong(f"batch_dims {batch} with axis {axis}", "leading axes of both, before the axis")
    lead, inner = list(x.shape[:batch]), list(indices.shape[batch:])
    call.reserve([*x.shape[:axis], *inner, *x.shape[axis + 1 :]])
    if not batch:
        picked = x.index_select(axis, indices.reshape(-1))
        return picked.reshape([*x.shape[:axis], *inner, *x.shape[axis + 1 :]])
    flat_x = x.reshape([math.prod(lead), *x.shape[batch:]])
    flat = indices.reshape(math.prod(lead), -1)
    rows = [row.index_select(axis - batch, index) for row, index in zip(flat_x, flat, strict=True)]
    return torch.stack(rows).reshape([*x.shape[:axis], *inner, *x.shape[axis + 1 :]])


@kernel("gather_along_axis")
def gather_along_axis(call: Call) -> torch.Tensor:
    """Elements picked by an index tensor of the same rank."""
    x = call.tensor("x")
    axis = call.axis("axis", x.dim(), 0)
    call.ignore("validate_indices")
    indices = _checked(call, call.tensor("indices"), x.shape[axis])
    if indices.dim() != x.dim():
        raise call.wrong(f"indices of rank {indices.dim()} for a tensor of rank {x.dim()}", "the same rank")
    return torch.gather(x, axis, indices)


@kernel("gather_nd")
def gather_nd(call: Call) -> torch.Tensor:
    """Slices picked by index vectors."""
    x, indices = call.tensor("x"), call.tensor("indices")
    call.ignore("validate_indices")
    if call.integer("batch_dims", 0):
        raise call.lacks("gather_nd with batch_dims", "batch_dims 0")
    depth = indices.shape[-1]
    if depth > x.dim():
        raise call.wrong(f"indices of {depth} axes of a tensor of rank {x.dim()}", "fewer")
    places = tuple(_checked(call, indices[..., axis], x.shape[axis]) for axis in range(depth))
    return x[places]


@kernel("scatter_nd")
def scatter_nd(call: Call) -> torch.Tensor:
    """Slices added or written at index vectors."""
    data, indices, updates = call.tensor("data"), call.tensor("indices"), call.tensor("updates")
    mode = call.choice("mode", "add", {"add", "update"})
    call.ignore("validate_indices")
    places = tuple(_checked(call, indices[..., axis], data.shape[axis]) for axis in range(indices.shape[-1]))
    return data.clone().index_put_(places, updates, accumulate=mode == "add")


@kernel("scatter_along_axis")
def scatter_along_axis(call: Call) -> torch.Tensor:
    """Elements added or written by an index tensor of the same rank."""
    data, updates = call.tensor("data"), call.tensor("updates")
    axis, mode = call.axis("axis", data.dim(), 0), call.choice("mode", "add", {"add", "update"})
    call.ignore("validate_indices")
    indices = _checked(call, call.tensor("indices"), data.shape[axis])
    if mode == "add":
        return data.scatter_add(axis, indices, updates)
    return data.scatter(axis, indices, updates)


@kernel("slice_update")
def slice_update(call: Call) -> torch.Tensor:
    """Writes ``update`` over a slice of ``x``."""
    x, update = call.tensor("x"), call.tensor("update")
    rank = x.dim()
    begin, end = call.integers("begin"), call.integers("end")
    stride = call.integers("stride", [1] * rank)
    starts, ends = call.integers("begin_mask", [0] * rank), call.integers("end_mask", [0] * rank)
    if any(call.integers("squeeze_mask", [0] * rank)) or min(stride, default=1) < 1:
        raise call.lacks("slice_update with squeeze_mask or negative strides", "plain slices")
    cut = tuple(
        slice(None if starts[axis] else begin[axis], None if ends[axis] else end[axis], stride[axis])
        for axis in range(rank)
    )
    result = x.clone()
    result[cut] = update
    return result


@kernel("one_hot")
def one_hot(call: Call) -> torch.Tensor:
    """One value at the index of a new axis, another elsewhere."""
    indices, size = call.tensor("indices"), call.integer("one_hot_vector_size")
    axis = call.axis("axis", indices.dim() + 1, -1)
    on, off = call.optional("on_value"), call.optional("off_value")
    call.reserve([*indices.shape, size])
    hot = indices.unsqueeze(axis) == torch.arange(size).reshape([-1] + [1] * (indices.dim() - axis))
    one, zero = torch.tensor(1, dtype=torch.int32), torch.tensor(0, dtype=torch.int32)
    return torch.where(hot, one if on is None else on, zero if off is None else off)


@kernel("argsort")
def argsort(call: Call) -> torch.Tensor:
    """The order that sorts an axis; equal elements keep theirs."""
    x = call.tensor("x")
    axis, ascending = call.axis("axis", x.dim(), -1), call.flag("ascending", False)
    order = torch.argsort(x, stable=True, dim=axis, descending=not ascending)
    return order.to(torch.int32)


@kernel("topk")
def topk(call: Call) -> list[torch.Tensor]:
    """The largest or smallest elements of an axis, and their indices."""
    x, count = call.tensor("x"), call.integer("k", 1)
    axis, smallest = call.axis("axis", x.dim(), -1), call.flag("ascending", False)
    call.flag("sort", True)
    call.ignore("output_indices_dtype")
    if not call.flag("return_indices", True):
        return [torch.topk(x, count, axis, largest=not smallest).values]
    values, indices = torch.topk(x, count, axis, largest=not smallest)
    return [values, indices.to(torch.int32)]
