"""Operations that move, cut, join and repeat elements without computing with them."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F

from vggt_edge.runtimes.coreml.interpreter.call import Call, kernel


@kernel("reshape")
def reshape(call: Call) -> torch.Tensor:
    """0 takes the size of the input's dimension, -1 what is left."""
    x, shape = call.tensor("x"), call.integers("shape")
    if 0 in shape and x.numel() > 0:
        if len(shape) != x.dim():
            raise call.wrong(f"shape {shape} with zeros for an input of rank {x.dim()}", "the same rank")
        shape = [size or own for size, own in zip(shape, x.shape, strict=True)]
    return _reshaped(call, x, shape)


def _reshaped(call: Call, x: torch.Tensor, shape: list[int]) -> torch.Tensor:
    try:
        return x.reshape(shape)
    except RuntimeError:
        raise call.wrong(f"cannot make shape {shape} of {list(x.shape)}", "as many elements") from None


@kernel("transpose")
def transpose(call: Call) -> torch.Tensor:
    """Axes in another order."""
    x = call.tensor("x")
    order = call.axes("perm", x.dim())
    if len(order) != x.dim():
        raise call.wrong(f"perm {order} for a tensor of rank {x.dim()}", "every axis once")
    return x.permute(order)


@kernel("expand_dims")
def expand_dims(call: Call) -> torch.Tensor:
    """New axes of length one."""
    x, axes = call.tensor("x"), call.integers("axes")
    for axis in sorted(call.dimension(axis, x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@kernel("squeeze")
def squeeze(call: Call) -> torch.Tensor:
    """Axes longer than one stay."""
    x = call.tensor("x")
    axes = call.axes("axes", x.dim(), range(x.dim()))
    return x.squeeze(tuple(axes))


@kernel("slice_by_index")
def slice_by_index(call: Call) -> torch.Tensor:
    """numpy's slicing; an axis of ``squeeze_mask`` is indexed at ``begin`` and removed."""
    x = call.tensor("x")
    rank = x.dim()
    begin, end = call.integers("begin"), call.integers("end")
    stride = call.integers("stride", [1] * rank)
    masks = [call.integers(name, [0] * rank) for name in ("begin_mask", "end_mask", "squeeze_mask")]
    if any(len(values) != rank for values in (begin, end, stride, *masks)):
        raise call.wrong(f"a slice of {len(begin)} axes of a tensor of rank {rank}", f"{rank} values each")
    removed = []
    for axis in range(rank):
        if masks[2][axis]:
            x = _indexed(call, x, axis, 0 if masks[0][axis] else begin[axis])
            removed.append(axis)
        else:
            first = None if masks[0][axis] else begin[axis]
            last = None if masks[1][axis] else end[axis]
            x = _sliced(call, x, axis, slice(first, last, stride[axis]))
    return x.squeeze(tuple(removed)) if removed else x


def _indexed(call: Call, x: torch.Tensor, axis: int, index: int) -> torch.Tensor:
    size = x.shape[axis]
    if not -size <= index < size:
        raise call.wrong(f"index {index} of axis {axis}, which has {size}", "an index inside")
    return x.narrow(axis, index % size, 1)


def _sliced(call: Call, x: torch.Tensor, axis: int, cut: slice) -> torch.Tensor:
    if cut.step == 0:
        raise call.wrong("a stride of 0", "other strides")
    start, stop, step = cut.indices(x.shape[axis])
    if step > 0:
        return x[(slice(None),) * axis + (slice(start, max(stop, start), step),)]
    return x.index_select(axis, torch.tensor(range(start, stop, step), dtype=torch.int64))


@kernel("slice_by_size")
def slice_by_size(call: Call) -> torch.Tensor:
    """A box given by its start and its size."""
    x, begin, size = call.tensor("x"), call.integers("begin"), call.integers("size")
    if len(begin) != x.dim() or len(size) != x.dim():
        raise call.wrong(f"begin {begin} and size {size} for a tensor of rank {x.dim()}", f"{x.dim()} values each")
    for axis in range(x.dim()):
        start = begin[axis] + x.shape[axis] if begin[axis] < 0 else begin[axis]
        length = x.shape[axis] - start if size[axis] == -1 else size[axis]
        if start < 0 or length < 0 or start + length > x.shape[axis]:
            raise call.wrong(f"{length} from {start} of axis {axis}, which has {x.shape[axis]}", "a slice inside")
        x = x.narrow(axis, start, length)
    return x


@kernel("split")
def split(call: Call) -> list[torch.Tensor]:
    """Parts of an axis: so many equal ones, or of given sizes."""
    x = call.tensor("x")
    axis = call.axis("axis", x.dim())
    parts = call.integer("num_splits", len(call.declared))
    if call.has("split_sizes"):
        sizes = call.integers("split_sizes")
    elif parts > 0 and x.shape[axis] % parts == 0:
        sizes = [x.shape[axis] // parts] * parts
    else:
        raise call.wrong(f"{x.shape[axis]} cannot be split in {parts}", "equal parts")
    if sum(sizes) != x.shape[axis] or min(sizes, default=0) < 0:
        raise call.wrong(f"split sizes {sizes} of {x.shape[axis]}", "sizes that add up")
    starts = accumulate(sizes, initial=0)
    return [x.narrow(axis, start, size) for start, size in zip(starts, sizes, strict=False)]


@kernel("concat")
def concat(call: Call) -> torch.Tensor:
    """Tensors joined along an axis that they have."""
    values = call.tensors("values")
    axis = call.axis("axis", values[0].dim())
    for first, second in pairwise(values):
        if first.dim() != second.dim() or any(
            first.shape[other] != second.shape[other] for other in range(first.dim()) if other != axis
        ):
            raise call.wrong(f"shapes {[list(value.shape) for value in values]} joined along {axis}", "shapes that fit")
    if call.flag("interleave", False):
        if len({value.shape for value in values}) != 1:
            raise call.wrong("interleaved values of different shapes", "one shape")
        stacked = torch.stack(values, axis + 1)
        return stacked.flatten(axis, axis + 1)
    return torch.cat(values, axis)


@kernel("stack")
def stack(call: Call) -> torch.Tensor:
    """Tensors joined along a new axis."""
    values = call.tensors("values")
    if len({value.shape for value in values}) != 1:
        raise call.wrong(f"shapes {[list(value.shape) for value in values]} stacked", "one shape")
    return torch.stack(values, call.axis("axis", values[0].dim() + 1))


@kernel("tile")
def tile(call: Call) -> torch.Tensor:
    """The tensor repeated along each axis."""
    x, reps = call.tensor("x"), call.integers("reps")
    if len(reps) != x.dim():
        raise call.wrong(f"reps {reps} for a tensor of rank {x.dim()}", "one for each axis")
    call.reserve([size * count for size, count in zip(x.shape, reps, strict=True)])
    return x.repeat(reps) if x.dim() else x


@kernel("reverse")
def reverse(call: Call) -> torch.Tensor:
    """Axes back to front."""
    x = call.tensor("x")
    return x.flip(call.axes("axes", x.dim(), range(x.dim())))


@kernel("flatten2d")
def flatten2d(call: Call) -> torch.Tensor:
    """All axes before ``axis`` as one, and all others as one."""
    x = call.tensor("x")
    axis = call.integer("axis", 1)
    first = math.prod(x.shape[: axis if axis >= 0 else axis + x.dim()])
    return _reshaped(call, x, [first, -1])


@kernel("shape")
def shape(call: Call) -> torch.Tensor:
    """The shape as a tensor."""
    return torch.tensor(call.tensor("x").shape, dtype=torch.int32)


@kernel("reshape_like")
def reshape_like(call: Call) -> torch.Tensor:
    """A new shape put together from the shapes of other tensors."""
    sizes: list[int] = []
    for reference, begin, end, mask in zip(
        call.tensors("ref_tensors"),
        call.tensors("begins"),
        call.tensors("ends"),
        call.tensors("end_masks"),
        strict=True,
    ):
        sizes += reference.shape[int(begin) : None if bool(mask) else int(end)]
    return _reshaped(call, call.tensor("x"), sizes)


@kernel("pad")
def pad(call: Call) -> torch.Tensor:
    """``pad``: before and after, for the last axes."""
    x, amounts = call.tensor("x"), call.integers("pad")
    mode = call.choice("mode", "constant", {"constant", "reflect", "replicate"})
    value = call.number("constant_val", 0.0)
    axes = len(amounts) // 2
    if len(amounts) % 2 or axes > x.dim():
        raise call.wrong(f"pad {amounts} for a tensor of rank {x.dim()}", "two values for each of the last axes")
    for axis, before, after in zip(range(x.dim() - axes, x.dim()), amounts[::2], amounts[1::2], strict=True):
        x = _padded_axis(call, x, axis, before, after, mode, value)
    return x


def _padded_axis(
    call: Call, x: torch.Tensor, axis: int, before: int, after: int, mode: str, value: float
) -> torch.Tensor:
    size = x.shape[axis]
    if before < 0 or after < 0 or (mode == "reflect" and max(before, after) >= size):
        raise call.wrong(f"{mode} padding of {before} and {after} on a length of {size}", "paddings that fit")
    if before == after == 0:
        return x
    call.reserve([length + (before + after if index == axis else 0) for index, length in enumerate(x.shape)])
    if mode == "constant":
        return F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [before, after], value=value)
    where = torch.arange(-before, size + after)
    where = where.clamp(0, size - 1) if mode == "replicate" else (size - 1) - ((size - 1) - where.abs()).abs()
    return x.index_select(axis, where)


@kernel("pixel_shuffle", "depth_to_space")
def pixel_shuffle(call: Call) -> torch.Tensor:
    """``depth_to_space`` puts the block before the channels, ``pixel_shuffle`` after them."""
    x = call.tensor("x")
    if call.operation.type == "pixel_shuffle":
        return F.pixel_shuffle(x, _factor(call, "upscale_factor"))
    block = _factor(call, "block_size")
    n, c, h, w = x.shape
    parts = _reshaped(call, x, [n, block, block, c // (block * block), h, w])
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * block, w * block)


@kernel("pixel_unshuffle", "space_to_depth")
def pixel_unshuffle(call: Call) -> torch.Tensor:
    """Blocks of pixels moved into channels."""
    x = call.tensor("x")
    if call.operation.type == "pixel_unshuffle":
        return F.pixel_unshuffle(x, _factor(call, "downscale_factor"))
    block = _factor(call, "block_size")
    n, c, h, w = x.shape
    parts = _reshaped(call, x, [n, c, h // block, block, w // block, block])
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block * block, h // block, w // block)


def _factor(call: Call, name: str) -> int:
    factor = call.integer(name)
    if factor < 1 or call.tensor("x").dim() != 4:
        raise call.wrong(
            f"{name} {factor} on a tensor of rank {call.tensor('x').dim()}", "rank 4, a factor of 1 or more"
        )
    return factor


@kernel("band_part")
def band_part(call: Call) -> torch.Tensor:
    """The elements near the diagonal; zero elsewhere."""
    x = call.tensor("x")
    lower, upper = call.integer("lower", -1), call.integer("upper", -1)
    x = x.triu(-lower) if lower >= 0 else x
    return x.tril(upper) if upper >= 0 else x
