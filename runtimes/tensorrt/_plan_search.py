"""Which constants a compiled plan holds byte for byte, in one pass over a plan of any size.

Of every constant eight telling bytes, its landmark, are looked for at all multiples of four at once: the compiler was
seen to align constants to that. Where a landmark lies, all bytes are compared. What is not found so is looked for at
every byte, as far as ``EXHAUSTIVE_BYTES`` of reading go.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vggt_edge.runtimes.tensorrt.rules import STORED

# Below this a constant may occur in the plan by chance, or be folded away.
SOUGHT_FROM_BYTES = 4096
EXHAUSTIVE_BYTES = 16 << 30
_CHUNK_BYTES = 64 << 20
_LANDMARK_BYTES = 8
_LANDMARK_WITHIN = 4096
_LAYOUTS = {2: ((1, 0),), 4: ((0, 2, 3, 1),)}

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Form:
    """One layout that a constant may have in the plan. landmark: 8 bytes at ``offset`` of it, as an integer."""

    constant: int
    order: tuple[int, ...] | None
    offset: int
    landmark: int


def quantized_constants(model: Path) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """The constants of 8 and 4 bits that are worth looking for."""
    for value in ir.load(model).graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in STORED or _are_scales(value):
            continue
        if tensor.nbytes >= SOUGHT_FROM_BYTES:
            yield str(value.name), tensor


def _are_scales(value: ir.Value) -> bool:
    """Whether a constant is restored to scale others: the compiler lays such out anew for its kernels."""
    restored = [output for user, _ in value.uses() for output in user.outputs]
    return any(user.op_type == "DequantizeLinear" and index == 1 for one in restored for user, index in one.uses())


def stored_bytes(tensor: ir.TensorProtocol, order: tuple[int, ...] | None) -> bytes:
    """The bytes of a constant, its axes in ``order``; the file that it comes from is closed again."""
    if order is None:
        content = tensor.tobytes()
    else:
        # A copy even where the order changes nothing, since a view would keep the file open.
        content = ir.tensor(tensor.numpy().transpose(order).copy(), dtype=tensor.dtype).tobytes()
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return content


def found_in(plan: Path, tensors: Sequence[ir.TensorProtocol]) -> frozenset[int]:
    """Indices of the constants that the plan holds, in a layout that the compiler was seen to use: as they are,
    transposed (matrices), channels last (convolutions).
    """
    with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _by_landmarks(content, tensors)
        return frozenset(found | _exhaustively(content, tensors, found))


def _by_landmarks(content: mmap.mmap, tensors: Sequence[ir.TensorProtocol]) -> set[int]:
    by_landmark: dict[int, list[Form]] = {}
    for index, tensor in enumerate(tensors):
        for order in (None, *_LAYOUTS.get(len(tensor.shape), ())):
            form = _form(index, order, stored_bytes(tensor, order))
            if form is not None:
                by_landmark.setdefault(form.landmark, []).append(form)
    found: set[int] = set()
    if by_landmark:
        for position, landmark in _occurrences(content, np.array(sorted(by_landmark), np.uint64)):
            for form in by_landmark[landmark]:
                if form.constant not in found and _lies_at(content, position - form.offset, tensors, form):
                    found.add(form.constant)
    return found


def _form(index: int, order: tuple[int, ...] | None, content: bytes) -> Form | None:
    """None for a constant so uniform that its landmark would be everywhere."""
    offsets = range(0, min(len(content), _LANDMARK_WITHIN) - _LANDMARK_BYTES, _LANDMARK_BYTES)
    best = max(offsets, key=lambda offset: len(set(content[offset : offset + _LANDMARK_BYTES])))
    word = content[best : best + _LANDMARK_BYTES]
    return Form(index, order, best, int.from_bytes(word, "little")) if len(set(word)) > _LANDMARK_BYTES // 2 else None


def _occurrences(content: mmap.mmap, landmarks: Words) -> Iterator[tuple[int, int]]:
    """(position, landmark) wherever one lies at a multiple of four."""
    likely = np.zeros(1 << 16, bool)
    likely[(landmarks & np.uint64(0xFFFF)).astype(np.uint16)] = True
    for start in range(0, len(content), _CHUNK_BYTES):
        # Chunks overlap by one word, for a landmark that lies across their border.
        chunk = content[start : start + _CHUNK_BYTES + 4]
        halves = np.frombuffer(chunk[: len(chunk) // 4 * 4], np.dtype("<u4"))
        places = np.flatnonzero(likely[halves[:-1].astype(np.uint16)])
        words = halves[places].astype(np.uint64) | halves[places + 1].astype(np.uint64) << np.uint64(32)
        hits = np.isin(words, landmarks)
        yield from zip((start + places[hits] * 4).tolist(), words[hits].tolist(), strict=True)
        give_back(content)


def _lies_at(content: mmap.mmap, position: int, tensors: Sequence[ir.TensorProtocol], form: Form) -> bool:
    if position < 0:
        return False
    wanted = stored_bytes(tensors[form.constant], form.order)
    return content[position : position + len(wanted)] == wanted


def _exhaustively(content: mmap.mmap, tensors: Sequence[ir.TensorProtocol], found: set[int]) -> set[int]:
    more: set[int] = set()
    budget = EXHAUSTIVE_BYTES
    for index, tensor in enumerate(tensors):
        orders = (None, *_LAYOUTS.get(len(tensor.shape), ()))
        budget -= 0 if index in found else len(content) * len(orders)
        if budget < 0:
            break
        if index not in found and any(content.find(stored_bytes(tensor, order)) >= 0 for order in orders):
            more.add(index)
        give_back(content)
    return more


def give_back(content: mmap.mmap) -> None:
    """Let the pages of a mapped file go, where the system knows how; reading them again brings them back."""
    if hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED)


def search_plan(plan: Path, model: Path) -> tuple[dict[str, Any], list[str]]:
    """(figures, names of the constants that were not found).

    weights_packed is "yes" if all of them were found, or if the plan is too small to hold the others in FP16;
    otherwise "unknown".
    """
    constants = list(quantized_constants(model))
    found = found_in(plan, [tensor for _, tensor in constants]) if constants else frozenset()
    missing = [constant for index, constant in enumerate(constants) if index not in found]
    wider = sum(2 * tensor.size - tensor.nbytes for _, tensor in missing)
    least_unpacked = sum(tensor.nbytes for _, tensor in constants) + wider
    packed = "yes" if not missing or plan.stat().st_size < least_unpacked else "unknown"
    figures = {
        "constants_sought": len(constants),
        "constants_found": len(found),
        "weights_packed": packed if constants else "nothing to pack",
    }
    return figures, [name for name, _ in missing]
